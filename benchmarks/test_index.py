"""How fast is a search, at what recall? 100,000 vectors of 384 dimensions, one thread.

Vectors of real passages in eleven languages make clusters as encoders do: each of these is one of
2,640 passages of XQuAD-R (HYBRIDRET_VECTORS: a .npz with documents D, languages L, queries Q) and a
difference of its own; without that file, a topic's plus a language's plus noise. All systems have
the same vectors and M 16, ef_construction 200; recall@10 is against exact search.

Filters: our search as it is, beside a numpy scan of the subset, which is given contiguous, and our
unfiltered graph.
"""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest

from hybridret.data.table import Document
from hybridret.serving.index import Index

ROWS = int(os.environ.get("HYBRIDRET_ROWS", "100000"))
DIMENSION, K = 384, 10
SHARES = (0.25, 0.06, 0.01, 0.001)
EFS = [int(ef) for ef in os.environ.get("HYBRIDRET_EFS", "32 64 128 256").split()]
BUILT = {"M": 16, "ef_construction": 200}


class Work:
    """Vectors, queries, their language, and the best documents of each query."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        base, language, self.queries = self._base(rng)
        picked = rng.integers(0, len(base), ROWS)
        noise = rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
        self.vectors = self._unit(base[picked] + np.float32(0.3 / DIMENSION**0.5) * noise)
        self.language = language[picked]
        self.queries = self._unit(self.queries)
        self.scores = self.queries @ self.vectors.T
        self.draw = rng.random(ROWS)

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    @staticmethod
    def _base(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        file = os.environ.get("HYBRIDRET_VECTORS")
        if file:
            with np.load(file) as found:
                return (
                    found["D"].astype(np.float32),
                    found["L"],
                    found["Q"].astype(np.float32),
                )
        topics = rng.standard_normal((240, DIMENSION), dtype=np.float32)
        languages = rng.standard_normal((11, 1, DIMENSION), dtype=np.float32)
        noise = rng.standard_normal((11, 240, DIMENSION), dtype=np.float32)
        base = (topics + 0.7 * languages + 0.5 * noise).reshape(-1, DIMENSION)
        queries = topics + 0.7 * languages + rng.standard_normal(noise.shape, dtype=np.float32)
        return base, np.repeat(np.arange(11), 240), queries.reshape(-1, DIMENSION)[::4]

    def recall(self, found: list[list[int]], admitted: np.ndarray | None = None) -> float:
        scores = self.scores if admitted is None else np.where(admitted, self.scores, -9)
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        return float(np.mean([len({*a} & {*b}) / K for a, b in zip(found, best, strict=True)]))


@pytest.fixture(scope="module")
def work() -> Work:
    return Work()


@pytest.fixture(scope="module")
def index(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "index"
    index = Index.create(folder, dimension=DIMENSION)
    documents = [
        Document(f"{n}", f"text {n}", metadata={"language": int(work.language[n]), "u": float(u)})
        for n, u in enumerate(work.draw)
    ]
    began = time.perf_counter()
    threads = 1 if ROWS <= 100_000 else 0
    index.add(documents, work.vectors, threads=threads)
    index.link(threads=threads)
    print(
        f"\nadded and linked in {time.perf_counter() - began:.0f} s: {index.stats()['bytes']:,} B"
    )
    yield index
    shutil.rmtree(folder)


def timed(benchmark, work, search, admitted=None) -> None:
    """Each query alone; the median over queries, and the recall of all."""
    turn = iter(range(10**9))
    found = [[int(x) for x in search(query)] for query in work.queries]
    benchmark.extra_info["recall"] = f"{work.recall(found, admitted):.4f}"
    benchmark.pedantic(
        lambda: search(work.queries[next(turn) % len(work.queries)]),
        rounds=len(work.queries) * 2,
    )
    benchmark.extra_info["us"] = round(benchmark.stats.stats.median * 1e6)


def native(index, ef=None, **options):
    """The search without documents: rows are numbered from 1."""
    state = index._refresh()
    graph = state.graph
    if ef is None:
        return lambda query: state.table.search(query[None], K, **options)[0][0]
    return lambda query: graph.search(query[None], K, ef=ef, **options)[0][0]


@pytest.mark.benchmark(group=f"{ROWS:,} x {DIMENSION}, 10 best, one thread: all documents")
@pytest.mark.parametrize("peer", [f"hybridret ef {ef}" for ef in EFS])
def test_ours(benchmark, work, index, peer):
    timed(benchmark, work, native(index, int(peer.split()[-1])))


@pytest.mark.benchmark(group=f"{ROWS:,} x {DIMENSION}, 10 best, one thread: all documents")
@pytest.mark.parametrize("peer", ["hybridret exact", "numpy exact", "hybridret with documents"])
def test_exact(benchmark, work, index, peer):
    searches = {
        "hybridret exact": native(index),
        "numpy exact": lambda query: np.argpartition(work.vectors @ query, -K)[-K:],
        "hybridret with documents": lambda query: [h.document_id for h in index.search(query, K)],
    }
    timed(benchmark, work, searches[peer])


@pytest.mark.benchmark(group=f"{ROWS:,} x {DIMENSION}, 10 best, one thread: all documents")
@pytest.mark.parametrize("ef", EFS)
@pytest.mark.parametrize("peer", ["hnswlib", "faiss", "usearch"])
def test_peers(benchmark, work, peers, peer, ef, request):
    search = peers(peer, ef)
    request.node.callspec.params["peer"] = f"{peer} ef {ef}"
    timed(benchmark, work, search)


@pytest.fixture(scope="module")
def peers(work):
    made: dict[str, object] = {}

    def hnswlib(ef: int):
        module = pytest.importorskip("hnswlib")
        if "hnswlib" not in made:
            graph = module.Index("ip", DIMENSION)
            graph.init_index(ROWS, **BUILT)
            graph.add_items(work.vectors, num_threads=1)
            graph.set_num_threads(1)
            made["hnswlib"] = graph
        graph = made["hnswlib"]
        graph.set_ef(ef)
        return lambda query: graph.knn_query(query, K)[0][0]

    def faiss(ef: int):
        module = pytest.importorskip("faiss")
        module.omp_set_num_threads(1)
        if "faiss" not in made:
            graph = module.IndexHNSWFlat(DIMENSION, BUILT["M"], module.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = BUILT["ef_construction"]
            graph.add(work.vectors)
            made["faiss"] = graph
        graph = made["faiss"]
        graph.hnsw.efSearch = ef
        return lambda query: graph.search(query[None], K)[1][0]

    def usearch(ef: int):
        module = pytest.importorskip("usearch.index")
        if "usearch" not in made:
            graph = module.Index(
                ndim=DIMENSION,
                metric="ip",
                dtype="f32",
                connectivity=BUILT["M"],
                expansion_add=BUILT["ef_construction"],
            )
            graph.add(np.arange(ROWS), work.vectors, threads=1)
            made["usearch"] = graph
        graph = made["usearch"]
        graph.expansion_search = ef
        return lambda query: graph.search(query, K, threads=1).keys

    return lambda peer, ef: {"hnswlib": hnswlib, "faiss": faiss, "usearch": usearch}[peer](ef)


@pytest.mark.parametrize("peer", [*(f"hybridret ef {ef}" for ef in EFS), "numpy, contiguous"])
@pytest.mark.parametrize("by", ["language", *map(str, SHARES)])
def test_filters(benchmark, work, index, by, peer):
    if by == "language":
        admitted = work.language == 3
        conditions = [("language", "eq", 3)]
    else:
        admitted = work.draw < float(by)
        conditions = [("u", "lt", float(by))]
    benchmark.group = f"filter by {by}: {admitted.mean():.2%} of {ROWS:,}"
    state = index._refresh()
    mask, rows = state._subset(None, conditions)
    own = np.ascontiguousarray(work.vectors[admitted])
    numbers = np.flatnonzero(admitted)
    searches = {
        **{f"hybridret ef {ef}": native(index, ef, admitted=mask, rows=rows) for ef in EFS},
        "numpy, contiguous": lambda query: numbers[np.argpartition(own @ query, -K)[-K:]],
    }
    timed(benchmark, work, searches[peer], admitted)


@pytest.mark.benchmark(group="changes, each durable")
@pytest.mark.parametrize("peer", ["add one", "upsert one", "delete one"])
def test_changes(benchmark, work, index, peer):
    turn = iter(range(10**9))

    def change() -> None:
        n = next(turn)
        if peer == "delete one":
            index.delete([f"upsert{n}"])
        elif peer == "add one":
            index.add([Document(f"add{n}", "text")], work.vectors[n : n + 1])
        else:
            index.upsert([Document(f"upsert{n}", "text")], work.vectors[n : n + 1])

    benchmark.pedantic(change, rounds=200)


@pytest.mark.benchmark(group="opening")
@pytest.mark.parametrize("peer", ["open and first search"])
def test_opening(benchmark, work, index, peer):
    folder = index.store.folder
    benchmark.pedantic(lambda: Index.open(folder).search(work.queries[0], K), rounds=5)
