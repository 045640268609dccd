"""The language bias by hand, and against slow twins."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_ranking import make_dataset, sorted_ranks

from hybridret.data.table import Dataset, Document, Query
from hybridret.evaluation.bias import language_bias
from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings


def two_languages() -> Pool:
    """g has an answer in a and in b, x in a alone."""
    queries = [Query("qa", "?", "a", "g"), Query("qb", "?", "b", "g"), Query("qx", "?", "a", "x")]
    documents = [
        Document("da", "!", "a", "g"),
        Document("db", "!", "b", "g"),
        Document("dx", "!", "a", "x"),
    ]
    return Pool(
        Dataset("made", queries, documents, {"qa": {"da": 1}, "qb": {"db": 1}, "qx": {"dx": 1}})
    )


def test_every_bias_metric_by_hand():
    pool = two_languages()
    # qa: da 1, db 3; qb: db 1, da 3 (the documents are da dx db); qx: dx second.
    q = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    d = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    bias = language_bias(pool, rank_embeddings(pool, q, d, best=2), mix_at=2)
    assert bias.rank_distance.values.tolist() == [2, 2]
    assert bias.rank_distance.counts.tolist() == [1, 1]  # qx has one answer
    assert bias.normalized_rank_distance.mean == 1
    assert bias.max_rank.values.tolist() == [(3 + 2) / 2, 3]
    assert bias.preference_rate.values.tolist() == [1, 1]
    assert bias.preference_rate.n == 2
    assert bias.same_language_first.values.tolist() == [1, 1]
    assert bias.mix == pytest.approx(np.array([[1, 0], [0.5, 0.5]]))  # a: da dx; b: db dx
    assert bias.pool_share == pytest.approx([2 / 3, 1 / 3])
    assert bias.mean_rank == pytest.approx(np.array([[1.5, 3], [3, 1]]))
    # Before db, for a's questions: da and dx.
    assert bias.outranks[0, 1].tolist() == [2, 0]
    assert bias.outranks[1, 0].tolist() == [1, 1]
    found = json.loads(json.dumps(bias.to_dict()))
    assert found["mix"]["share"]["b"] == {"a": 0.5, "b": 0.5}
    assert found["outranks"]["a"]["b"] == {"a": 2.0, "b": 0.0}
    assert found["rank_distance"] == {"mean": 2.0, "n": 2, "by_query_language": {"a": 2, "b": 2}}


def test_bias_metrics_without_data_are_none():
    """Ranks alone, as of a system that gives lists: no counts, no best documents."""
    pool = two_languages()
    bias = language_bias(pool, Ranks(np.array([1, 1, 1, 1, 2]), np.array([1, 3, 3, 1, 2])))
    assert bias.mix is None
    assert bias.outranks is None
    assert bias.same_language_first is None
    assert bias.rank_distance.mean == 2
    assert "mix" not in bias.to_dict()


def test_one_language_has_no_distance():
    pool = Pool(make_dataset(np.random.default_rng(0), 5, "a"))
    ones = np.ones((5, 2), dtype=np.float32)
    bias = language_bias(pool, rank_embeddings(pool, ones, ones, best=3))
    assert bias.rank_distance.mean is None
    assert bias.preference_rate.mean is None
    assert bias.same_language_first.mean == 1
    json.loads(json.dumps(bias.to_dict(), allow_nan=False))


def test_bias_metrics_of_many_queries():
    rng = np.random.default_rng(1)
    pool = Pool(make_dataset(rng, 40, "abcd", 2))
    q = rng.standard_normal((160, 6)).astype(np.float32)
    d = rng.standard_normal((320, 6)).astype(np.float32)
    bias = language_bias(pool, rank_embeddings(pool, q, d, similarity="dot", best=10))
    ranks = sorted_ranks(pool, q.astype(np.float64) @ d.T.astype(np.float64))
    for language in range(4):
        distances, prefers, worst = [], [], []
        for i in np.flatnonzero(pool.query_language == language):
            own = slice(pool.target_begin[i], pool.target_begin[i + 1])
            found, of = ranks.in_all[own], pool.target_language[own]
            distances.append(found.max() - found.min())
            worst.append(found.max())
            prefers.append(of[found.argmin()] == language)
        assert bias.rank_distance.values[language] == pytest.approx(np.mean(distances))
        assert bias.max_rank.values[language] == pytest.approx(np.mean(worst))
        assert bias.preference_rate.values[language] == pytest.approx(np.mean(prefers))
        lists = ranks.best[pool.query_language == language, :10]
        share = np.bincount(pool.document_language[lists].ravel(), minlength=4) / lists.size
        assert bias.mix[language] == pytest.approx(share)
        for answer in range(4):
            mine = (pool.query_language[pool.target_query] == language) & (
                pool.target_language == answer
            )
            assert bias.outranks[language, answer] == pytest.approx(ranks.above[mine].mean(0))
            assert bias.mean_rank[language, answer] == pytest.approx(ranks.in_all[mine].mean())
