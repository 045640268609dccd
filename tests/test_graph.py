"""Vectors with 8-bit codes and their graph: scans against numpy, walks against scans."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret._native import Graph, Table


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = rng.normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def table_of(vectors: np.ndarray) -> Table:
    table = Table(vectors.shape[1])
    table.extend(vectors)
    return table


def graph_of(table: Table, count: int | None = None, **options) -> Graph:
    graph = Graph(table, **({"M": 16, "ef_construction": 100, "seed": 0} | options))
    graph.build(table.size if count is None else count)
    return graph


def subset(admitted: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "admitted": admitted.astype(np.uint8),
        "rows": np.flatnonzero(admitted).astype(np.uint32),
    }


def check_exact(rows, scores, vectors, queries, k, admitted) -> None:
    """Whether these are the k best, where float32 can tell."""
    for i, query in enumerate(queries):
        exact = vectors.astype(np.float64) @ query.astype(np.float64)
        size = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(query)
        slack = 1e-5 * max(1e-30, size[admitted].max(initial=0))
        wanted = min(k, int(admitted.sum()))
        found = rows[i][rows[i] >= 0]
        assert len(found) == wanted == len(set(found.tolist()))
        if not wanted:
            continue
        assert admitted[found].all()
        np.testing.assert_allclose(scores[i][:wanted], exact[found], atol=slack, rtol=0)
        worst = np.sort(exact[admitted])[-wanted]
        assert exact[found].min() >= worst - slack
        order = list(zip(-scores[i][:wanted], found, strict=True))
        assert order == sorted(order)  # best first, equal ones by row


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    dimension=st.integers(1, 200),
    k=st.integers(1, 320),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e15]),
    kind=st.sampled_from(["unit", "copies", "one large", "zeros", "alike"]),
    seed=st.integers(0, 1000),
)
def test_a_scan_finds_the_best(count, dimension, k, scale, kind, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, count, dimension)
    if kind == "copies":
        vectors = vectors[rng.integers(0, 1 + count // 9, count)]
    elif kind == "one large":
        vectors[:, rng.integers(dimension)] *= 1000
    elif kind == "zeros":
        vectors[rng.random(count) < 0.5] = 0
    elif kind == "alike":  # closer to each other than 8 bits can tell
        vectors = (vectors[:1] + 1e-4 * vectors).astype(np.float32)
    vectors = np.ascontiguousarray(vectors * np.float32(scale))
    queries = unit(rng, 3, dimension)
    table = table_of(vectors)
    everything = np.ones(count, bool)
    check_exact(*table.search(queries, k), vectors, queries, k, everything)
    some = rng.random(count) < 0.4
    check_exact(*table.search(queries, k, **subset(some)), vectors, queries, k, some)
    gone = rng.random(count) < 0.3
    table.remove(np.flatnonzero(gone).astype(np.uint32))
    assert table.live == count - gone.sum()
    check_exact(*table.search(queries, k), vectors, queries, k, ~gone)
    check_exact(*table.search(queries, k, **subset(some)), vectors, queries, k, some & ~gone)


def test_rows_are_added_and_may_move():
    rng = np.random.default_rng(0)
    vectors = unit(rng, 500, 48)
    table = Table(48)
    for end in (1, 200, 500):
        table.extend(vectors[:end].copy())  # elsewhere each time
        assert table.size == end
    queries = unit(rng, 5, 48)
    check_exact(*table.search(queries, 10), vectors, queries, 10, np.ones(500, bool))
    with pytest.raises(ValueError, match="a table of 500 rows cannot have 499"):
        table.extend(vectors[:499].copy())
    bad = np.concatenate([vectors, np.full((1, 48), np.nan, np.float32)])
    with pytest.raises(ValueError, match="row 500 has a value that is not finite"):
        table.extend(bad)
    assert table.size == 500
    with pytest.raises(ValueError, match="no row 500"):
        table.remove(np.array([500], np.uint32))
    with pytest.raises(ValueError, match="vectors must have shape"):
        table.extend(vectors[:, :40].copy())


def clustered(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    centres = unit(rng, 200, dimension)
    rows = centres[rng.integers(0, 200, count)] + 0.5 * unit(rng, count, dimension)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(graph: Graph, table: Table, queries: np.ndarray, k: int = 10, **options) -> float:
    found, _ = graph.search(queries, k, ef=128, **options)
    exact, _ = table.search(queries, k, **options)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found, exact, strict=True)]))


def test_the_graph_finds_what_a_scan_finds():
    rng = np.random.default_rng(1)
    vectors, queries = clustered(rng, 20_000, 32), clustered(rng, 200, 32)
    table = table_of(vectors)
    graph = graph_of(table, 19_000)  # the last rows are not linked
    assert graph.size == 19_000
    assert recall(graph, table, queries) > 0.98
    assert recall(graph, table, vectors[19_500:19_600]) > 0.98
    for share in (0.5, 0.1, 0.01):
        admitted = rng.random(20_000) < share
        assert recall(graph, table, queries, **subset(admitted)) > 0.98
    table.remove(np.arange(0, 20_000, 2, dtype=np.uint32))
    assert recall(graph, table, queries) > 0.98
    rows, _ = graph.search(queries, 10, ef=64)
    assert (rows % 2 == 1).all()


def test_filters_that_disagree_with_the_query():
    """A quarter of the clusters is admitted: most queries have none of their own near them."""
    rng = np.random.default_rng(6)
    centres, cluster = unit(rng, 80, 32), rng.integers(0, 80, 25_000)
    topics = unit(rng, 300, 32)  # as languages and topics: parallel documents in every cluster
    vectors = centres[cluster] + topics[rng.integers(0, 300, 25_000)] + 0.3 * unit(rng, 25_000, 32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = (centres[rng.integers(0, 80, 100)] + topics[rng.integers(0, 300, 100)]).astype(
        np.float32
    )
    table = table_of(vectors)
    graph = graph_of(table)
    for share in (2, 4, 8):
        assert recall(graph, table, queries, **subset(cluster % share == 0)) > 0.97
    table.remove(np.flatnonzero(rng.random(25_000) < 0.4).astype(np.uint32))
    assert recall(graph, table, queries) > 0.98
    assert recall(graph, table, queries, **subset(cluster % 4 == 1)) > 0.97


def test_many_at_once_are_each_alone():
    rng = np.random.default_rng(2)
    vectors, queries = clustered(rng, 6000, 24), clustered(rng, 30, 24)
    graph = graph_of(table_of(vectors))
    together = graph.search(queries, 7, ef=50, threads=3)
    for i in range(len(queries)):
        for whole, one in zip(together, graph.search(queries[i : i + 1], 7, ef=50), strict=True):
            assert (whole[i] == one[0]).all()


def test_lengths_that_differ_a_thousandfold():
    """A long vector's estimate is off by more than what short ones differ by."""
    rng = np.random.default_rng(4)
    query = unit(rng, 1, 64)
    across = unit(rng, 6000, 64)
    across -= (across @ query.T) * query
    lengths = np.where(rng.random(6000) < 0.5, 1000, 0.1)[:, None]
    vectors = (lengths * across + rng.normal(1, 0.2, (6000, 1)) * query).astype(np.float32)
    table = table_of(vectors)
    graph = graph_of(table, M=32)
    exact = table.search(query, 20)[0][0].tolist()
    found = graph.search(query, 20, ef=6000)[0][0].tolist()
    assert found[:15] == exact[:15]
    assert len({*found} & {*exact}) >= 19


def test_copies_cost_no_recall():
    """A thousand equal vectors among five thousand: links of their own would fill the graph."""
    rng = np.random.default_rng(3)
    vectors = clustered(rng, 9000, 32)
    vectors[rng.permutation(9000)[:2000]] = vectors[0]
    table = table_of(vectors)
    graph = graph_of(table)
    queries = clustered(rng, 200, 32)
    assert recall(graph, table, queries) > 0.98
    rows, scores = graph.search(vectors[:1], 30, ef=64)
    copies = np.flatnonzero((vectors == vectors[0]).all(1))
    assert rows[0].tolist() == copies[:30].tolist()
    assert len(set(scores[0].tolist())) == 1
    table.remove(copies[:-10].astype(np.uint32))
    rows, _ = graph.search(vectors[:1], 10, ef=64)
    assert rows[0].tolist() == copies[-10:].tolist()


def test_a_graph_is_read_again_and_goes_on(tmp_path):
    rng = np.random.default_rng(4)
    vectors, queries = clustered(rng, 8000, 24), clustered(rng, 50, 24)
    table = table_of(vectors)
    graph = graph_of(table, 7000)
    graph.save(str(tmp_path / "graph"))
    assert (tmp_path / "graph").stat().st_size < 7000 * 170  # links and numbers, no vectors
    again = Graph(table, M=16, ef_construction=100, seed=0)
    again.load(str(tmp_path / "graph"), 7000)
    for a, b in zip(graph.search(queries, 9, ef=40), again.search(queries, 9, ef=40), strict=True):
        assert (a == b).all()
    again.build(8000)
    assert recall(again, table, queries) > 0.98
    with pytest.raises(RuntimeError, match="could not write the graph"):
        graph.save(str(tmp_path / "none" / "graph"))
    empty = Graph(Table(24), M=16, ef_construction=100, seed=0)
    empty.save(str(tmp_path / "empty"))
    empty.load(str(tmp_path / "empty"), 0)
    assert empty.search(queries, 3, ef=10)[0].shape == (50, 0)


def test_another_file_is_refused(tmp_path):
    """Whatever is in it: an error or a graph, never a crash."""
    rng = np.random.default_rng(5)
    vectors = clustered(rng, 5000, 16)
    table = table_of(vectors)
    graph_of(table).save(str(tmp_path / "graph"))
    whole = (tmp_path / "graph").read_bytes()
    fresh = Graph(table, M=16, ef_construction=100, seed=0)
    for count in (4999, 0):
        with pytest.raises(RuntimeError, match="is not the graph of this store"):
            fresh.load(str(tmp_path / "graph"), count)
    with pytest.raises(RuntimeError, match="more rows than the store"):
        fresh.load(str(tmp_path / "graph"), 5001)
    with pytest.raises(RuntimeError, match="is not the graph of this store"):
        Graph(table, M=8, ef_construction=100, seed=0).load(str(tmp_path / "graph"), 5000)
    with pytest.raises(RuntimeError, match="cannot open"):
        fresh.load(str(tmp_path / "none"), 5000)
    other = tmp_path / "other"
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 40):
            damaged[at] = rng.integers(256)
        other.write_bytes(bytes(damaged[: rng.integers(len(whole))] if _ % 3 == 0 else damaged))
        with suppress(RuntimeError):
            fresh.load(str(other), 5000)
            fresh.search(vectors[:20], 10, ef=50)
