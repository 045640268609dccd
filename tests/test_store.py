"""What is on disk: nothing acknowledged is lost, nothing damaged is believed."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hybridret.data.table import Document
from hybridret.errors import DataError, IndexFileError
from hybridret.serving import store as store_module
from hybridret.serving.index import Index
from hybridret.serving.state import GraphSettings
from hybridret.serving.store import _file_system

DIMENSION = 8
SETTINGS = GraphSettings(M=4, ef_construction=20)
DATA = Path(__file__).parent / "data"


def vector(name: str, version: int = 0) -> np.ndarray:
    """The vector of a document, which no other has."""
    seed = [version, *name.encode()]
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def add(index: Index, *names: str, version: int = 0) -> None:
    index.upsert(
        [Document(n, f"{n} {version}", "en", metadata={"version": version}) for n in names],
        np.stack([vector(n, version) for n in names]),
        threads=1,
    )


def made(folder, count: int = 20) -> Index:
    index = Index.create(folder, dimension=DIMENSION, settings=SETTINGS)
    add(index, *(f"d{n}" for n in range(count)))
    return index


def check(index: Index, expected: dict[str, int]) -> None:
    """Whether the index has these documents in these versions, each with its vector."""
    found = {d.document_id: int(d.text.split()[1]) for d in index.documents()}
    assert found == expected
    assert len(index) == len(expected)
    index.verify()
    vectors = np.stack([vector(name, version) for name, version in expected.items()])
    found_by_vector = index.search(vectors, 1, exact=True)
    for (name, version), (hit,) in zip(expected.items(), found_by_vector, strict=True):
        assert (hit.document_id, hit.text) == (name, f"{name} {version}")
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_nothing_is_written_over(tmp_path):
    made(tmp_path / "index")
    for folder in (tmp_path / "index", tmp_path):
        with pytest.raises(IndexFileError, match="there is something here already"):
            Index.create(folder, dimension=3)
    (tmp_path / "file").touch()
    with pytest.raises(IndexFileError, match="there is something here already"):
        Index.create(tmp_path / "file", dimension=3)
    (tmp_path / "empty").mkdir()
    Index.create(tmp_path / "empty", dimension=3)
    assert len(Index.open(tmp_path / "index")) == 20
    with pytest.raises(IndexFileError, match="no store here"):
        Index.open(tmp_path / "nowhere")


def test_a_creation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store_module, "_TABLES", "CREATE nonsense")
    with pytest.raises(IndexFileError, match="could not be created"):
        Index.create(tmp_path / "index", dimension=3)
    assert not list(tmp_path.iterdir())


CODE = """
import sys
sys.path[:0] = [{tests!r}]
from test_store import *
index = Index.open({folder!r}, timeout=60)
"""


def start(folder, code: str, **options) -> subprocess.Popen:
    whole = CODE.format(tests=str(Path(__file__).parent), folder=str(folder)) + code
    return subprocess.Popen([sys.executable, "-c", whole], text=True, **options)


def test_two_processes_that_write_at_once(tmp_path):
    """Neither loses what the other has added, and a third sees all of it without opening again."""
    index = made(tmp_path / "index")
    code = "for n in range(30): add(index, f'{who}{{n}}'); assert f'{who}{{n}}' in index"
    writers = [
        start(tmp_path / "index", code.replace("{who}", who).replace("{{n}}", "{n}"))
        for who in "ab"
    ]
    while any(writer.poll() is None for writer in writers):
        for hit in index.search(vector("d3"), 5):
            assert hit.text.endswith(" 0")
    assert [writer.wait() for writer in writers] == [0, 0]
    check(
        index,
        {**{f"d{n}": 0 for n in range(20)}, **{f"{w}{n}": 0 for w in "ab" for n in range(30)}},
    )


def test_a_writer_that_is_too_long_is_named(tmp_path):
    made(tmp_path / "index")
    code = "with index.store.change(): print('ready', flush=True); input()"
    writer = start(tmp_path / "index", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    index = Index.open(tmp_path / "index", timeout=0.2)
    with pytest.raises(
        IndexFileError,
        match=rf"process {writer.pid} has been changing the store for more than 0.2 s",
    ):
        add(index, "x")
    assert len(index.search(vector("d1"), 3)) == 3  # readers do not wait
    writer.communicate("\n")
    add(index, "x")
    assert "x" in index


KILLED = """
import random
import hybridret.serving.index as module
module._UNLINKED, module._DEAD = 20, 30  # graphs and compactions of a small index
rng = random.Random({seed})
expected = json.loads(sys.stdin.readline())
print("ready", flush=True)
for step in range(100_000):
    action = rng.choice(["add"] * 4 + ["upsert"] * 3 + ["delete"] * 3 + ["compact", "link"])
    known = sorted(expected)
    if action == "add":
        names = [f"k{seed}-{{step}}-{{n}}" for n in range(rng.choice([1, 3, 40]))]
        new = dict.fromkeys(names, 0)
    elif action == "upsert":
        new = {{name: expected[name] + 1 for name in rng.sample(known, min(5, len(known)))}}
    elif action == "delete":
        new = dict.fromkeys(rng.sample(known, min(rng.choice([1, 20]), len(known) // 2)))
    else:
        new = {{}}
    print(json.dumps(["begin", new]), flush=True)
    if action == "compact":
        index.compact()
    elif action == "link":
        index.link(threads=1)
    elif action == "delete":
        index.delete(new)
    else:
        for version in sorted(set(new.values())):
            add(index, *(name for name in new if new[name] == version), version=version)
            part = {{n: v for n, v in new.items() if v == version}}
            print(json.dumps(["part", part]), flush=True)
    expected.update(new)
    expected = {{name: version for name, version in expected.items() if version is not None}}
    print(json.dumps(["done", new]), flush=True)
"""


def applied(state: dict[str, int], change: dict[str, int | None]) -> dict[str, int]:
    return {n: v for n, v in {**state, **change}.items() if v is not None}


def parts(change: dict[str, int | None]) -> list[dict[str, int | None]]:
    """The transactions of a change."""
    versions = sorted({-1 if v is None else v for v in change.values()})
    return [
        {n: v for n, v in change.items() if (-1 if v is None else v) == version}
        for version in versions
    ]


def test_killed_at_random_moments(tmp_path):
    """What was acknowledged is there, each document with its vector, and nothing else."""
    kills = int(os.environ.get("HYBRIDRET_KILLS", "10"))
    index = made(tmp_path / "index", 60)
    state = {f"d{n}": 0 for n in range(60)}
    rng = random.Random(kills)

    for kill in range(kills):
        process = start(
            tmp_path / "index",
            KILLED.replace("{seed}", str(kill)).replace("{{", "{").replace("}}", "}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(state) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.01, 0.4))
        process.kill()
        lines = process.stdout.read().splitlines()
        process.communicate()
        pending: list[dict[str, int | None]] = []
        for line in lines:
            try:
                what, change = json.loads(line)
            except ValueError:
                break  # cut off
            if what == "begin":
                pending = parts(change)
            elif what == "part":
                state = applied(state, pending.pop(0))
            else:
                for part in pending:
                    state = applied(state, part)
                pending = []
        survivor = Index.open(tmp_path / "index")
        there = {d.document_id: int(d.text.split()[1]) for d in survivor.documents()}
        if there != state:  # committed, and killed before it could say so
            assert pending
            state = applied(state, pending[0])
        check(survivor, state)
    check(index, state)  # it was open all the time
    left = {f.name.partition("-")[0].partition(".")[0] for f in (tmp_path / "index").iterdir()}
    assert left <= {"store", "vectors", "graph", "writer"} | {
        f.name for f in (tmp_path / "index").glob(".*")
    }


def test_a_damaged_graph_is_not_believed(tmp_path):
    """It is compared with its checksum, searches are exact without it, and it is made again."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, DIMENSION)).astype(np.float32)
    index = Index.create(tmp_path / "index", dimension=DIMENSION, settings=SETTINGS)
    index.add([Document(f"d{n}", "t") for n in range(6000)], vectors)
    (graph,) = (tmp_path / "index").glob("graph-*")
    whole = graph.read_bytes()
    exact = [h.document_id for h in index.search(vectors[7], 5, exact=True)]
    for name, damaged in (
        ("flipped", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]),
        ("truncated", whole[:-100]),
        ("empty", b""),
        ("missing", None),
    ):
        folder = shutil.copytree(tmp_path / "index", tmp_path / name)
        if damaged is None:
            (folder / graph.name).unlink()
        else:
            (folder / graph.name).write_bytes(damaged)
        other = Index.open(folder)
        assert other.stats()["in the graph"] == 0
        assert other.stats()["damaged"] != "nothing"
        assert [h.document_id for h in other.search(vectors[7], 5)] == exact
        with pytest.raises(IndexFileError, match="compact' makes the graph again"):
            other.verify()
        if name == "flipped":
            other.compact()
        else:
            other.link()
        assert other.stats()["in the graph"] == 6000
        other.verify()
        Index.open(folder).verify()


def test_damaged_vectors_are_found(tmp_path):
    made(tmp_path / "index").store.close()
    good = (tmp_path / "index" / "vectors-1.f32").read_bytes()
    for name, damaged, message in (
        ("short", good[:-40], "vectors-1.f32: damaged: missing, or shorter than its 20 vectors"),
        ("missing", None, "vectors-1.f32: damaged: missing"),
    ):
        folder = shutil.copytree(tmp_path / "index", tmp_path / name)
        (folder / "vectors-1.f32").unlink()
        if damaged is not None:
            (folder / "vectors-1.f32").write_bytes(damaged)
        with pytest.raises(IndexFileError, match=message):
            Index.open(folder)
    flipped = bytearray(good)
    flipped[100] ^= 1
    (tmp_path / "index" / "vectors-1.f32").write_bytes(bytes(flipped))
    with pytest.raises(IndexFileError, match="the vectors 0 to 19 have another checksum"):
        Index.open(tmp_path / "index").verify()


def test_foreign_and_damaged_databases(tmp_path):
    made(tmp_path / "index").store.close()
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "store.db").write_bytes(
        b"not a database at all, but long enough to be read as one" * 9
    )
    with pytest.raises(IndexFileError, match=r"store\.db: file is not a database"):
        Index.open(folder)
    (folder / "store.db").unlink()
    sqlite3.connect(folder / "store.db").execute("CREATE TABLE x (y)")
    with pytest.raises(IndexFileError, match="a database, but not of a store"):
        Index.open(folder)
    connection = sqlite3.connect(tmp_path / "index" / "store.db")
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(IndexFileError, match="schema 9, but this version reads schema 2"):
        Index.open(tmp_path / "index")
    connection = sqlite3.connect(tmp_path / "index" / "store.db")
    connection.execute("PRAGMA user_version = 2")
    connection.execute("UPDATE generations SET similarity = 'euclid'")
    connection.commit()
    connection.close()
    with pytest.raises(IndexFileError, match=r"damaged: .*euclid"):
        Index.open(tmp_path / "index")


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
    """A limit on the size of files stands in for the disk."""
    index = made(tmp_path / "index", 2000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
        with pytest.raises(IndexFileError, match="could not be changed"):
            add(index, *(f"x{n}" for n in range(500)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    check(index, {f"d{n}": 0 for n in range(2000)} if len(index) == 2000 else {})
    add(index, "x")
    assert len(Index.open(tmp_path / "index")) == 2001


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    made(tmp_path / "index").store.close()
    assert not (tmp_path / "index" / "store.db-wal").exists()
    real = os.access
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
        index = Index.open(tmp_path / "index")
        assert index.search(vector("d3"), 1)[0].document_id == "d3"
        with pytest.raises(IndexFileError, match=r"could not be changed: .*readonly"):
            add(index, "x")
    owner = Index.open(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
        reader = Index.open(tmp_path / "index")
    add(owner, "y")
    owner.compact()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
        assert reader.search(vector("y"), 1)[0].document_id == "y"
    for each in (owner, reader, index):
        each.store.close()
    (tmp_path / "index" / "store.db-shm").unlink(missing_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    (tmp_path / "index" / "store.db-wal").write_bytes(b"changes")
    with pytest.raises(IndexFileError, match="has changes that were not copied into the database"):
        Index.open(tmp_path / "index")


def test_network_file_systems_are_refused(tmp_path, monkeypatch):
    mounts = (
        f"overlay / overlay rw 0 0\nserver:/a {tmp_path} nfs4 rw 0 0\n"
        f"tmpfs {tmp_path}/with\\040space tmpfs rw 0 0\n"
    )
    assert _file_system(tmp_path / "x", mounts) == "nfs4"
    assert _file_system(tmp_path.parent, mounts) == "overlay"
    assert _file_system(tmp_path / "with space" / "y", mounts) == "tmpfs"
    assert _file_system(Path(f"{tmp_path}-other"), mounts) == "overlay"
    monkeypatch.setattr(store_module, "_file_system", lambda *_: "cifs")
    with pytest.raises(IndexFileError, match=r"is on a network file system \(cifs\)"):
        Index.create(tmp_path / "index", dimension=3)


def test_an_index_of_version_01_is_converted(tmp_path):
    folder = shutil.copytree(DATA / "index-0.1", tmp_path / "index")
    index = Index.open(folder, encoder="fingerprint")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    assert len(index) == 18
    assert index.settings == GraphSettings(M=5)
    assert index.get("d4") == Document("d4", "text 4", "de", "g4", "T")
    for n in range(20):
        if n not in (3, 11):
            hit = index.search(vectors[n], 1)[0]
            assert (hit.document_id, hit.text) == (f"d{n}", f"text {n}")
            assert hit.score == pytest.approx(1, abs=1e-5)
    assert not {"d3", "d11"} & {d.document_id for d in index.documents()}
    index.verify()
    names = {f.name for f in folder.iterdir()}
    assert names <= {"store.db", "store.db-shm", "store.db-wal", "vectors-1.f32", "writer", ".lock"}
    assert len(Index.open(folder)) == 18


def test_processes_that_convert_at_once(tmp_path):
    folder = shutil.copytree(DATA / "index-0.1", tmp_path / "index")
    processes = [start(folder, f"add(index, 'new{n}')") for n in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    index = Index.open(folder)
    assert len(index) == 22
    index.verify()


def test_processes_that_create_at_once(tmp_path):
    """One of them does; what it adds is not replaced."""
    code = """
try:
    index = Index.create({folder!r}, dimension=DIMENSION, settings=SETTINGS)
except IndexFileError:
    sys.exit(3)
add(index, "mine")
"""
    whole = CODE.format(tests=str(Path(__file__).parent), folder="").split("index = ")[0]
    command = [sys.executable, "-c", whole + code.format(folder=str(tmp_path / "index"))]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert sorted(process.wait() for process in processes) == [0, 3, 3, 3]
    assert "mine" in Index.open(tmp_path / "index")


def test_an_interrupt_leaves_everything_in_step(tmp_path, monkeypatch):
    """Wherever it comes: in a read, before and after a commit, in the middle of a refresh."""
    index = made(tmp_path / "index", 10)
    expected = {f"d{n}": 0 for n in range(10)}
    interrupts = [
        ("hybridret.serving.connections.Connection", "begin"),
        ("hybridret.serving.store.Store", "news"),
        ("hybridret.serving.store.Store", "vectors"),
        ("hybridret.serving.state.State", "advance"),
        ("hybridret.serving.state.State", "_places"),
        ("hybridret.serving.change.Change", "finish"),
        ("hybridret.serving.change.Change", "add"),
    ]
    for number, (owner, name) in enumerate(interrupts):
        module, _, kind = owner.rpartition(".")
        target = getattr(sys.modules[module], kind)
        real = getattr(target, name)

        def interrupted(*arguments, real=real, **options):
            real(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(target, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                add(index, f"x{number}")
        if f"x{number}" in index:  # it came after the commit
            expected[f"x{number}"] = 0
        add(index, f"y{number}")
        expected[f"y{number}"] = 0
        check(index, expected)


def test_a_child_of_a_fork_loses_nothing(tmp_path):
    """While the parent closes its connection, and adds itself."""
    index = made(tmp_path / "index", 3)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            add(index, "child1")
            os.read(reading, 1)
            assert "parent" in {d.document_id for d in index.documents()}
            assert len(index.search(vector("d1"), 9)) == len(index) == 5
            add(index, "child2")
            status = 0
        finally:
            os._exit(status)
    add(index, "parent")
    index.store.close()
    os.write(writing, b"x")
    _, status = os.waitpid(child, 0)
    assert status == 0
    names = [*(f"d{n}" for n in range(3)), "parent", "child1", "child2"]
    check(index, dict.fromkeys(names, 0))
    check(Index.open(tmp_path / "index"), dict.fromkeys(names, 0))


def test_a_graph_that_cannot_be_written_is_no_lost_document(tmp_path, monkeypatch):
    import hybridret.serving.index as module

    monkeypatch.setattr(module, "_UNLINKED", 20)
    index = made(tmp_path / "index", 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sha256", full)
    with pytest.warns(UserWarning, match="neither compacted nor linked: .*No space left"):
        add(index, *(f"x{n}" for n in range(50)))
    assert len(index) == 60
    with pytest.raises(IndexFileError, match="the graph could not be written"):
        index.link()
    assert not list((tmp_path / "index").glob(".graph*"))


def test_a_damaged_index_of_version_01(tmp_path):
    for name, file, change, message in (
        ("a", "graph-1.hnsw", lambda b: b[:-100], "truncated"),
        ("b", "graph-1.hnsw", lambda b: b[:500] + b"x" + b[501:], "checksum"),
        ("c", "documents-1.jsonl", lambda b: b[:-9], "truncated"),
        ("d", "manifest.json", lambda b: b[:-9], "damaged"),
        (
            "e",
            "manifest.json",
            lambda b: b.replace(b"graph-1", b"../x-1"),
            "not a file of an index",
        ),
        (
            "f",
            "manifest.json",
            lambda b: b.replace(b'"schema": 1', b'"schema": 7'),
            "reads schema 1",
        ),
        (
            "g",
            "manifest.json",
            lambda b: b.replace(b'"dimension": 8', b'"dimension": 9'),
            "another",
        ),
        ("h", "manifest.json", lambda b: b"[]", "not the manifest of an index"),
    ):
        folder = shutil.copytree(DATA / "index-0.1", tmp_path / name)
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        with pytest.raises((IndexFileError, DataError), match=message):
            Index.open(folder)
        assert (folder / "manifest.json").exists()
