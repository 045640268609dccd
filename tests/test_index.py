"""The index: right answers, filters, mistakes that change nothing."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from hybridret.data.table import Document
from hybridret.errors import DataError, IndexFileError
from hybridret.serving.index import Index
from hybridret.serving.recall import EFS, ef_for
from hybridret.serving.state import GraphSettings

LANGUAGES = ("ar", "de", "en", "zh-CN")


def documents(count: int, start: int = 0) -> list[Document]:
    return [
        Document(
            f"d{i}",
            f"text {i}",
            LANGUAGES[i % 4],
            title="T" if i % 3 else "",
            metadata={"year": 2000 + i % 30, "tags": ["odd"] if i % 2 else ["even", "all"]},
        )
        for i in range(start, start + count)
    ]


def made(folder, count: int, dimension: int = 24, seed: int = 0, **options):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    index = Index.create(folder, dimension=dimension, **options)
    index.add(documents(count), vectors)
    return index, vectors


def ids(hits) -> list[str]:
    return [hit.document_id for hit in hits]


def nearest(vectors: np.ndarray, query: np.ndarray, k: int, keep=None) -> list[str]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ (query / np.linalg.norm(query))
    order = [i for i in np.argsort(-scores, kind="stable") if keep is None or keep(i)]
    return [f"d{i}" for i in order[:k]]


def test_exact_search_is_a_full_sort(tmp_path):
    index, vectors = made(tmp_path / "index", 500)
    for query in np.random.default_rng(1).standard_normal((20, 24), dtype=np.float32):
        hits = index.search(query, 7, exact=True)
        assert ids(hits) == nearest(vectors, query, 7)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        german = index.search(query, 5, languages=["de"])
        assert ids(german) == nearest(vectors, query, 5, keep=lambda i: i % 4 == 1)
        late = index.search(query, 5, languages=["zh", "en"], where={"year": {"gte": 2020}})
        assert ids(late) == nearest(vectors, query, 5, keep=lambda i: i % 4 > 1 and i % 30 >= 20)
    hit = index.search(vectors[7], 1)[0]
    assert (hit.language, hit.title, hit.text) == ("zh-CN", "T", "text 7")
    assert hit.metadata == {"year": 2007, "tags": ["odd"]}


def test_the_graph_finds_what_the_exact_search_finds(tmp_path):
    index, _ = made(tmp_path / "index", 9000, dimension=16)
    assert index.stats()["in the graph"] == 9000
    queries = np.random.default_rng(2).standard_normal((50, 16), dtype=np.float32)
    for options in ({}, {"languages": ["de", "en", "zh"]}, {"where": {"tags": "odd"}}):
        exact = index.search(queries, 10, exact=True, **options)
        graph = index.search(queries, 10, **options)
        alone = [index.search(query, 10, **options) for query in queries]
        assert graph == alone
        assert {len(hits) for hits in graph} == {10}
        found = sum(len({*ids(a)} & {*ids(b)}) for a, b in zip(exact, graph, strict=True))
        assert found / 500 > 0.97


def test_recall_is_measured(tmp_path):
    """When a graph is made, on vectors that it does not have yet, or on queries that are given."""
    index, vectors = made(tmp_path / "index", 6000, dimension=32)
    found = {int(ef): r for ef, r in index.stats()["recall@10 by ef"].items()}
    assert sorted(found) == [ef for ef in EFS if ef <= max(found)]
    queries = np.random.default_rng(2).standard_normal((100, 32), dtype=np.float32)

    def recall(**options) -> float:
        exact = index.search(queries, 10, exact=True)
        graph = index.search(queries, 10, **options)
        return sum(len({*ids(a)} & {*ids(b)}) for a, b in zip(exact, graph, strict=True)) / 1000

    on_queries = index.measure(queries)
    assert [found[ef] for ef in (16, 32, 64)] == pytest.approx(
        [on_queries[ef] for ef in (16, 32, 64)], abs=0.05
    )
    assert Index.open(tmp_path / "index").stats()["recall@10 by ef"] == {
        str(ef): round(r, 4) for ef, r in on_queries.items()
    }
    for wanted in (0.5, 0.9, 0.97):
        least = min(ef for ef, r in on_queries.items() if r >= wanted)
        assert recall(recall=wanted) == pytest.approx(on_queries[least], abs=1e-9)
    assert ef_for({16: 0.9, 32: 0.99}, 0.99, 30) == 96
    assert ef_for({16: 0.9, 32: 0.99}, 0.999, 10) is None
    best = index.search(vectors[5], 3, exact=True)
    assert index.search(vectors[5], 3, recall=1.0) == best  # no ef has it: exact
    for bad in (0, 1.1, True):
        with pytest.raises(DataError, match="recall must be above 0 and at most 1"):
            index.search(vectors[0], recall=bad)
    small, vectors = made(tmp_path / "small", 10)
    assert small.measure(vectors) == {}
    assert small.search(vectors[3], 1, recall=0.99)[0].document_id == "d3"


def test_opened_again(tmp_path):
    settings = GraphSettings(M=8, ef_search=77)
    index, vectors = made(tmp_path / "index", 6000, encoder="e1", settings=settings)
    index.delete(["d5", "d17"])
    again = Index.open(tmp_path / "index", encoder="e1")
    assert (len(again), again.languages, again.settings) == (5998, index.languages, settings)
    for query in vectors[:20]:
        assert again.search(query, 9) == index.search(query, 9)
    again.add([Document("d5", "new", "fr")], vectors[5:6])
    # The first one sees it, and the other way round.
    assert index.search(vectors[5], 1, languages=["fr"])[0].text == "new"
    index.delete(["d5"])
    assert "d5" not in again
    assert [d.document_id for d in again.documents()] == [
        f"d{i}" for i in range(6000) if i not in (5, 17)
    ]
    with pytest.raises(IndexFileError, match="made with another encoder"):
        Index.open(tmp_path / "index", encoder="e2")


def test_deleted_documents_are_not_found_and_can_be_added_again(tmp_path):
    index, vectors = made(tmp_path / "index", 100)
    assert ids(index.search(vectors[3], 1)) == ["d3"]
    index.delete(["d3"])
    assert "d3" not in ids(index.search(vectors[3], 100))
    assert len(index.search(vectors[3], 100)) == len(index) == 99
    index.add([Document("d3", "new", "de")], vectors[3:4])
    hits = index.search(vectors[3], 2)
    assert hits[0].text == "new"
    assert len({*ids(hits)}) == 2  # never the same document twice
    with pytest.raises(DataError, match="no document 'nothing'"):
        index.delete(["d4", "nothing"])
    assert "d4" in index
    index.delete("d4")
    assert "d4" not in index


def test_replacing(tmp_path):
    index, vectors = made(tmp_path / "index", 100)
    assert index.upsert([Document("d3", "new", "fr"), Document("x", "y")], vectors[:2]) == 1
    assert len(index) == 101
    assert index.get("d3") == Document("d3", "new", "fr", "d3")
    assert index.get("nothing") is None
    hits = {hit.document_id: hit for hit in index.search(vectors[0], 101)}
    assert len(hits) == 101
    assert hits["d3"].text == "new"
    assert hits["d3"].score == pytest.approx(1, abs=1e-5)
    assert hits["x"].language == "und"


def test_fifteen_times_all_over(tmp_path):
    """Replacing everything again and again does not let the files grow."""
    rng = np.random.default_rng(0)
    index, vectors = made(tmp_path / "index", 1500)
    for _ in range(15):
        index.upsert(documents(1500), rng.standard_normal((1500, 24), dtype=np.float32))
    assert index.stats()["deleted"] <= 1000
    index.compact()
    stats = index.stats()
    assert (stats["documents"], stats["deleted"]) == (1500, 0)
    texts = sum(len(d.text) + 40 for d in index.documents())
    assert stats["bytes"] < 1.6 * (1500 * 24 * 4 + texts) + 150_000  # SQLite's empty pages
    index.verify()
    assert len(index.search(vectors[0], 1500)) == 1500


def test_fewer_documents_than_k(tmp_path):
    index, vectors = made(tmp_path / "index", 3)
    assert len(index.search(vectors[0], 50)) == 3
    empty = Index.create(tmp_path / "empty", dimension=4)
    assert empty.search(np.ones(4, np.float32), 5) == []
    assert empty.search(np.ones((2, 4), np.float32), 5) == [[], []]
    empty.add([], np.empty((0, 4), np.float32))
    assert len(empty) == 0
    with pytest.raises(DataError, match="no document in language 'de'; the index has none"):
        empty.search(np.ones(4, np.float32), languages=["de"])


def deep(levels: int) -> list:
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


def test_one_bad_document_changes_nothing(tmp_path):
    index, vectors = made(tmp_path / "index", 50)
    bad = vectors[:3].copy()
    bad[1, 4] = np.nan
    new = [Document(f"x{i}", "t", "en") for i in range(3)]
    with pytest.raises(DataError, match="document 'x1' has a value that is not finite"):
        index.add(new, bad)
    bad[1] = 0
    with pytest.raises(DataError, match="document 'x1' is zero"):
        index.add(new, bad)
    with pytest.raises(DataError, match="document id 'x0' is a duplicate"):
        index.add([new[0], new[0]], vectors[:2])
    with pytest.raises(DataError, match="'d7' is already in the index"):
        index.add([new[0], Document("d7", "t", "en")], vectors[:2])
    with pytest.raises(DataError, match=r"2 vectors of dimension 24, got shape \[3, 24\]"):
        index.add(new[:2], vectors[:3])
    with pytest.raises(DataError, match="vectors must be numbers"):
        index.add(new[:1], np.array([["x"] * 24]))
    for document, message in (
        (Document("", "t"), "a document has an empty id"),
        (Document("a", " "), "document 'a': the text is empty"),
        (Document("a", "t", "english!"), "document 'a': 'english!' is not a language tag"),
        (Document("a", None), "document 'a': text must be a string, got None"),
        (Document(7, "t"), "document 7: document_id must be a string, got 7"),
        (Document("a", "t\ud83d"), "document 'a': text contains a lone surrogate"),
        (Document("a", "t\0"), "document 'a': text contains a NUL character"),
        (Document("a", "t", metadata={"x": {1}}), "document 'a': metadata that JSON cannot hold"),
        (Document("a", "t", metadata={"x": float("nan")}), "metadata that JSON cannot hold"),
        (Document("a", "t", metadata=[1]), "metadata must be an object with names, got list"),
        (Document("a", "t", metadata={"x": deep(70)}), "nested more than 64 deep"),
        (Document("a", "t", metadata={"x": deep(5000)}), "metadata that JSON cannot hold"),
        ({"document_id": "a"}, "expected a hybridret.Document, got dict"),
        (None, "expected a hybridret.Document, got NoneType"),
    ):
        with pytest.raises(DataError, match=message):
            index.add([new[0], document], vectors[:2])
    with pytest.raises(DataError, match="a document id must be a string, got 3"):
        index.delete([3])
    assert len(index) == 50
    assert not index.stats()["deleted"]
    index.add(new, vectors[:3])
    assert len(index) == 53
    assert index.get("x0").language == "en"


def test_bad_questions(tmp_path):
    index, vectors = made(tmp_path / "index", 50)
    with pytest.raises(DataError, match="the query has a value that is not finite"):
        index.search(np.full(24, np.inf, np.float32))
    for bad in (0, 2.0, "3", True):
        with pytest.raises(DataError, match="k must be an integer of at least 1"):
            index.search(vectors[0], bad)
    with pytest.raises(
        DataError, match="no document in language 'fr'; the index has ar, de, en, zh-CN"
    ):
        index.search(vectors[0], languages=["fr"])
    with pytest.raises(DataError, match=r"no document has a field 'yaer' \(did you mean year\?\)"):
        index.search(vectors[0], where={"yaer": 3})
    with pytest.raises(DataError, match=r"expected 1 vectors of dimension 24, got shape \[1, 5\]"):
        index.search(np.ones(5, np.float32))
    for bad, message in (
        (None, "nothing to search for: give vectors, words, or both"),
        (5, r"expected a query vector \[dimension\] or several"),
        ([[1, 2], [3]], "vectors must be an array of numbers"),
        (["x"] * 24, "vectors must be numbers"),
    ):
        with pytest.raises(DataError, match=message):
            index.search(bad)
    for bad in (5, [5], [None], {1}):
        with pytest.raises(DataError, match="languages must be tags such as"):
            index.search(vectors[0], languages=bad)
    for bad in (-1, None, "2"):
        with pytest.raises(DataError, match="threads must be an integer of at least 1"):
            index.search(vectors[0], threads=bad)
    with pytest.raises(DataError, match="the number is too large"):
        index.search(vectors[0], where={"year": 10**5000})
    for bad in (None, 3, [[1]]):
        with pytest.raises(DataError, match=r"expected document ids|a document id must be"):
            index.delete(bad)
    with pytest.raises(DataError, match="a document id must be a string"):
        index.get({})
    with pytest.raises(DataError, match="it is not valid text"):
        index.delete(["d3\ud83d"])
    assert "d3\ud83d" not in index
    assert None not in index
    with pytest.raises(DataError, match="expected documents, got None"):
        index.add(None, vectors)
    assert len(index.search(vectors[0], np.int64(3))) == 3
    assert len(index.search(vectors[0].astype(np.float64)[::1], 2**70)) == 50


def test_invalid_settings_are_rejected(tmp_path):
    with pytest.raises(DataError, match="M must be"):
        GraphSettings(M=1)
    with pytest.raises(DataError, match="similarity"):
        Index.create(tmp_path / "x", dimension=2, similarity="euclid")
    for dimension in (0, 2.5, True, 2**21):
        with pytest.raises(DataError, match="dimension must be"):
            Index.create(tmp_path / "x", dimension=dimension)
    assert not (tmp_path / "x").exists()
    index = Index.create(tmp_path / "x", dimension=2, similarity="dot")
    with pytest.raises(DataError, match=r"longer than 1e\+18: its scores would overflow"):
        index.add([Document("d", "t")], np.array([[1e20, 0]], np.float32))


def test_dot_product_keeps_lengths(tmp_path):
    index = Index.create(tmp_path / "index", dimension=2, similarity="dot")
    index.add([Document(x, x) for x in ("short", "long")], np.array([[1, 0], [3, 1]], np.float32))
    assert ids(index.search(np.array([1, 0], np.float32), 2)) == ["long", "short"]
    assert index.search(np.array([1, 0], np.float32), 2**70)[0].score == 3


def test_a_language_whose_documents_were_all_deleted(tmp_path):
    index, vectors = made(tmp_path / "index", 8)
    index.delete([f"d{i}" for i in range(8) if i % 4 == 0])
    assert index.languages == {"de": 2, "en": 2, "zh-CN": 2}
    with pytest.raises(DataError, match="no document in language 'ar'"):
        index.search(vectors[0], languages=["ar"])


def test_new_rows_wait_for_the_next_graph(tmp_path):
    """They are found at once; the graph follows when they are many."""
    index, _ = made(tmp_path / "index", 6000, dimension=16)
    assert index.stats()["in the graph"] == 6000
    rng = np.random.default_rng(7)
    new = rng.standard_normal((4000, 16), dtype=np.float32)
    index.add(documents(4000, start=6000), new)
    assert index.stats()["in the graph"] == 6000
    assert ids(index.search(new[5], 1)) == ["d6005"]
    index.link()
    assert index.stats()["in the graph"] == 10_000
    assert ids(index.search(new[5], 1)) == ["d6005"]
    assert len(list((tmp_path / "index").glob("graph-*"))) == 1


def test_searches_run_in_parallel_with_changes(tmp_path):
    index, vectors = made(tmp_path / "index", 5000, dimension=24)
    problems: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                for query in vectors[:50]:
                    assert len(index.search(query, 5)) == 5
                    assert len(index.search(query, 5, languages=["de"])) == 5
        except BaseException as error:
            problems.append(error)

    searchers = [threading.Thread(target=search) for _ in range(3)]
    for thread in searchers:
        thread.start()
    rng = np.random.default_rng(5)
    for n in range(10):
        fresh = rng.standard_normal((40, 24), dtype=np.float32)
        index.add([Document(f"n{n}-{i}", "t", "en") for i in range(40)], fresh)
        index.delete([f"n{n}-{i}" for i in range(0, 40, 2)])
        if n % 4 == 3:
            index.compact()
    stop.set()
    for thread in searchers:
        thread.join()
    assert not problems
    assert len(index) == 5000 + 10 * 20


def test_an_index_survives_a_fork(tmp_path):
    index, vectors = made(tmp_path / "index", 3000)
    index.search(vectors[0], 3)
    child = os.fork()
    if child == 0:
        found = index.search(vectors[1], 1)
        index.add([Document("child", "t", "en")], vectors[:1] + 1)
        os._exit(0 if ids(found) == ["d1"] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert "child" in ids(index.search(vectors[0] + 1, 5))
    index.verify()
