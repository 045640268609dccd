"""ONNX with pooling and normalisation inside says what torch says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from hybridret.data.table import Document
from hybridret.encoder import exporting
from hybridret.encoder.loading import load_encoder
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError
from hybridret.serving.retriever import Retriever


def make(kind: str, request: pytest.FixtureRequest) -> TorchEncoder:
    if kind == "static":
        return TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    folder = request.getfixturevalue(f"{kind.partition('-')[0]}_folder")
    if kind.endswith("cls"):
        return TorchEncoder.load(folder, pooling="cls", query_prompt="Query: ", max_length=20)
    return TorchEncoder.load(folder, pooling=kind.partition("-")[2], normalize=True)


@pytest.mark.parametrize("kind", ["static", "bert-mean", "bert-cls", "xlmr-mean", "xlmr-lasttoken"])
def test_exported_vectors_equal_torch(kind, request, tmp_path):
    encoder = make(kind, request)
    result = exporting.export(encoder, tmp_path / "out")
    assert result.parity < 1e-5
    exported = load_encoder(tmp_path / "out")
    assert isinstance(exported, OnnxEncoder)
    assert exported.config == encoder.config
    texts = [*TEXTS[:6], "", "x", "word " * 300]
    for batch_size in (1, 4, 9):
        np.testing.assert_allclose(
            exported.encode_queries(texts, batch_size=batch_size),
            encoder.encode_queries(texts),
            atol=2e-5,
        )


def test_two_outputs_tokens_first(exported_bert):
    exported = OnnxEncoder(exported_bert)
    assert [o.name for o in exported.session.get_outputs()] == [
        "last_hidden_state",
        "sentence_embedding",
    ]
    assert [i.name for i in exported.session.get_inputs()] == ["input_ids", "attention_mask"]
    ids, mask = exported.tokenizer(TEXTS[:2])
    tokens, vectors = exported.session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert tokens.shape == (2, ids.shape[1], 32)
    assert vectors.shape == (2, 32)


def test_the_fingerprint_changes_with_whatever_changes_a_vector(bert_folder, tmp_path):
    prints = {
        name: exporting.export(
            TorchEncoder.load(bert_folder, **settings), tmp_path / name
        ).fingerprint
        for name, settings in {
            "a": {},
            "same": {},
            "cls": {"pooling": "cls"},
            "prompt": {"query_prompt": "Q: "},
        }.items()
    }
    assert prints["a"] == prints["same"]
    assert len(set(prints.values())) == 3


def test_a_result_that_differs_is_refused(bert_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.PARITY_BOUNDS, "float32", -1.0)
    with pytest.raises(ModelError, match="differs from torch"):
        exporting.export(bert_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_no_number_is_refused(bert_folder, tmp_path):
    encoder = TorchEncoder.load(bert_folder)
    encoder.model.backbone.encoder.layer[1].output.dense.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="differs from torch by nan"):
        exporting.export(encoder, tmp_path / "out", fuse=False)


def test_what_is_there_is_kept(bert_folder, tmp_path):
    exporting.export(bert_folder, tmp_path / "out")
    with pytest.raises(ModelError, match="already exists"):
        exporting.export(bert_folder, tmp_path / "out")
    exporting.export(bert_folder, tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "docs.jsonl").write_text("{}")
    source = shutil.copytree(bert_folder, tmp_path / "source")
    for precious in (tmp_path / "mine", tmp_path / "docs.jsonl", source):
        with pytest.raises(ModelError, match="only exported encoders are overwritten"):
            exporting.export(source, precious, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert (source / "model.safetensors").exists()


def test_damaged_encoder_folders(exported_bert, tmp_path):
    shutil.copytree(exported_bert, tmp_path / "good")

    def broken(name: str, file: str, content: bytes | None):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
        return folder

    onnx = (tmp_path / "good" / "onnx" / "model.onnx").read_bytes()
    manifest = json.loads((tmp_path / "good" / "hybridret.json").read_text())
    newer = json.dumps(manifest | {"schema": 2}).encode()
    for folder, message in (
        (broken("a", "hybridret.json", b"{"), "damaged"),
        (broken("b", "hybridret.json", newer), "schema 1"),
        (broken("c", "tokenizer.json", None), "tokenizer.json: missing"),
        (broken("d", "tokenizer.json", b"{}"), "tokenizer.json: truncated or changed: 2 bytes"),
        (broken("e", "onnx/model.onnx", onnx[: len(onnx) // 2]), "model.onnx: truncated"),
        (broken("f", "onnx/model.onnx", None), "onnx/model.onnx: missing"),
        (broken("g", "hybridret.json", b"\xff"), "damaged"),
        (broken("h", "hybridret.json", b"[" * 100_000), "damaged: nested too deeply"),
        (broken("i", "hybridret.json", b"[]"), "expected an object, got list"),
    ):
        with pytest.raises(ModelError, match=message):
            load_encoder(folder)


def test_serving_imports_neither_torch_nor_transformers(exported_bert, tmp_path):
    shutil.copytree(exported_bert, tmp_path / "out")
    code = (
        "import sys, hybridret; from hybridret.serving.retriever import Retriever; "
        "from hybridret.data import Document, load_dataset; import hybridret.evaluation.judging;"
        f"r = Retriever.create({str(tmp_path / 'out')!r}); "
        "r.add([Document('a', 'text', 'en', 'a')]); assert r.search('text');"
        "heavy = {'torch', 'transformers', 'onnx'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_changed_file_is_detected(exported_bert, tmp_path):
    """A flipped byte anywhere in model or tokenizer, with or without the manifest's checksums."""
    folder = shutil.copytree(exported_bert, tmp_path / "out")
    manifest = json.loads((folder / "hybridret.json").read_text())
    assert {"tokenizer.json", "onnx/model.onnx", "config.json"} <= manifest["files"].keys()
    older = {name: value for name, value in manifest.items() if name != "files"}
    rng = np.random.default_rng(0)
    for written, message in ((manifest, "damaged: its checksum"), (older, "was changed after")):
        (folder / "hybridret.json").write_text(json.dumps(written))
        load_encoder(folder)
        for file in ("onnx/model.onnx", "tokenizer.json"):
            good = (folder / file).read_bytes()
            for position in rng.integers(0, len(good), 20).tolist():
                flipped = bytes([good[position] ^ 1])
                (folder / file).write_bytes(good[:position] + flipped + good[position + 1 :])
                with pytest.raises(ModelError, match=message):
                    load_encoder(folder)
            (folder / file).write_bytes(good)


def test_an_onnx_file_of_another_export_is_rejected(bert_folder, exported_bert, tmp_path):
    """It matches its own manifest but not this one: the index would belong to another model."""
    folder = shutil.copytree(exported_bert, tmp_path / "out")
    other = TorchEncoder.load(bert_folder, pooling="cls")
    exporting.export(other, tmp_path / "other")
    shutil.copy(tmp_path / "other/onnx/model.onnx", folder / "onnx/model.onnx")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_encoder(folder)


@pytest.mark.parametrize("dimension", [8, -1, 0, 10**400, "x", None, 10**10, 1.5, True, [32]])
def test_a_dimension_that_is_not_the_models(dimension, exported_bert, tmp_path):
    folder = shutil.copytree(exported_bert, tmp_path / "out")
    manifest = json.loads((folder / "hybridret.json").read_text())
    (folder / "hybridret.json").write_text(json.dumps(manifest | {"dimension": dimension}))
    with pytest.raises(ModelError, match=r"hybridret\.json: damaged: 'dimension' is"):
        load_encoder(folder)


def test_an_index_outlives_an_export_of_the_same_encoder_alone(
    bert_folder, exported_bert, tmp_path
):
    folder = shutil.copytree(exported_bert, tmp_path / "out")
    retriever = Retriever.create(folder)
    retriever.add([Document("a", "Paris", "en", "a")])
    exporting.export(bert_folder, folder, overwrite=True)
    assert len(Retriever.load(folder)) == 1
    other = TorchEncoder.load(bert_folder, pooling="cls")
    with pytest.raises(ModelError, match="out/index was made with the encoder that would be"):
        exporting.export(other, folder, overwrite=True)
    assert len(Retriever.load(folder)) == 1
    shutil.rmtree(folder / "index")
    exporting.export(other, folder, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_an_exported_encoder_is_no_model_to_train(exported_bert, tmp_path):
    folder = shutil.copytree(exported_bert, tmp_path / "out")
    with pytest.raises(ModelError, match="is an exported encoder: it has an ONNX model and no"):
        TorchEncoder.load(folder)


def test_an_unknown_model_name(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("Got: ConnectError")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError) as error:
        load_encoder("nobody/nothing")
    assert str(error.value) == (
        "nobody/nothing: no such folder, and it could not be downloaded from the Hugging Face hub: "
        "the hub cannot be reached, and there is no downloaded copy"
    )


def test_an_unused_pooler_causes_no_message(bert_folder, tmp_path):
    """transformers would report the pooler's weights as missing or unexpected."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    code = f"import hybridret; hybridret.TorchEncoder.load({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
