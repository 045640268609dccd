"""Exact ranks against a full sort, ties included; every metric against trec_eval's own code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.evaluation.baselines import evaluate_baseline
from hybridret.evaluation.judging import Evaluation, evaluate_embeddings
from hybridret.evaluation.metrics import (
    DEFAULT_METRICS,
    MEASURES,
    Metric,
    RankedRelevant,
    measures_in_words,
    parse_metrics,
)
from hybridret.evaluation.ranking import Pool, rank_embeddings

METRICS = [
    "AP",
    "AP@3",
    "AP@10",
    "RR",
    "nDCG@5",
    "nDCG@10",
    "recall@1",
    "recall@10",
    "recall@100",
    "P@1",
    "P@5",
    "P@20",
    "success@1",
    "success@10",
    "Rprec",
    "bpref",
]
TREC_NAMES = {
    "AP": "map",
    "AP@3": "map_cut_3",
    "AP@10": "map_cut_10",
    "RR": "recip_rank",
    "nDCG@5": "ndcg_cut_5",
    "nDCG@10": "ndcg_cut_10",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "P@1": "P_1",
    "P@5": "P_5",
    "P@20": "P_20",
    "success@1": "success_1",
    "success@10": "success_10",
    "Rprec": "Rprec",
    "bpref": "bpref",
}

TREC_MEASURES = {
    "map",
    "map_cut.3,10",
    "recip_rank",
    "ndcg_cut.5,10",
    "recall.1,10,100",
    "P.1,5,20",
    "success.1,10",
    "Rprec",
    "bpref",
}


@given(
    seed=st.integers(0, 2**32 - 1), documents=st.integers(1, 60), levels=st.sampled_from([3, 1000])
)
@settings(max_examples=60, deadline=None)
def test_metrics_equal_trec_eval(seed, documents, levels):
    """Graded judgements and many tied scores, which trec_eval's own code breaks by document id."""
    trec = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(seed)
    ids = [f"d{i}" for i in rng.permutation(documents)]
    queries, qrels, run, rows = [], {}, {}, []
    for i in range(5):
        scores = rng.integers(0, levels, documents).astype(np.float32)
        judged = {d: int(rng.integers(0, 4)) for d in ids if rng.random() < 0.3}
        judged = judged if any(judged.values()) else {ids[0]: 1}
        queries.append(Query(f"q{i}", "?", "en", f"q{i}"))
        qrels[f"q{i}"] = judged
        run[f"q{i}"] = dict(zip(ids, map(float, scores), strict=True))
        rows.append(scores)
    dataset = Dataset("made", queries, [Document(d, "!", "en", d) for d in ids], qrels)
    evaluation = Evaluation(dataset, metrics=METRICS)
    pool = evaluation.pool
    # One axis a query: the inner product is the score itself.
    ranks = rank_embeddings(
        pool, np.eye(5, dtype=np.float32), np.array(rows).T.copy(), similarity="dot"
    )
    expected = trec.RelevanceEvaluator(qrels, TREC_MEASURES).evaluate(run)
    report = evaluation.judge(ranks, "made")
    mono = next(s for s in report.settings if s.setting == "mono")
    for name in METRICS:
        mean = np.mean([expected[f"q{i}"][TREC_NAMES[name]] for i in range(5)])
        assert mono.metrics[name] == pytest.approx(mean, abs=1e-9), name


def made_data_set(seed: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """A small one in up to three languages, most of whose questions some pool cannot answer."""
    rng = np.random.default_rng(seed)
    languages = ["de", "en", "fr"][: rng.integers(2, 4)]
    groups = rng.integers(2, 5)
    queries = [Query(f"{x}-q{g}", "?", x, f"q{g}") for g in range(groups) for x in languages]
    documents = [Document(f"{x}-{i}", "!", x, f"{x}-{i}") for x in languages for i in range(12)]
    grades = [-1, 0, 0, 0, 1, 2]
    qrels = {
        q.query_id: {
            d.document_id: int(rng.choice(grades)) for d in documents if rng.random() < 0.15
        }
        for q in queries
    }
    qrels[queries[0].query_id][documents[0].document_id] = 1
    # Small whole numbers: scores are exact, and many are equal.
    q, d = (rng.integers(-2, 3, (len(x), 3)).astype(np.float32) for x in (queries, documents))
    return Dataset("made", queries, documents, qrels), q, d


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_every_setting_equals_trec_eval(first):
    """Judged documents of one language alone, and questions without an answer in a pool."""
    trec = pytest.importorskip("pytrec_eval")
    for seed in range(first, first + 50):
        dataset, q, d = made_data_set(seed)
        report = evaluate_embeddings(q, d, dataset, similarity="dot", metrics=METRICS)
        judged = dataset.relevant_by_group(judged=True)
        for number, setting in enumerate(report.settings):
            pool = {
                x.document_id: row
                for row, x in enumerate(dataset.documents)
                if setting.document_language in (None, x.language)
            }
            asked = [
                (row, x)
                for row, x in enumerate(dataset.queries)
                if x.language == setting.query_language
            ]
            qrels = {
                x.query_id: {i: g for i, g in judged.get(x.group_id, {}).items() if i in pool}
                for _, x in asked
            }
            qrels = {i: grades for i, grades in qrels.items() if any(grades.values())}
            run = {
                x.query_id: {i: float(q[row] @ d[place]) for i, place in pool.items()}
                for row, x in asked
            }
            expected = trec.RelevanceEvaluator(qrels, TREC_MEASURES).evaluate(run)
            assert setting.n == len(qrels), (seed, setting)
            rows = np.flatnonzero(report.queries.setting == number)
            for name in METRICS:
                for row in rows:
                    query_id = report.query_ids[report.queries.query[row]]
                    assert report.queries.values[name][row] == pytest.approx(
                        expected[query_id][TREC_NAMES[name]], abs=1e-9
                    ), (seed, setting, query_id, name)


def test_a_baseline_with_bpref_uses_the_documents_judged_not_relevant():
    """bpref counts documents judged not relevant, which a pool without them does not hold."""
    queries = [Query("q", "red apple", "en", "q")]
    documents = [Document("bad", "red apple", "en", "bad"), Document("good", "pear", "en", "good")]
    dataset = Dataset("made", queries, documents, {"q": {"bad": 0, "good": 1}})
    pytest.importorskip("bm25s")
    report = evaluate_baseline("bm25", dataset, metrics=["bpref"])
    assert report.summary["mono"]["bpref"] == 0
    evaluation = Evaluation(dataset, metrics=["AP"])
    ranks = rank_embeddings(evaluation.pool, np.ones((1, 1)), np.ones((2, 1)))
    evaluation.metrics = parse_metrics(["AP", "bpref"])
    with pytest.raises(DataError, match="bpref needs the documents judged not relevant"):
        evaluation.judge(ranks, "made")


def test_metrics_by_hand():
    # Two queries: relevant at ranks 1 and 4 (grades 1, 3), and at rank 2.
    # Of the first query, documents at ranks 2 and 9 were judged not relevant.
    relevant = RankedRelevant(
        np.array([0, 2, 3]),
        np.array([1, 4, 2]),
        np.array([1, 3, 1]),
        np.array([0, 2, 2]),
        np.array([2, 9]),
    )
    assert Metric.parse("bpref").per_query(relevant) == pytest.approx([(1 + 1 / 2) / 2, 1])
    assert Metric.parse("AP").per_query(relevant) == pytest.approx([(1 + 2 / 4) / 2, 1 / 2])
    assert Metric.parse("RR").per_query(relevant) == pytest.approx([1, 1 / 2])
    assert Metric.parse("recall@2").per_query(relevant) == pytest.approx([1 / 2, 1])
    assert Metric.parse("P@5").per_query(relevant) == pytest.approx([2 / 5, 1 / 5])
    gain = 1 / np.log2(2) + 3 / np.log2(5)
    ideal = 3 / np.log2(2) + 1 / np.log2(3)
    assert Metric.parse("nDCG@10").per_query(relevant)[0] == pytest.approx(gain / ideal)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("ap", "AP"),
        ("MAP", "AP"),
        ("ndcg@10", "nDCG@10"),
        ("Recall@100", "recall@100"),
        ("mrr", "RR"),
        ("p@5", "P@5"),
        ("RPREC", "Rprec"),
    ],
)
def test_metric_names_are_read_in_any_case(given, written):
    assert str(Metric.parse(given)) == written


def test_the_readme_names_every_measure():
    assert measures_in_words() in (ROOT / "README.md").read_text(encoding="utf-8")
    for measure in MEASURES.values():
        for spelling in (measure.name, *measure.spellings):
            asked = spelling + ("@3" if measure.cutoff == "required" else "")
            assert Metric.parse(asked.upper()).name == measure.name


@pytest.mark.parametrize(
    "bad", ["", "nDCG", "recall@0", "f1", "Rprec@10", "AP@", "AP@x", "ndcg@10@5"]
)
def test_bad_metric_names(bad):
    with pytest.raises(DataError, match="metric"):
        parse_metrics([bad])


def test_settings_and_summaries():
    """Two languages, one question each answered in both; b's documents are out of reach for a."""
    queries = [Query("qa", "?", "a", "g"), Query("qb", "?", "b", "g"), Query("qx", "?", "a", "x")]
    documents = [
        Document("da", "!", "a", "g"),
        Document("db", "!", "b", "g"),
        Document("dx", "!", "a", "x"),
    ]
    dataset = Dataset(
        "made", queries, documents, {"qa": {"da": 1}, "qb": {"db": 1}, "qx": {"dx": 1}}
    )
    q = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    d = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    report = evaluate_embeddings(q, d, dataset, metrics=["AP"])
    found = {(s.setting, s.query_language, s.document_language): s for s in report.settings}
    assert found["mono", "a", "a"].n == 2  # qa at rank 1, qx at rank 2
    assert found["mono", "a", "a"].metrics["AP"] == pytest.approx(0.75)
    assert found["cross", "a", "b"].n == 1  # qx has no answer in b: dropped, not zero
    assert found["cross", "a", "b"].metrics["AP"] == 1
    assert found["multi", "a", None].metrics["AP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert report.summary["mono"]["AP"] == pytest.approx((0.75 + 1) / 2)
    # qa: ranks 1 and 3; qb: db first, da third; qx has one answer and no distance.
    assert report.summary["rank_distance"] == pytest.approx(2.0)
    assert report.summary["n"] == {"mono": 3, "cross": 2, "multi": 3, "rank_distance": 2}
    assert np.isnan(report.matrix("AP")).sum() == 0
    json.loads(json.dumps(report.to_dict()))


def test_empty_data_sets():
    with pytest.raises(DataError, match="empty: 0 queries"):
        Pool(Dataset("none", [], [], {}))
    with pytest.raises(DataError, match="no query has a relevant document"):
        Pool(Dataset("none", [Query("q", "?", "en", "q")], [Document("d", "!", "en", "d")], {}))


@pytest.mark.parametrize("seed", range(4))
def test_sentence_transformers_convention(seed):
    """Ties by ascending id, AP@k divided by min(R, k), binary gains, no unanswerable queries."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    rng = np.random.default_rng(seed)
    ids = [f"d{i}" for i in rng.permutation(40)]
    queries = [Query(f"q{i}", "?", "en", f"q{i}") for i in range(12)]
    qrels = {
        q.query_id: {d: int(rng.integers(1, 4)) for d in ids if rng.random() < 0.2} for q in queries
    }
    qrels["q3"] = {}
    vectors = [rng.integers(1, 3, (n, 3)).astype(np.float32) for n in (12, 40)]
    dataset = Dataset("made", queries, [Document(d, "!", "en", d) for d in ids], qrels)
    names = {
        "AP@5": "map@5",
        "nDCG@10": "ndcg@10",
        "RR@10": "mrr@10",
        "P@5": "precision@5",
        "recall@5": "recall@5",
        "success@1": "accuracy@1",
    }
    report = evaluate_embeddings(
        *vectors,
        dataset,
        similarity="dot",
        metrics=list(names),
        convention="sentence-transformers",
    )

    class Encoded(module.InformationRetrievalEvaluator):
        def embed_inputs(self, *_, **__):
            kept = [int(name[1:]) for name in self.queries_ids]
            return torch.from_numpy(vectors[0][kept])

    evaluator = Encoded(
        {q.query_id: "?" for q in queries},
        dict.fromkeys(ids, "!"),
        {q: set(judged) for q, judged in qrels.items()},
        map_at_k=[5],
        ndcg_at_k=[10],
        mrr_at_k=[10],
        precision_recall_at_k=[5],
        accuracy_at_k=[1],
        write_csv=False,
        score_functions={"dot": lambda a, b: a @ b.T},
    )
    theirs = evaluator.compute_metrices(None, corpus_embeddings=torch.from_numpy(vectors[1]))["dot"]
    assert report.summary["n"]["mono"] == len(evaluator.queries)
    for ours, name in names.items():
        kind, k = name.split("@")
        assert report.summary["mono"][ours] == pytest.approx(theirs[f"{kind}@k"][int(k)]), name


def test_documents_judged_not_relevant_change_only_bpref():
    rng = np.random.default_rng(3)
    queries = [Query(f"{x}q{i}", "?", x, f"q{i}") for x in ("de", "en") for i in range(5)]
    documents = [Document(f"{x}{i}", "!", x, f"{x}{i}") for x in ("de", "en") for i in range(30)]
    qrels = {
        q.query_id: {f"{q.language}{d}": int(rng.integers(-1, 3)) for d in rng.permutation(30)[:12]}
        for q in queries
    }
    dataset = Dataset("made", queries, documents, qrels)
    q, d = (rng.standard_normal((len(x), 8), dtype=np.float32) for x in (queries, documents))
    plain = evaluate_embeddings(q, d, dataset).to_dict()
    judged = evaluate_embeddings(q, d, dataset, metrics=[*DEFAULT_METRICS, "bpref"]).to_dict()
    for setting in judged["settings"]:
        assert 0 < setting["metrics"].pop("bpref") < 1
    assert judged["settings"] == plain["settings"]
    assert judged["bias"] == plain["bias"]
    pool = Pool(dataset, judged=True)
    assert set(pool.grades) == {0, 1, 2}
    with pytest.raises(DataError, match="needs a pool of relevant documents only"):
        rank_embeddings(pool, q, d, ties="optimistic")
