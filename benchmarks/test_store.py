"""What does a store cost? Searches with their documents, filters, durable changes, and changes
while eight threads search, of 100,000 vectors of 384 dimensions, beside chroma and lancedb.

The vectors are those of test_index.py; every system has a text and two fields of metadata with
each, M 16 and ef_construction 200, and is asked with ef 128, one query at a time. What a method has
changed is on disk when it returns (hybridret: synced; chroma and lancedb: written).

Words: HYBRIDRET_TOKENIZER names a folder with a tokenizer.json and HYBRIDRET_TEST_DATA the data
sets: passages of XQuAD-R, halves of two of a language joined until there are enough.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_index import DIMENSION, ROWS, K, Work

from hybridret.data.table import Document
from hybridret.serving.index import Index

SYSTEMS = ("hybridret", "chroma", "lancedb")


@pytest.fixture(scope="module")
def work() -> Work:
    return Work()


class Ours:
    def __init__(self, folder: Path, work: Work) -> None:
        self.index = Index.create(folder, dimension=DIMENSION)
        documents = [self._document(str(n), work, n) for n in range(ROWS)]
        self.index.add(documents, work.vectors)
        self.index.link()

    @staticmethod
    def _document(name: str, work: Work, n: int) -> Document:
        fields = {"language": int(work.language[n]), "u": float(work.draw[n])}
        return Document(name, f"text {n}", metadata=fields)

    def search(self, query: np.ndarray, where: dict[str, Any] | None = None) -> list[str]:
        return [hit.document_id for hit in self.index.search(query, K, where=where)]

    def add(self, name: str, work: Work, n: int) -> None:
        self.index.add([self._document(name, work, n)], work.vectors[n : n + 1])

    def upsert(self, name: str, work: Work, n: int) -> None:
        self.index.upsert([self._document(name, work, n)], work.vectors[n : n + 1])

    def delete(self, name: str) -> None:
        self.index.delete([name])


class Chroma:
    def __init__(self, folder: Path, work: Work) -> None:
        chromadb = pytest.importorskip("chromadb")
        client = chromadb.PersistentClient(
            str(folder), settings=chromadb.Settings(anonymized_telemetry=False)
        )
        hnsw = {"space": "ip", "ef_construction": 200, "max_neighbors": 16, "ef_search": 128}
        self.collection = client.create_collection(
            "documents", configuration={"hnsw": hnsw}, embedding_function=None
        )
        for start in range(0, ROWS, 5000):
            rows = range(start, min(ROWS, start + 5000))
            self.collection.add(
                ids=[str(n) for n in rows],
                embeddings=work.vectors[rows.start : rows.stop],
                documents=[f"text {n}" for n in rows],
                metadatas=[self._fields(work, n) for n in rows],
            )

    @staticmethod
    def _fields(work: Work, n: int) -> dict[str, Any]:
        return {"language": int(work.language[n]), "u": float(work.draw[n])}

    def search(self, query: np.ndarray, where: dict[str, Any] | None = None) -> list[str]:
        if where:
            where = {
                name: {f"${test}": value for test, value in condition.items()}
                for name, condition in where.items()
            }
        found = self.collection.query(query_embeddings=query[None], n_results=K, where=where)
        return list(found["ids"][0])

    def add(self, name: str, work: Work, n: int) -> None:
        self.collection.add(
            ids=[name],
            embeddings=work.vectors[n : n + 1],
            documents=[f"text {n}"],
            metadatas=[self._fields(work, n)],
        )

    def upsert(self, name: str, work: Work, n: int) -> None:
        self.collection.upsert(
            ids=[name],
            embeddings=work.vectors[n : n + 1],
            documents=[f"text {n}"],
            metadatas=[self._fields(work, n)],
        )

    def delete(self, name: str) -> None:
        self.collection.delete(ids=[name])


class Lance:
    def __init__(self, folder: Path, work: Work) -> None:
        lancedb = pytest.importorskip("lancedb")
        pyarrow = pytest.importorskip("pyarrow")
        flat = pyarrow.array(work.vectors.ravel())
        table = pyarrow.table(
            {
                "id": [str(n) for n in range(ROWS)],
                "vector": pyarrow.FixedSizeListArray.from_arrays(flat, DIMENSION),
                "text": [f"text {n}" for n in range(ROWS)],
                "language": work.language.astype(np.int64),
                "u": work.draw,
            }
        )
        self.table = lancedb.connect(str(folder)).create_table("documents", table)
        self.table.create_index(
            metric="dot", index_type="IVF_HNSW_SQ", num_partitions=1, m=16, ef_construction=200
        )
        self.table.create_scalar_index("language")
        self.table.create_scalar_index("u")

    def search(self, query: np.ndarray, where: dict[str, Any] | None = None) -> list[str]:
        asked = self.table.search(query).distance_type("dot").ef(128).refine_factor(4).limit(K)
        for name, condition in (where or {}).items():
            ((test, value),) = condition.items()
            asked = asked.where(f"{name} {'=' if test == 'eq' else '<'} {value}", prefilter=True)
        return asked.to_arrow()["id"].to_pylist()

    def _row(self, name: str, work: Work, n: int) -> dict[str, Any]:
        return {
            "id": name,
            "vector": work.vectors[n],
            "text": f"text {n}",
            "language": int(work.language[n]),
            "u": float(work.draw[n]),
        }

    def add(self, name: str, work: Work, n: int) -> None:
        self.table.add([self._row(name, work, n)])

    def upsert(self, name: str, work: Work, n: int) -> None:
        merge = self.table.merge_insert("id")
        merge.when_matched_update_all().when_not_matched_insert_all().execute(
            [self._row(name, work, n)]
        )

    def delete(self, name: str) -> None:
        self.table.delete(f"id = '{name}'")


@pytest.fixture(scope="module")
def stores(work, tmp_path_factory):
    made: dict[str, Any] = {}
    folders: list[Path] = []

    def store(name: str) -> Any:
        if name not in made:
            folders.append(tmp_path_factory.mktemp("store") / name)
            began = time.perf_counter()
            kind = {"hybridret": Ours, "chroma": Chroma, "lancedb": Lance}[name]
            made[name] = kind(folders[-1], work)
            size = sum(f.stat().st_size for f in folders[-1].rglob("*") if f.is_file())
            print(f"\n{name}: made in {time.perf_counter() - began:.0f} s, {size / 1e6:,.0f} MB")
        return made[name]

    yield store
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


FILTERS = {
    "all": (None, lambda work: np.ones(ROWS, bool)),
    "one language": ({"language": {"eq": 3}}, lambda work: work.language == 3),
    "25 %": ({"u": {"lt": 0.25}}, lambda work: work.draw < 0.25),
    "1 %": ({"u": {"lt": 0.01}}, lambda work: work.draw < 0.01),
    ".1 %": ({"u": {"lt": 0.001}}, lambda work: work.draw < 0.001),
}


@pytest.mark.parametrize("peer", SYSTEMS)
@pytest.mark.parametrize("name", FILTERS)
def test_search(benchmark, work, stores, name, peer):
    store = stores(peer)
    where, admits = FILTERS[name]
    benchmark.group = f"{ROWS:,} documents, ten best with their texts: {name}"
    some = work.queries[:100]
    found = [[int(x) for x in store.search(query, where)] for query in some]
    scores = np.where(admits(work), work.scores[:100], -9)
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    recall = np.mean([len({*a} & {*b}) / K for a, b in zip(found, best, strict=True)])
    benchmark.extra_info["recall"] = f"{recall:.4f}"
    turn = iter(range(10**9))
    benchmark.pedantic(lambda: store.search(some[next(turn) % 100], where), rounds=200)


@pytest.mark.parametrize("peer", SYSTEMS)
@pytest.mark.parametrize("kind", ["add", "upsert", "delete"])
def test_changes(benchmark, work, stores, kind, peer):
    store = stores(peer)
    benchmark.group = f"{kind} one document"
    turn = iter(range(10**9))
    for n in range(60 if kind == "delete" else 0):
        store.upsert(f"gone{n}", work, n)

    def change() -> None:
        n = next(turn)
        if kind == "delete":
            store.delete(f"gone{n}")
        elif kind == "add":
            store.add(f"add{n}", work, n)
        else:
            store.upsert(f"add{n}", work, n)

    benchmark.pedantic(change, rounds=50)


@pytest.mark.parametrize("peer", SYSTEMS)
def test_adds_while_eight_threads_search(benchmark, work, stores, peer):
    store = stores(peer)
    benchmark.group = "add one document while eight threads search"
    stop, searches = threading.Event(), [0] * 8

    def ask(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            store.search(work.queries[rng.randrange(len(work.queries))])
            searches[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    turn, began = iter(range(10**9)), time.perf_counter()
    try:
        benchmark.pedantic(lambda: store.add(f"busy{(n := next(turn))}", work, n), rounds=100)
    finally:
        seconds = time.perf_counter() - began
        stop.set()
        for thread in threads:
            thread.join()
    benchmark.extra_info["searches/s"] = round(sum(searches) / seconds)


@pytest.mark.benchmark(group=f"{ROWS:,} documents: words")
@pytest.mark.parametrize("peer", ["words", "hybrid", "dense"])
def test_words(benchmark, words_index, peer):
    index, questions, vectors = words_index
    turn = iter(range(10**9))

    def search() -> None:
        n = next(turn) % len(questions)
        index.search(
            None if peer == "words" else vectors[n],
            K,
            words=None if peer == "dense" else questions[n],
        )

    benchmark.pedantic(search, rounds=300, warmup_rounds=300)


@pytest.fixture(scope="module")
def words_index(work, tmp_path_factory):
    from hybridret.data import load_dataset
    from hybridret.encoder.tokenization import Tokenizer
    from hybridret.serving import words
    from hybridret.serving.change import Embedded

    folder, data = os.environ.get("HYBRIDRET_TOKENIZER"), os.environ.get("HYBRIDRET_TEST_DATA")
    if not folder or not data:
        pytest.skip("HYBRIDRET_TOKENIZER and HYBRIDRET_TEST_DATA are not set")
    dataset = load_dataset(f"{data}/xquad-r")
    rng = random.Random(0)
    by_language: dict[str, list[str]] = {}
    for document in dataset.documents:
        by_language.setdefault(document.language, []).append(document.text)
    texts = [d.text for d in dataset.documents][:ROWS]
    while len(texts) < ROWS:
        a, b = rng.sample(by_language[rng.choice(sorted(by_language))], 2)
        texts.append(a[: len(a) // 2] + b[len(b) // 2 :])
    tokenizer = Tokenizer.from_file(Path(folder) / "tokenizer.json", max_length=512)
    index = Index.create(tmp_path_factory.mktemp("words") / "index", dimension=DIMENSION)
    with index.store.change() as change:  # vectors of others: nothing is embedded here
        words.create(change.connection, 1)
        change.connection.execute("UPDATE generations SET words = 1")
    index.words = words.Words(tokenizer)
    index._refresh(always=True)
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    began = time.perf_counter()
    terms = index.words.documents(texts)
    made = time.perf_counter()
    before = index.store.bytes()
    index.write(documents, {1: Embedded(work.vectors, terms)}, replacing=False)
    index.link()
    print(
        f"\nterms of {ROWS:,} texts: {made - began:.1f} s; written and linked in "
        f"{time.perf_counter() - made:.1f} s; {(index.store.bytes() - before) / ROWS:,.0f} B a "
        f"document"
    )
    questions = [q.text for q in rng.sample(dataset.queries, 300)]
    return index, questions, work.queries[:300]
