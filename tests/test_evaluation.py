"""Exact ranks against a full sort, ties included; every metric against trec_eval's own code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret import _native
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.evaluation import (
    Pool,
    Ranks,
    evaluate_embeddings,
    rank_embeddings,
    score,
)
from hybridret.metrics import Metric, RankedRelevant, parse_metrics


def make_dataset(
    rng: np.random.Generator, groups: int, languages: str, per_group: int = 1
) -> Dataset:
    """Questions in every language, each with ``per_group`` answers in its own."""
    queries, documents, qrels = [], [], {}
    for g in range(groups):
        for language in languages:
            query = Query(f"q{g}{language}", "?", language, f"g{g}")
            queries.append(query)
            qrels[query.query_id] = {}
            for n in range(per_group):
                document_id = f"d{rng.integers(10**9)}-{g}{language}{n}"
                documents.append(Document(document_id, "!", language, f"g{g}"))
                qrels[query.query_id][document_id] = int(rng.integers(1, 4))
    order = rng.permutation(len(documents))
    return Dataset("made", queries, [documents[i] for i in order], qrels)


def sorted_ranks(pool: Pool, scores: np.ndarray) -> Ranks:
    """The slow twin: sorts every pool for every query by (score, document id descending)."""
    ids = [d.document_id for d in pool.dataset.documents]
    by_id = np.array(sorted(range(len(ids)), key=lambda i: ids[i].encode(), reverse=True))
    tie = np.empty(len(ids), dtype=np.int64)
    tie[by_id] = np.arange(len(ids))
    in_language, in_all = [], []
    for t, (q, d) in enumerate(zip(pool.target_query, pool.targets, strict=True)):
        assert t == len(in_all)
        order = twins.before(scores[q], tie)
        in_all.append(int(np.flatnonzero(order == d)[0]) + 1)
        same = order[pool.document_language[order] == pool.document_language[d]]
        in_language.append(int(np.flatnonzero(same == d)[0]) + 1)
    return Ranks(np.array(in_language), np.array(in_all))


@given(
    groups=st.integers(1, 12),
    languages=st.sampled_from(["a", "ab", "abcde"]),
    per_group=st.integers(1, 3),
    depth=st.integers(1, 40),
    levels=st.sampled_from([2, 3, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_ranks_are_those_of_a_full_sort(groups, languages, per_group, depth, levels, seed):
    """Small integers are exact in float32: with few levels most scores tie, exactly."""
    rng = np.random.default_rng(seed)
    pool = Pool(make_dataset(rng, groups, languages, per_group))
    q = rng.integers(-levels, levels + 1, (len(pool.query_language), depth)).astype(np.float32)
    d = rng.integers(-levels, levels + 1, (len(pool.document_language), depth)).astype(np.float32)
    expected = sorted_ranks(pool, q.astype(np.float64) @ d.T.astype(np.float64))
    actual = rank_embeddings(pool, q, d, similarity="dot")
    assert (actual.in_all == expected.in_all).all()
    assert (actual.in_language == expected.in_language).all()


def test_ranks_equal_a_float64_sort_on_many_documents():
    rng = np.random.default_rng(0)
    pool = Pool(make_dataset(rng, 300, "abc"))
    q = rng.standard_normal((900, 48), dtype=np.float32)
    d = rng.standard_normal((900, 48), dtype=np.float32)
    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (q, d)]
    expected = sorted_ranks(pool, unit[0] @ unit[1].T)
    actual = rank_embeddings(pool, q, d)
    assert (actual.in_all == expected.in_all).all()
    assert (actual.in_language == expected.in_language).all()


def test_collapsed_embeddings_are_ranked_by_id_alone():
    """Counting strictly greater scores would call this a perfect system."""
    rng = np.random.default_rng(1)
    pool = Pool(make_dataset(rng, 20, "ab"))
    ones = np.ones((40, 8), dtype=np.float32)
    ranks = rank_embeddings(pool, ones, ones)
    for language in (0, 1):
        of = pool.document_language[pool.targets] == language
        first = pool.query_language[pool.target_query] == language
        assert sorted(ranks.in_language[of & first]) == list(range(1, 21))


def test_the_same_bits_for_any_order_and_number_of_threads():
    rng = np.random.default_rng(2)
    dataset = make_dataset(rng, 150, "abcd")
    q = rng.standard_normal((600, 33), dtype=np.float32)
    d = np.repeat(rng.standard_normal((300, 33), dtype=np.float32), 2, axis=0)  # exact ties
    pool = Pool(dataset)
    expected = rank_embeddings(pool, q, d, threads=1)
    for threads in (2, 5):
        again = rank_embeddings(pool, q, d, threads=threads)
        assert (again.in_all == expected.in_all).all()
    order = rng.permutation(600)
    shuffled = Dataset(
        "made", dataset.queries, [dataset.documents[i] for i in order], dataset.qrels
    )
    again = rank_embeddings(Pool(shuffled), q, d[order])
    assert (again.in_all == expected.in_all).all()
    assert (again.in_language == expected.in_language).all()


def test_counts_of_shards_add_up():
    rng = np.random.default_rng(3)
    q = rng.standard_normal((50, 16), dtype=np.float32)
    d = rng.standard_normal((400, 16), dtype=np.float32)
    target = rng.standard_normal((50, 16), dtype=np.float32)
    begin = np.arange(51)

    def count(documents: np.ndarray, ties: np.ndarray) -> np.ndarray:
        pool = np.concatenate([documents, target])
        above = _native.count_above(
            q, pool, language_begin=np.array([0, len(documents), len(pool)]),
            tie_order=np.concatenate([ties, 1000 + np.arange(50)]),
            target_begin=begin, targets=len(documents) + np.arange(50),
        )  # fmt: skip
        return above[:, 0]

    whole = count(d, np.arange(400))
    parts = [count(d[i : i + 130], np.arange(400)[i : i + 130]) for i in range(0, 400, 130)]
    assert (whole == sum(parts)).all()


METRICS = [
    "AP", "AP@3", "AP@10", "RR", "nDCG@5", "nDCG@10", "recall@1", "recall@10", "recall@100", "P@1",
    "P@5", "P@20", "success@1", "success@10", "Rprec",
]  # fmt: skip
TREC_NAMES = {
    "AP": "map", "AP@3": "map_cut_3", "AP@10": "map_cut_10", "RR": "recip_rank",
    "nDCG@5": "ndcg_cut_5", "nDCG@10": "ndcg_cut_10", "recall@1": "recall_1",
    "recall@10": "recall_10", "recall@100": "recall_100", "P@1": "P_1", "P@5": "P_5",
    "P@20": "P_20", "success@1": "success_1", "success@10": "success_10", "Rprec": "Rprec",
}  # fmt: skip


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
        judged = {d: int(rng.integers(1, 4)) for d in ids if rng.random() < 0.3} or {ids[0]: 1}
        queries.append(Query(f"q{i}", "?", "en", f"q{i}"))
        qrels[f"q{i}"] = judged
        run[f"q{i}"] = dict(zip(ids, map(float, scores), strict=True))
        rows.append(scores)
    dataset = Dataset("made", queries, [Document(d, "!", "en", d) for d in ids], qrels)
    pool = Pool(dataset)
    # One axis a query: the inner product is the score itself.
    ranks = rank_embeddings(
        pool, np.eye(5, dtype=np.float32), np.array(rows).T.copy(), similarity="dot"
    )
    evaluator = trec.RelevanceEvaluator(
        qrels, {"map", "map_cut.3,10", "recip_rank", "ndcg_cut.5,10", "recall.1,10,100", "P.1,5,20",
                "success.1,10", "Rprec"},
    )  # fmt: skip
    expected = evaluator.evaluate(run)
    report = score(pool, ranks, METRICS, "made")
    mono = next(s for s in report.settings if s.setting == "mono")
    for name in METRICS:
        mean = np.mean([expected[f"q{i}"][TREC_NAMES[name]] for i in range(5)])
        assert mono.metrics[name] == pytest.approx(mean, abs=1e-9), name


def test_metrics_by_hand():
    # Two queries: relevant at ranks 1 and 4 (grades 1, 3), and at rank 2.
    relevant = RankedRelevant(np.array([0, 2, 3]), np.array([1, 4, 2]), np.array([1, 3, 1]))
    assert Metric.parse("AP").per_query(relevant) == pytest.approx([(1 + 2 / 4) / 2, 1 / 2])
    assert Metric.parse("RR").per_query(relevant) == pytest.approx([1, 1 / 2])
    assert Metric.parse("recall@2").per_query(relevant) == pytest.approx([1 / 2, 1])
    assert Metric.parse("P@5").per_query(relevant) == pytest.approx([2 / 5, 1 / 5])
    gain = 1 / np.log2(2) + 3 / np.log2(5)
    ideal = 3 / np.log2(2) + 1 / np.log2(3)
    assert Metric.parse("nDCG@10").per_query(relevant)[0] == pytest.approx(gain / ideal)


@pytest.mark.parametrize(
    ("given", "written"),
    [("ap", "AP"), ("MAP", "AP"), ("ndcg@10", "nDCG@10"), ("Recall@100", "recall@100"),
     ("mrr", "RR"), ("p@5", "P@5"), ("RPREC", "Rprec")],
)  # fmt: skip
def test_metric_names_are_read_in_any_case(given, written):
    assert str(Metric.parse(given)) == written


@pytest.mark.parametrize("bad", ["", "nDCG", "recall@0", "f1", "RR@10", "AP@", "AP@x", "ndcg@10@5"])
def test_bad_metric_names(bad):
    with pytest.raises(DataError, match="metric"):
        parse_metrics([bad])


def test_settings_and_summaries():
    """Two languages, one question each answered in both; b's documents are out of reach for a."""
    queries = [Query("qa", "?", "a", "g"), Query("qb", "?", "b", "g"), Query("qx", "?", "a", "x")]
    documents = [Document("da", "!", "a", "g"), Document("db", "!", "b", "g"),
                 Document("dx", "!", "a", "x")]  # fmt: skip
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


def test_embeddings_that_cannot_be_ranked_are_named():
    dataset = make_dataset(np.random.default_rng(0), 3, "ab")
    good = np.ones((6, 4), dtype=np.float32)
    bad = good.copy()
    bad[4, 1] = np.inf
    document_id = dataset.documents[4].document_id
    with pytest.raises(
        DataError, match=f"row 4 .id '{document_id}'. has a value that is not finite"
    ):
        evaluate_embeddings(good, bad, dataset)
    with pytest.raises(DataError, match=r"query embedding in row 4 .*not finite"):
        evaluate_embeddings(bad, good, dataset)
    bad[4] = 0
    with pytest.raises(DataError, match="zero vector"):
        evaluate_embeddings(good, bad, dataset)
    with pytest.raises(DataError, match=r"shape \[5, 4\]; expected \[6, dimension\]"):
        evaluate_embeddings(good[:5], good, dataset)
    with pytest.raises(DataError, match="4 dimensions, document embeddings 3"):
        evaluate_embeddings(good, good[:, :3], dataset)
    with pytest.raises(DataError, match="int64"):
        evaluate_embeddings(good.astype(np.int64), good, dataset)


def test_products_that_would_overflow_are_refused():
    """Infinity minus infinity is not above anything: the rank would be the best."""
    dataset = make_dataset(np.random.default_rng(0), 3, "a")
    good = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(DataError, match=r"row 0 .* is longer than 1e.18"):
        evaluate_embeddings(good, good * np.float32(1e20), dataset, similarity="dot")
    evaluate_embeddings(good, good * np.float32(1e20), dataset)  # a cosine does not mind


def test_empty_data_sets():
    with pytest.raises(DataError, match="empty: 0 queries"):
        Pool(Dataset("none", [], [], {}))
    with pytest.raises(DataError, match="no query has a relevant document"):
        Pool(Dataset("none", [Query("q", "?", "en", "q")], [Document("d", "!", "en", "d")], {}))
