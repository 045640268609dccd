"""The index: right answers, whole files, and hnswlib's own faults covered one by one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from hybridret import _native
from hybridret._files import sha256
from hybridret.data.table import Document
from hybridret.errors import DataError, IndexFileError
from hybridret.serving.index import GraphSettings, Index

LANGUAGES = ("ar", "de", "en", "zh")


def made(count: int, dimension: int = 24, seed: int = 0, **options) -> tuple[Index, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    documents = [
        Document(f"d{i}", f"text {i}", LANGUAGES[i % 4], f"d{i}", title="T" if i % 3 else "")
        for i in range(count)
    ]
    index = Index(dimension, **options)
    index.add(documents, vectors)
    return index, vectors


def ids(hits) -> list[str]:
    return [hit.document_id for hit in hits]


def nearest(vectors: np.ndarray, query: np.ndarray, k: int, keep=None) -> list[str]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ (query / np.linalg.norm(query))
    order = [i for i in np.argsort(-scores, kind="stable") if keep is None or keep(i)]
    return [f"d{i}" for i in order[:k]]


def test_exact_search_is_a_full_sort():
    index, vectors = made(500)
    for query in np.random.default_rng(1).standard_normal((20, 24), dtype=np.float32):
        hits = index.search(query, 7, exact=True)
        assert ids(hits) == nearest(vectors, query, 7)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        german = index.search(query, 5, languages=["de"])
        assert ids(german) == nearest(vectors, query, 5, keep=lambda i: i % 4 == 1)


def test_the_graph_finds_what_the_exact_search_finds():
    index, _ = made(6000, dimension=16)
    queries = np.random.default_rng(2).standard_normal((50, 16), dtype=np.float32)
    found = wanted = 0
    for query in queries:
        for languages in (None, ["de", "en", "zh"]):
            exact = set(ids(index.search(query, 10, languages=languages, exact=True)))
            graph = ids(index.search(query, 10, languages=languages))
            assert len(graph) == 10
            found, wanted = found + len(exact & set(graph)), wanted + 10
    assert found / wanted > 0.97


def test_saved_and_loaded(tmp_path):
    index, vectors = made(3000, encoder="e1", settings=GraphSettings(M=8, ef_search=77))
    index.delete(["d5", "d17"])
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index", encoder="e1")
    assert (len(again), again.languages, again.settings) == (2998, index.languages, index.settings)
    for query in vectors[:20]:
        assert again.search(query, 9) == index.search(query, 9)
    # Nothing is lost over a second generation, and no file of the first is left.
    again.add([Document("d5", "new", "fr", "x")], vectors[5:6])
    again.save(tmp_path / "index")
    third = Index.load(tmp_path / "index")
    assert third.search(vectors[5], 1, languages=["fr"])[0].text == "new"
    assert len(list((tmp_path / "index").iterdir())) == 4  # with the lock


def test_deleted_documents_are_not_found_and_can_be_added_again():
    index, vectors = made(100)
    assert ids(index.search(vectors[3], 1)) == ["d3"]
    index.delete(["d3"])
    assert "d3" not in ids(index.search(vectors[3], 100))
    assert len(index.search(vectors[3], 100)) == 99
    index.add([Document("d3", "new", "de", "d3")], vectors[3:4])
    hits = index.search(vectors[3], 2)
    assert hits[0].text == "new"
    assert len({*ids(hits)}) == 2  # never the same document twice
    with pytest.raises(DataError, match="no document 'nothing'"):
        index.delete(["d4", "nothing"])
    assert "d4" in index


def test_fewer_documents_than_k():
    index, vectors = made(3)
    assert len(index.search(vectors[0], 50)) == 3
    assert Index(4).search(np.ones(4, np.float32), 5) == []


def test_one_bad_vector_changes_nothing():
    """One NaN in hnswlib takes a quarter of the recall of the whole graph with it."""
    index, vectors = made(50)
    bad = vectors[:3].copy()
    bad[1, 4] = np.nan
    documents = [Document(f"x{i}", "t", "en", "x") for i in range(3)]
    with pytest.raises(DataError, match="document 'x1' has a value that is not finite"):
        index.add(documents, bad)
    bad[1] = 0
    with pytest.raises(DataError, match="document 'x1' is zero"):
        index.add(documents, bad)
    with pytest.raises(DataError, match="document id 'x0' is a duplicate"):
        index.add([documents[0], documents[0]], vectors[:2])
    with pytest.raises(DataError, match="already in the index"):
        index.add([documents[0], Document("d7", "t", "en", "x")], vectors[:2])
    with pytest.raises(DataError, match=r"2 vectors of dimension 24, got shape \[3, 24\]"):
        index.add(documents[:2], vectors[:3])
    with pytest.raises(DataError, match="the query has a value that is not finite"):
        index.search(np.full(24, np.inf, np.float32))
    with pytest.raises(DataError, match="k must be an integer of at least 1, got 0"):
        index.search(vectors[0], 0)
    with pytest.raises(
        DataError, match="no document in language 'fr'; the index has ar, de, en, zh"
    ):
        index.search(vectors[0], languages=["fr"])
    assert len(index) == 50
    index.add(documents, vectors[:3])
    assert len(index) == 53


def test_an_interrupt_during_add_leaves_index_and_documents_in_step(tmp_path, monkeypatch):
    """Ctrl-C is delivered when the native call returns: the vectors are in by then."""
    index, vectors = made(50)
    index.save(tmp_path / "index")
    native = index._graph

    class Interrupted:
        def __getattr__(self, name):
            return getattr(native, name)

        def add(self, *arguments, **options):
            native.add(*arguments, **options)
            raise KeyboardInterrupt

    monkeypatch.setattr(index, "_graph", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        index.add([Document("x", "t", "fr", "x")], -vectors[:1])
    monkeypatch.undo()
    assert ids(index.search(-vectors[0], 1)) == ["x"]
    index.save(tmp_path / "index")
    assert ids(Index.load(tmp_path / "index").search(-vectors[0], 1)) == ["x"]
    native.add(vectors[:1], np.zeros(1, np.int32))  # as if the interrupt had come later still
    with pytest.raises(IndexFileError, match="cannot be saved"):
        index.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 51


def test_saving_keeps_unrelated_files(tmp_path):
    for name in ("documents-en.jsonl", "graph-notes.txt", "documents.jsonl"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "graph-dir").mkdir()
    index, _ = made(10)
    index.save(tmp_path)
    index.save(tmp_path)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {
        "documents-en.jsonl",
        "graph-notes.txt",
        "documents.jsonl",
        "graph-dir",
        ".lock",
        "manifest.json",
        "graph-2.hnsw",
        "documents-2.jsonl",
    }


def test_two_processes_that_save_at_once(tmp_path):
    """Whoever comes last, the index is one of the two, whole; and it can be read at any moment."""
    code = f"""
import sys, numpy as np
from hybridret.data.table import Document
from hybridret.serving.index import Index
who = sys.argv[1]
index = Index(4)
vectors = np.eye(4, dtype=np.float32) if who == "a" else np.eye(4, dtype=np.float32)[::-1]
index.add([Document(f"{{who}}{{i}}", "t", "en", "x") for i in range(4)], vectors)
for _ in range(30):
    index.save({str(tmp_path / "index")!r})
"""
    savers = [subprocess.Popen([sys.executable, "-c", code, who]) for who in "ab"]
    manifest = tmp_path / "index" / "manifest.json"
    loads = 0
    while any(saver.poll() is None for saver in savers) or not loads:
        if manifest.exists():
            hit = Index.load(tmp_path / "index").search(np.array([1, 0, 0, 0], np.float32), 1)[0]
            assert hit.document_id in ("a0", "b3")
            loads += 1
    assert [saver.wait() for saver in savers] == [0, 0]
    assert len(list((tmp_path / "index").iterdir())) == 4


def test_a_language_whose_documents_were_all_deleted():
    index, vectors = made(8)
    index.delete([f"d{i}" for i in range(8) if i % 4 == 0])
    assert index.languages == {"de": 2, "en": 2, "zh": 2}
    with pytest.raises(DataError, match="no document in language 'ar'; the index has de, en, zh"):
        index.search(vectors[0], languages=["ar"])


def test_invalid_vectors_texts_and_settings_are_rejected():
    index = Index(2, similarity="dot")
    with pytest.raises(DataError, match=r"longer than 1e\+18: its scores would overflow"):
        index.add([Document("d", "t", "en", "d")], np.array([[1e20, 0]], np.float32))
    with pytest.raises(DataError, match="lone surrogate"):
        index.add([Document("d\ud83d", "t", "en", "d")], np.ones((1, 2), np.float32))
    for bad in (2.0, "3"):
        with pytest.raises(DataError, match="k must be"):
            index.search(np.ones(2, np.float32), bad)
    with pytest.raises(DataError, match="M must be"):
        GraphSettings(M=1)
    with pytest.raises(DataError, match="similarity"):
        Index(2, similarity="euclid")


def test_native_guards():
    graph = _native.HnswIndex(4, M=4, ef_construction=10, ef_search=10, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        graph.add(np.full((1, 4), np.nan, np.float32), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match=r"shape \[count, 4\]"):
        graph.add(np.ones((1, 5), np.float32), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="no live document has label 0"):
        graph.remove(0)
    assert graph.size == graph.live == 0


def test_dot_product_keeps_lengths():
    index = Index(2, similarity="dot")
    documents = [Document(x, x, "en", x) for x in ("short", "long")]
    index.add(documents, np.array([[1, 0], [3, 1]], np.float32))
    assert ids(index.search(np.array([1, 0], np.float32), 2)) == ["long", "short"]
    assert index.search(np.array([1, 0], np.float32), 2**70)[0].score == 3


def damage(folder, name: str, change) -> None:
    path = next(folder.glob(name))
    path.write_bytes(change(path.read_bytes()))


def test_damaged_files_are_found(tmp_path):
    index, _ = made(200, encoder="e1")
    index.save(tmp_path / "good")

    def copy(name: str):
        return shutil.copytree(tmp_path / "good", tmp_path / name)

    def flip(data: bytes) -> bytes:
        return (
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        )

    for name, file, change, message in (
        ("a", "graph-*", lambda b: b[:-100], "truncated"),
        ("b", "graph-*", flip, "checksum"),
        ("c", "documents-*", lambda b: b[: len(b) // 2], "truncated"),
        ("d", "documents-*", flip, "checksum"),
        ("e", "manifest.json", lambda b: b[: len(b) // 2], "damaged"),
        ("f", "manifest.json", lambda b: b.replace(b'"dimension"', b'"dimensions"'), "damaged"),
        (
            "i",
            "manifest.json",
            lambda b: b.replace(b'"dimension": 24', b'"dimension": -1'),
            "damaged",
        ),
        ("j", "manifest.json", lambda b: b.replace(b'"cosine"', b'"euclid"'), "damaged"),
        ("k", "manifest.json", lambda b: b.replace(b"graph-1", b"../x-1"), "damaged"),
        ("l", "manifest.json", lambda b: b.replace(b'"bytes"', b'"size"'), "damaged"),
        (
            "g",
            "manifest.json",
            lambda b: b.replace(b'"schema": 1', b'"schema": 9'),
            "reads schema 1",
        ),
        ("m", "manifest.json", lambda b: b"\xff", "damaged"),
        ("n", "manifest.json", lambda b: b"[" * 100_000, "damaged: nested too deeply"),
        ("o", "manifest.json", lambda b: b"[]", "damaged: not the manifest"),
    ):
        damage(folder := copy(name), file, change)
        with pytest.raises(IndexFileError, match=message):
            Index.load(folder)
    next((folder := copy("h")).glob("graph-*")).unlink()
    with pytest.raises(IndexFileError, match="missing"):
        Index.load(folder)
    with pytest.raises(IndexFileError, match="no index here"):
        Index.load(tmp_path / "nowhere")
    with pytest.raises(IndexFileError, match="made with another encoder"):
        Index.load(tmp_path / "good", encoder="e2")


def test_the_manifest_keeps_its_schema(tmp_path):
    """What version 0.1 wrote is read, and the other way round: it calls M links."""
    index, _ = made(50, settings=GraphSettings(M=5))
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["settings"].keys() == {"links", "ef_construction", "ef_search", "seed"}
    assert Index.load(tmp_path).settings == index.settings


def test_a_graph_of_another_index_is_rejected(tmp_path):
    """Checksums made to fit: header and links are still checked before they are followed."""
    for name, options in (("mine", {}), ("other", {"settings": GraphSettings(M=6)})):
        made(300, **options)[0].save(tmp_path / name)

    def load_with(graph: bytes):
        folder = shutil.copytree(tmp_path / "mine", tmp_path / "forged", dirs_exist_ok=True)
        path = next(folder.glob("graph-*"))
        path.write_bytes(graph)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][path.name] = {"bytes": len(graph), "sha256": sha256(path)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return Index.load(folder)

    good = next((tmp_path / "mine").glob("graph-*")).read_bytes()
    assert len(load_with(good)) == 300
    with pytest.raises(IndexFileError, match="not the graph of this index"):
        load_with(next((tmp_path / "other").glob("graph-*")).read_bytes())
    with pytest.raises(IndexFileError):
        load_with(good[: len(good) // 2])
    with pytest.raises(IndexFileError):
        load_with(b"")
    header = 8 * 6 + 4 + 4 + 8 * 3 + 8 + 8  # before the first element: its links, then its vector
    wild = bytearray(good)
    wild[header + 4 : header + 8] = b"\xff\xff\xff\x7f"  # the first link of the first element
    with pytest.raises(IndexFileError, match="out of range"):
        load_with(bytes(wild))


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
    """A limit on the size of files stands in for the disk; hnswlib itself says nothing of it."""
    index, vectors = made(500)
    index.save(tmp_path / "index")
    before = {p.name: sha256(p) for p in (tmp_path / "index").iterdir()}
    index.add([Document("x", "t", "en", "x")], vectors[:1] + 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(IndexFileError, match="could not"):
            index.save(tmp_path / "index")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: sha256(p) for p in (tmp_path / "index").iterdir()} == before
    assert len(Index.load(tmp_path / "index")) == 500


def test_an_index_killed_while_saving_can_be_loaded(tmp_path):
    code = f"""
import numpy as np
from hybridret.data.table import Document
from hybridret.serving.index import Index
index = Index.load({str(tmp_path / "index")!r})
print("ready", flush=True)
for n in range(10_000):
    index.add([Document(f"n{{n}}", "t", "en", "x")], np.ones((1, 24), np.float32) + n)
    index.save({str(tmp_path / "index")!r})
"""
    made(400)[0].save(tmp_path / "index")
    for seconds in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        threading.Event().wait(seconds)
        process.kill()
        process.wait()
        process.stdout.close()
        survivor = Index.load(tmp_path / "index")
        assert len(survivor) >= 400
        # What the killed one left half-written goes with the next save.
        for document_id in [f"n{n}" for n in range(10_000) if f"n{n}" in survivor]:
            survivor.delete([document_id])
        survivor.save(tmp_path / "index")


def test_searches_run_in_parallel_with_changes():
    index, vectors = made(2500, dimension=24)
    problems: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                for query in vectors[:50]:
                    assert len(index.search(query, 5)) == 5
        except BaseException as error:
            problems.append(error)

    searchers = [threading.Thread(target=search) for _ in range(3)]
    for thread in searchers:
        thread.start()
    rng = np.random.default_rng(5)
    for n in range(30):
        fresh = rng.standard_normal((40, 24), dtype=np.float32)
        index.add([Document(f"n{n}-{i}", "t", "en", "x") for i in range(40)], fresh)
        index.delete([f"n{n}-{i}" for i in range(0, 40, 2)])
    stop.set()
    for thread in searchers:
        thread.join()
    assert not problems
    assert len(index) == 2500 + 30 * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_survive_a_fork():
    """A DataLoader worker is a fork of a process whose pool has run."""
    index, vectors = made(300)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            index.add([Document("child", "t", "en", "x")], vectors[:1] * 2, threads=2)
            rng = np.random.default_rng(0)
            q = rng.standard_normal((300, 24), dtype=np.float32)
            _native.InfoNCE(q, q, np.arange(300), scale=1.0).forward(threads=2)
            code = 0 if len(index) == 301 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
