"""Text in, documents out."""

from __future__ import annotations

import json

import pytest
from conftest import TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from hybridret.data.table import Document
from hybridret.encoder.exporting import export
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError, IndexFileError, ModelError
from hybridret.serving.retriever import Retriever, has_index


@pytest.fixture
def folder(tmp_path):
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    return export(encoder, tmp_path / "encoder").folder


DOCUMENTS = [
    Document(f"d{i}", text, language, f"d{i}")
    for i, (text, language) in enumerate(
        zip(TEXTS[:6], ("en", "de", "ru", "zh", "ar", "en"), strict=True)
    )
]


def test_add_search_delete_save_load(folder):
    retriever = Retriever.create(folder)
    assert not has_index(folder)
    assert retriever.add(DOCUMENTS) == len(retriever) == 6
    best = retriever.search(TEXTS[2], k=2)[0]
    assert (best.document_id, best.language, best.text) == ("d2", "ru", TEXTS[2])
    assert best.score == pytest.approx(1, abs=1e-5)
    assert {h.language for h in retriever.search("Paris", languages=["deu", "zh"])} == {"de", "zh"}
    retriever.delete(["d2"])
    retriever.save()
    assert has_index(folder)
    again = Retriever.load(folder)
    assert len(again) == 5
    assert again.search(TEXTS[0], k=3) == retriever.search(TEXTS[0], k=3)


def test_prompts_and_titles_are_part_of_the_text(tmp_path):
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300)
    encoder.save(model := tmp_path / "model") if (tmp_path / "model").mkdir() is None else None
    loaded = TorchEncoder.load(model, query_prompt="Paris ", document_prompt="river ")
    export(loaded, tmp_path / "encoder")
    retriever = Retriever.create(tmp_path / "encoder")
    retriever.add([Document("t", "text", "en", "t", title="Vienna")])
    vector = loaded.encode_documents(["Vienna text"])[0]
    query = loaded.encode_queries(["Vienna"])[0]
    assert retriever.search("Vienna")[0].score == pytest.approx(float(vector @ query), abs=1e-5)


def test_mistakes_lose_nothing(folder, tmp_path):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    retriever.save()
    lines = [json.dumps({"id": "a", "text": "fine"}), json.dumps({"id": "b"})]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"bad.jsonl:2: no field 'text'"):
        retriever.add_file(tmp_path / "bad.jsonl")
    assert "a" not in retriever.index
    with pytest.raises(DataError, match="already in the index"):
        retriever.add(DOCUMENTS[:1])
    with pytest.raises(DataError, match="query must be a text that is not empty"):
        retriever.search(" ")
    with pytest.raises(DataError, match="klingon"):
        retriever.search("Paris", languages=["klingon"])
    with pytest.raises(DataError, match="no document in language 'fr'"):
        retriever.search("Paris", languages=["fr"])
    with pytest.raises(DataError, match="k must be"):
        retriever.search("Paris", k=-3)
    assert len(Retriever.load(folder)) == 6


def test_an_index_of_another_encoder(folder, tmp_path):
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS)
    retriever.save()
    other = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300, seed=1)
    export(other, tmp_path / "other")
    (folder / "index").rename(tmp_path / "other" / "index")
    with pytest.raises(IndexFileError, match="made by another encoder"):
        Retriever.load(tmp_path / "other")
    with pytest.raises(IndexFileError, match="no index here"):
        Retriever.load(folder)
    with pytest.raises(ModelError, match="not an exported encoder"):
        Retriever.load(tmp_path)
