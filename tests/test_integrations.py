"""LangChain and mteb, with the real packages."""

from __future__ import annotations

import pytest
from conftest import TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import hybridret
from hybridret.encoder.exporting import export
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.encoder.torch_encoder import TorchEncoder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    encoder = TorchEncoder.new_static(
        [*TEXTS, "foo bar baz new new2", "A lonely text"], dimension=24, vocabulary_size=400
    )
    return export(encoder, tmp_path_factory.mktemp("integrations") / "encoder").folder


suites = pytest.importorskip("langchain_tests.integration_tests", reason="langchain-tests")


class TestVectorStore(suites.VectorStoreIntegrationTests):
    """LangChain's own tests of vector stores."""

    @pytest.fixture
    def vectorstore(self, encoder_folder, tmp_path):
        from hybridret.integrations.langchain import HybridretVectorStore

        return HybridretVectorStore(
            hybridret.Retriever.create(encoder_folder, store=tmp_path / "store")
        )


def test_langchain(encoder_folder, tmp_path):
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from hybridret.integrations.langchain import HybridretEmbeddings, HybridretVectorStore

    encoder = hybridret.OnnxEncoder(encoder_folder)
    embeddings = HybridretEmbeddings(encoder)
    metadatas = [{"language": x, "n": n} for n, x in enumerate(("en", "de", "ru", "zh"))]
    store = HybridretVectorStore.from_texts(
        TEXTS[:4], embeddings, metadatas, ids=list("abcd"), folder=str(tmp_path / "store")
    )
    assert store.embeddings.embed_query("Paris") == embeddings.embed_query("Paris")
    assert embeddings.embed_documents(["Paris"])[0] == pytest.approx(
        encoder.encode_documents(["Paris"])[0].tolist()
    )
    best, score = store.similarity_search_with_score(TEXTS[1], k=1)[0]
    assert (best.id, best.page_content, best.metadata) == ("b", TEXTS[1], metadatas[1])
    assert score == pytest.approx(1, abs=1e-5)
    assert store.similarity_search_by_vector(embeddings.embed_query(TEXTS[2]), k=1)[0].id == "c"
    found = store.similarity_search("Paris", filter={"n": {"gte": 2}}, mode="hybrid")
    assert {d.id for d in found} == {"c", "d"}
    retriever = store.as_retriever(search_kwargs={"k": 1, "languages": ["de"]})
    assert retriever.invoke("Paris")[0].id == "b"
    relevant = store.similarity_search_with_relevance_scores(TEXTS[0], k=1)
    assert relevant[0][1] == pytest.approx(1, abs=1e-5)
    with pytest.raises(hybridret.DataError, match="give HybridretEmbeddings of an exported"):
        HybridretVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=3))
    with pytest.raises(hybridret.DataError, match="2 texts, 1 metadata, 2 ids"):
        store.add_texts(["a", "b"], [{}])


def test_mteb(encoder_folder):
    pytest.importorskip("mteb")
    from mteb.models.models_protocols import SearchProtocol

    from hybridret.integrations.mteb import MtebSearch

    corpus = [{"id": f"d{n}", "text": text, "title": ""} for n, text in enumerate(TEXTS[:6])]
    corpus.append({"id": "empty", "text": " ", "title": ""})
    queries = [{"id": "q0", "text": TEXTS[2]}, {"id": "q1", "text": "capital Paris"}]
    for mode in ("dense", "words", "hybrid"):
        model = MtebSearch(encoder_folder, mode=mode)
        assert isinstance(model, SearchProtocol)
        assert model.mteb_model_meta.name == "hybridret/encoder"
        with pytest.raises(hybridret.DataError, match="index a corpus before"):
            model.search(queries, top_k=3)
        model.index(corpus, task_metadata=None, hf_split="test", hf_subset="default")
        found = model.search(queries, top_k=3, encode_kwargs={})
        assert max(found["q0"], key=found["q0"].get) == "d2"
        assert 1 <= len(found["q1"]) <= 3
        some = {"q0": ["d1", "d4"], "q1": ["d0"]}
        ranked = model.search(queries, top_k=3, top_ranked=some)
        assert set(ranked["q1"]) == {"d0"}
        assert set(ranked["q0"]) <= {"d1", "d4"}


def test_mteb_evaluates_as_we_do(encoder_folder):
    """A task of its own through ``mteb.evaluate``: the same nDCG@10 and recall as our report's."""
    mteb = pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    from hybridret.integrations.mteb import MtebSearch

    data = hybridret.load_dataset("facts-evaluation", languages=["en"])

    class Facts(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Facts",
            description="Made-up facts.",
            dataset={"path": "local/facts", "revision": "1"},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_):
            documents = [{"id": d.document_id, "text": d.full_text} for d in data.documents]
            split = {
                "corpus": datasets.Dataset.from_list(documents),
                "queries": datasets.Dataset.from_list(
                    [{"id": q.query_id, "text": q.text} for q in data.queries]
                ),
                "relevant_docs": {q: dict(documents) for q, documents in data.qrels.items()},
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    result = mteb.evaluate(MtebSearch(encoder_folder, exact=True), Facts(), cache=None)
    (scores,) = result.task_results[0].scores["test"]
    report = hybridret.evaluate(OnnxEncoder(encoder_folder), data, metrics=["nDCG@10", "recall@10"])
    expected = report.summary["mono"]
    assert scores["ndcg_at_10"] == pytest.approx(expected["nDCG@10"], abs=1e-5)
    assert scores["recall_at_10"] == pytest.approx(expected["recall@10"], abs=1e-5)
    assert 0.1 < scores["ndcg_at_10"] < 0.999
