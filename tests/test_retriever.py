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


def test_add_search_delete_load(folder):
    assert not has_index(folder)
    retriever = Retriever.create(folder)
    assert has_index(folder)
    assert retriever.add(DOCUMENTS) == len(retriever) == 6
    best = retriever.search(TEXTS[2], k=2)[0]
    assert (best.document_id, best.language, best.text) == ("d2", "ru", TEXTS[2])
    assert best.score == pytest.approx(1, abs=1e-5)
    assert {h.language for h in retriever.search("Paris", languages=["deu", "zh"])} == {"de", "zh"}
    retriever.delete(["d2"])
    assert "d2" not in retriever
    again = Retriever.load(folder)
    assert len(again) == 5
    assert again.search(TEXTS[0], k=3) == retriever.search(TEXTS[0], k=3)
    for text, hits in zip(TEXTS[:2], again.search(TEXTS[:2], k=3), strict=True):
        alone = again.search(text, k=3)
        assert [h.document_id for h in hits] == [h.document_id for h in alone]
    assert again.search([], k=3) == []
    with pytest.warns(DeprecationWarning, match="every change is on disk"):
        retriever.save()
    with pytest.raises(IndexFileError, match="there is something here already"):
        Retriever.create(folder)
    assert len(Retriever.load(folder)) == 5


def test_known_documents(folder):
    """Refused before anything is embedded, passed over, or replaced."""
    retriever = Retriever.create(folder)
    retriever.add(DOCUMENTS[:4])
    embedded: list[str] = []
    encode = retriever.encoder.encode_documents

    def counting(texts, **options):
        embedded.extend(texts)
        return encode(texts, **options)

    retriever.encoder.encode_documents = counting
    with pytest.raises(DataError, match="'d3' is already in the index"):
        retriever.add([*DOCUMENTS[4:], DOCUMENTS[3]])
    assert not embedded
    assert retriever.add(DOCUMENTS, known="skip") == 2
    assert embedded == TEXTS[4:6]
    other = Document("d1", "another text", "de", "d1")
    with pytest.raises(DataError, match="'d1' is in the index with another content; upsert"):
        retriever.add([other], known="skip")
    assert retriever.upsert([other]) == 1
    assert retriever.get("d1") == other
    assert [d.document_id for d in retriever.documents()][-1] == "d1"
    assert len(retriever) == 6
    with pytest.raises(DataError, match="known must be refuse, skip or replace"):
        retriever.add(DOCUMENTS, known="ignore")
    with pytest.raises(DataError, match="expected documents, got str"):
        retriever.add("text")


def test_metadata_and_a_store_elsewhere(folder, tmp_path):
    lines = [
        {"id": "a", "text": TEXTS[0], "product": "x", "year": 2024},
        {"id": "b", "text": TEXTS[1], "metadata": {"product": "y"}, "url": "u"},
        {"id": "c", "text": TEXTS[2], "metadata": {}},
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    retriever = Retriever.create(folder, store=tmp_path / "store")
    assert retriever.add_file(tmp_path / "docs.jsonl") == 3
    assert not has_index(folder)
    assert has_index(folder, tmp_path / "store")
    assert retriever.get("b").metadata == {"product": "y", "url": "u"}
    assert retriever.get("c").metadata is None
    hits = retriever.search("Paris", where={"product": {"in": ["x", "z"]}})
    assert [(h.document_id, h.metadata) for h in hits] == [("a", {"product": "x", "year": 2024})]
    with pytest.raises(DataError, match=r"no document has a field 'produkt' \(did you mean"):
        retriever.search("Paris", where={"produkt": "x"})
    assert len(Retriever.load(folder, store=tmp_path / "store")) == 3


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
    lines = [json.dumps({"id": "a", "text": "fine"}), json.dumps({"id": "b"})]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"bad.jsonl:2: no field 'text'"):
        retriever.add_file(tmp_path / "bad.jsonl")
    assert "a" not in retriever.index
    with pytest.raises(DataError, match="already in the index"):
        retriever.add(DOCUMENTS[:1])
    with pytest.raises(DataError, match="query must be a non-empty string"):
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
    other = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=300, seed=1)
    export(other, tmp_path / "other")
    (folder / "index").rename(tmp_path / "other" / "index")
    with pytest.raises(IndexFileError, match="made with another encoder"):
        Retriever.load(tmp_path / "other")
    with pytest.raises(IndexFileError, match="no store here"):
        Retriever.load(folder)
    with pytest.raises(ModelError, match="not an exported encoder"):
        Retriever.load(tmp_path)
