"""Bring your own model: what sentence-transformers and Hugging Face say of it is honoured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hybridret.data import Dataset, Document, Query, StreamedDocuments  # noqa: E402
from hybridret.encoder.loading import load_encoder  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.errors import DataError, ModelError  # noqa: E402
from hybridret.evaluation.judging import embed, evaluate  # noqa: E402

SAMPLE = [TEXTS[0], "short", "", TEXTS[3], "a " * 200]


def test_a_plain_hugging_face_folder(bert_folder):
    encoder = TorchEncoder.load(bert_folder)
    assert (encoder.model.pooling, encoder.model.normalize) == ("mean", False)
    assert encoder.config.max_length == 64
    vectors = encoder.encode_documents(SAMPLE)
    model = transformers.AutoModel.from_pretrained(bert_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    for text, vector in zip(SAMPLE, vectors, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            expected = model(**tokens)[0][0].mean(0).numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("folder", ["bert_folder", "xlmr_folder"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_against_sentence_transformers(folder, pooling, request, tmp_path):
    """The same folder, saved by sentence-transformers, gives the same vectors here."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules as models

    transformer = models.Transformer(str(request.getfixturevalue(folder)), max_seq_length=48)
    reference = st.SentenceTransformer(
        modules=[
            transformer,
            models.Pooling(32, pooling),
            models.Dense(32, 16),
            models.Normalize(),
        ],
        prompts={"query": "query: ", "passage": "passage: "},
        device="cpu",
    )
    reference.save_pretrained(str(tmp_path / "model"))
    encoder = TorchEncoder.load(tmp_path / "model")
    assert encoder.model.pooling == pooling
    assert encoder.config.max_length == 48
    assert (encoder.config.query_prompt, encoder.config.document_prompt) == ("query: ", "passage: ")
    for mine, prompt in ((encoder.encode_queries, "query"), (encoder.encode_documents, "passage")):
        expected = reference.encode(SAMPLE, prompt_name=prompt)
        np.testing.assert_allclose(mine(SAMPLE), expected, atol=1e-5)


def test_sentence_transformers_opens_what_we_save(xlmr_folder, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    encoder = TorchEncoder.load(
        xlmr_folder, pooling="cls", normalize=True, query_prompt="Query: ", max_length=40
    )
    encoder.save(tmp_path)
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(
        theirs.encode(SAMPLE, prompt_name="query"), encoder.encode_queries(SAMPLE), atol=1e-5
    )
    again = TorchEncoder.load(tmp_path)
    assert again.config == encoder.config
    np.testing.assert_allclose(
        again.encode_documents(SAMPLE), encoder.encode_documents(SAMPLE), atol=1e-6
    )


def test_static_embeddings_both_ways(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    encoder.save(tmp_path)
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    sample = [text for text in SAMPLE if text]
    np.testing.assert_allclose(theirs.encode(sample), encoder.encode_documents(sample), atol=1e-5)
    again = TorchEncoder.load(tmp_path)
    assert again.config == encoder.config
    np.testing.assert_array_equal(again.encode_queries(SAMPLE), encoder.encode_queries(SAMPLE))


def test_the_two_static_paths_agree():
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    ids, mask = map(torch.from_numpy, encoder.tokenizer(SAMPLE))
    model = encoder.model
    torch.testing.assert_close(model(ids, mask), model.pool(model.tokens(ids, mask), mask))


def test_padding_and_order_do_not_matter(bert_folder):
    encoder = TorchEncoder.load(bert_folder)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        encoder.encode_queries(SAMPLE, batch_size=-3)
    together = encoder.encode_documents(SAMPLE, batch_size=5)
    alone = np.concatenate([encoder.encode_documents([text]) for text in SAMPLE])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_positions_are_never_overrun(xlmr_folder):
    """RoBERTa's table begins after the padding id: 66 positions hold 64 tokens."""
    encoder = TorchEncoder.load(xlmr_folder, max_length=1000)
    assert encoder.config.max_length == 64
    assert np.isfinite(encoder.encode_documents(["word " * 500])).all()


def test_lower_casing_asked_for_by_the_model(bert_folder, tmp_path):
    folder = tmp_path / "m"
    TorchEncoder.load(bert_folder).save(folder_made(folder))
    (folder / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 32, "do_lower_case": true}'
    )
    encoder = TorchEncoder.load(folder)
    np.testing.assert_array_equal(*encoder.encode_queries(["THE CAPITAL", "the capital"]))
    assert encoder.config.max_length == 32


def folder_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_folder_without_a_tokenizer(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        TorchEncoder.load(tmp_path / "m")


def test_damaged_model_folders(bert_folder, tmp_path):
    def broken(name: str, file: str, content: bytes | None) -> Path:
        folder = tmp_path / name
        shutil.copytree(bert_folder, folder)
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        return folder

    weights = (bert_folder / "model.safetensors").read_bytes()
    cases = {
        "no config": broken("a", "config.json", None),
        "half config": broken("b", "config.json", b'{"model_type": "be'),
        "no weights": broken("c", "model.safetensors", None),
        "half weights": broken("d", "model.safetensors", weights[: len(weights) // 2]),
        "half tokenizer": broken("e", "tokenizer.json", b'{"version": "1.0", '),
    }
    for name, folder in cases.items():
        with pytest.raises(ModelError) as caught:
            TorchEncoder.load(folder)
        assert str(folder) in str(caught.value), name
        assert len(str(caught.value)) > len(str(folder)) + 10, name


def test_pickled_weights_are_not_loaded(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        TorchEncoder.load(tmp_path / "m")


def test_weights_that_lack_tensors(bert_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(bert_folder, tmp_path / "m")
    tensors = load_file(bert_folder / "model.safetensors")
    tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors are missing in the weights"):
        TorchEncoder.load(tmp_path / "m")


def test_unknown_parts_are_named(bert_folder, tmp_path):
    folder = tmp_path / "m"
    TorchEncoder.load(bert_folder).save(folder_made(folder))
    modules = json.loads((folder / "modules.json").read_text())
    modules.append(
        {"idx": 9, "name": "9", "path": "9_CNN", "type": "sentence_transformers.models.CNN"}
    )
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ModelError, match="unsupported modules: Transformer, Pooling, CNN; supported"
    ):
        TorchEncoder.load(folder)
    modules[-1]["type"] = "sentence_transformers.models.Normalize"
    modules[1:] = modules[:0:-1]  # normalised before it is pooled
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ModelError, match="unsupported modules: Transformer, Normalize, Pooling; supported"
    ):
        TorchEncoder.load(folder)
    (folder / "modules.json").write_text(json.dumps([modules[0], modules[2]]))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_weightedmean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ModelError, match="pooling weightedmean_tokens is not one of"):
        TorchEncoder.load(folder)


def test_models_that_do_not_exist(monkeypatch):
    with pytest.raises(ModelError, match="no such model folder"):
        TorchEncoder.load("./nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="nobody/nothing: no such folder, and it could not be"):
        load_encoder("nobody/nothing")


def test_embeddings_of_a_stream_go_to_memory_maps(bert_folder, tmp_path, monkeypatch):
    encoder = TorchEncoder.load(bert_folder)
    documents = [Document(f"d{i}", "word " * (i % 5 + 1), "en", f"d{i}") for i in range(10)]
    queries = [Query(f"q{i}", f"question {i}", "en", f"q{i}") for i in range(3)]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(3)}
    monkeypatch.setattr("hybridret.encoder.base.CHUNK", 4)
    stream = Dataset("made", queries, StreamedDocuments(lambda: documents), qrels)
    q, d = embed(encoder, Dataset("made", queries, documents, qrels), batch_size=2)
    kept_q, kept_d = embed(encoder, stream, batch_size=2, folder=tmp_path / "kept")
    assert isinstance(kept_d, np.memmap)
    assert np.array_equal(q, kept_q)
    assert np.array_equal(d, kept_d)
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["documents.npy", "queries.npy"]
    report = evaluate(encoder, stream, folder=tmp_path / "kept")
    assert report.settings == evaluate(encoder, stream).settings
    room = np.empty((3, encoder.dimension), dtype=np.float32)
    with pytest.raises(DataError, match="more documents than the 3 rows of the output"):
        encoder.encode_documents(["a", "b", "c", "d"], out=room)
    with pytest.raises(DataError, match="2 documents, but the output array has 3 rows"):
        encoder.encode_documents(["a", "b"], out=room)


def test_saved_weights_can_be_read_by_others(bert_folder, tmp_path):
    """safetensors writes its files for their owner alone."""
    (tmp_path / "ordinary").write_text("")
    (tmp_path / "model").mkdir()
    TorchEncoder.load(bert_folder).save(tmp_path / "model")
    for file in (tmp_path / "model").glob("*.safetensors"):
        assert file.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_saving_leaves_other_files_as_they_are(bert_folder, tmp_path):
    secret, elsewhere = tmp_path / "model" / "secret", tmp_path / "elsewhere"
    secret.parent.mkdir()
    for file in (secret, elsewhere):
        file.write_text("")
        file.chmod(0o600)
    (secret.parent / "link").symlink_to(elsewhere)
    (secret.parent / "dangling").symlink_to("nowhere")
    TorchEncoder.load(bert_folder).save(secret.parent)
    assert [file.stat().st_mode & 0o777 for file in (secret, elsewhere)] == [0o600, 0o600]


@pytest.mark.parametrize("content", ["[1]", "null", '"x"', "{}", '[{"type": 1}]', "3"])
@pytest.mark.parametrize(
    "file", ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"]
)
def test_json_of_a_wrong_shape_in_a_model_folder(file, content, bert_folder, tmp_path):
    TorchEncoder.load(bert_folder).save(tmp_path)
    (tmp_path / file).write_text(content)
    if content == "{}" and file != "modules.json":
        TorchEncoder.load(tmp_path)  # everything in it is optional
        return
    with pytest.raises(ModelError, match=str(tmp_path)):
        TorchEncoder.load(tmp_path)
