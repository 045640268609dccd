"""Change of the encoder beside live traffic, and back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from hybridret.cli import main
from hybridret.data.table import Document
from hybridret.encoder.exporting import export
from hybridret.encoder.manifest import read_manifest
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError, IndexFileError, ModelError
from hybridret.serving import reindex as module
from hybridret.serving.index import Index
from hybridret.serving.retriever import Retriever, has_index
from hybridret.serving.store import Store
from hybridret.serving.words import drop

NAMES = TEXTS[:6]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two exported encoders, of other dimensions."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, dimension in (("old", 24), ("new", 16)):
        encoder = TorchEncoder.new_static(TEXTS, dimension=dimension, vocabulary_size=300)
        export(encoder, folder / name)
    return folder


@pytest.fixture
def folders(made, tmp_path):
    shutil.copytree(made, tmp_path / "encoders")
    return tmp_path / "encoders" / "old", tmp_path / "encoders" / "new"


def documents(count: int, start: int = 0) -> list[Document]:
    return [
        Document(f"d{n}", f"{NAMES[n % 6]} {'Paris ' * (n % 7)}{'river ' * (n // 7 % 11)}{n}", "en")
        for n in range(start, start + count)
    ]


def check(retriever: Retriever, expected: list[Document]) -> None:
    """The store has these documents, each with its own vector of the encoder, and its words."""
    assert {d.document_id: d.text for d in retriever.documents()} == {
        d.document_id: d.text for d in expected
    }
    retriever.index.verify()
    vectors = retriever.encoder.encode_queries([d.text for d in expected])
    found = retriever.index.search(vectors, 1, exact=True)
    assert [hits[0].score for hits in found] == pytest.approx([1] * len(expected), abs=1e-5)
    close = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [d.document_id for d in expected]
    for n, hits in enumerate(found):  # itself, or one with the same vector
        assert close[n] @ close[ids.index(hits[0].document_id)] == pytest.approx(1, abs=1e-5)


def test_another_encoder_and_back(folders):
    old, new = folders
    docs = documents(60)
    retriever = Retriever.create(old)
    retriever.add(docs)
    other = Retriever.load(old)  # as another process
    before = retriever.search("Paris", k=5)
    assert retriever.reindex(new) == 60
    assert (retriever.index.dimension, other.index.dimension) == (16, 24)
    check(retriever, docs)
    fresh = Retriever.create(new)
    fresh.add(docs)
    expected = [(h.document_id, h.score) for h in fresh.search("Paris", k=5)]
    for mode in ("dense", "words", "hybrid"):
        assert retriever.search("Paris", k=5, mode=mode) == fresh.search("Paris", k=5, mode=mode)
    wait_for(lambda: other.search("Paris", k=5)[0].score == expected[0][1])
    assert [(h.document_id, h.score) for h in other.search("Paris", k=5)] == expected
    assert retriever.index.stats()["other encoders"] == {f"{other_fingerprint(old)} (ready)": 60}
    # What comes now is embedded with both: the way back embeds nothing.
    other.add(documents(5, 60))
    other.delete(["d0"])
    other.upsert([Document("d1", "Belgrade", "en")])
    assert other.reindex(old) == 0
    changed = [Document("d1", "Belgrade", "en"), *documents(63, 2)]
    check(other, changed)
    wait_for(lambda: (retriever.search("x"), retriever.index.dimension)[1] == 24)
    check(retriever, changed)
    assert retriever.search("Paris", k=5)[0].score == pytest.approx(before[0].score)
    retriever.reindex(new, drop=True)
    assert retriever.index.stats()["other encoders"] == {}
    other.search("Paris")  # its encoder's vectors are gone
    assert other.index.dimension == 16
    again = Retriever.load(old)  # the folder of the former encoder
    assert again.index.dimension == 16
    check(again, changed)
    check(Retriever.load(old / "index"), changed)  # the store alone
    left = sorted(f.name.split("-")[0] for f in (old / "index").iterdir() if f.name[0] != ".")
    assert [name for name in left if not name.startswith("store")] == [
        "encoder",
        "vectors",
        "writer",
    ]


def other_fingerprint(folder: Path) -> str:
    return str(read_manifest(folder)["fingerprint"])


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_documents_that_come_and_go_meanwhile(folders, monkeypatch):
    """Between reading a chunk of documents and writing its vectors."""
    old, new = folders
    monkeypatch.setattr(module, "_CHUNK", 8)
    monkeypatch.setattr(module, "_LAST", 2)
    retriever = Retriever.create(old)
    retriever.add(documents(50))
    embed, steps = module.embed, iter(range(100))
    service = Retriever.load(old)

    def interrupted(encoder, generation, docs, **options):
        found = embed(encoder, generation, docs, **options)
        step = next(steps)
        if len(docs) > 2 and step < 8:
            service.add([Document(f"new{step}", f"river {step} Paris")])
            service.delete([docs[0].document_id, docs[-1].document_id])
            service.upsert([Document(docs[1].document_id, f"Belgrade {step}")])
        if step == 3:
            service.index.compact()
        return found

    monkeypatch.setattr(module, "embed", interrupted)
    retriever.reindex(new)
    assert retriever.index.dimension == 16
    check(retriever, list(retriever.documents()))
    with_words = Index.open(old / "index")
    rows = with_words.store.news(with_words._state.generation, 0, 0, 0).rows
    assert (np.diff(rows) > 0).all()  # each document once, in order


def test_an_interrupted_change_goes_on(folders, monkeypatch):
    old, new = folders
    monkeypatch.setattr(module, "_CHUNK", 8)
    retriever = Retriever.create(old)
    retriever.add(documents(50))
    embed, steps = module.embed, iter(range(100))

    def interrupted(*arguments, **options):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return embed(*arguments, **options)

    monkeypatch.setattr(module, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retriever.reindex(new)
    assert retriever.search("Paris")
    assert Retriever.load(old).index.dimension == 24
    retriever.delete(["d20", "d23", "d49"])
    assert Retriever.load(old).reindex(new) == 50 - 24 - 1  # of those left, d49 was deleted
    check(
        Retriever.load(old),
        [d for d in documents(50) if d.document_id not in {"d20", "d23", "d49"}],
    )


def test_one_change_at_a_time(folders, made, tmp_path, monkeypatch):
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(5))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retriever.reindex(new)
    third = TorchEncoder.new_static(TEXTS, dimension=8, vocabulary_size=300)
    export(third, tmp_path / "third")
    with pytest.raises(IndexFileError, match=r"being embedded with another encoder .* --drop"):
        retriever.reindex(tmp_path / "third")
    assert module.drop_others(retriever.index.store) == [other_fingerprint(new)]
    assert retriever.reindex(tmp_path / "third") == 5
    assert retriever.reindex(new) == 5  # once more, after it was dropped
    check(retriever, documents(5))
    assert len(retriever.index.store.generations()) == 3


def test_mistakes_change_nothing(folders, tmp_path):
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(3))
    with pytest.raises(ModelError, match="not an exported encoder"):
        retriever.reindex(tmp_path)
    retriever.reindex(new)
    index = Index.open(old / "index")
    with pytest.raises(IndexFileError, match=r"embedded with 2 encoders .* add with a Retriever"):
        index.add([Document("x", "x")], np.ones((1, 16), np.float32))
    assert "x" not in retriever
    former = Index.open(old / "index", encoder=other_fingerprint(old))
    assert former.dimension == 24
    module.drop_others(retriever.index.store)
    with pytest.raises(IndexFileError, match="were dropped; open the store again"):
        former.search(np.ones(24, np.float32))
    with pytest.raises(IndexFileError, match="were dropped; open the store again"):
        former.add([Document("x", "x")], np.ones((1, 24), np.float32))
    with pytest.raises(IndexFileError, match="made with another encoder"):
        Index.open(old / "index", encoder=other_fingerprint(old))
    assert len(retriever) == 3


def test_a_text_that_the_other_encoder_cannot_embed(made, tmp_path, monkeypatch):
    """It is named, and the encoder in use stays."""
    old = shutil.copytree(made / "old", tmp_path / "old")
    retriever = Retriever.create(old)
    retriever.add(documents(5))

    def zero(encoder, texts, **_):
        return np.zeros((len(texts), encoder.dimension), np.float32)

    with monkeypatch.context() as patched:
        patched.setattr(OnnxEncoder, "encode_documents", zero)
        with pytest.raises(DataError, match="'d0' is zero: the encoder's vocabulary has none"):
            retriever.reindex(made / "new")
    assert retriever.search(documents(1)[0].text, k=1)[0].score == pytest.approx(1, abs=1e-5)
    assert retriever.index.dimension == 24


def test_an_encoder_that_cannot_be_loaded_is_not_used(folders):
    """A running process goes on with the one that it has, and says so."""
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(5))
    other = Retriever.load(old)
    retriever.reindex(new)
    kept = old / "index" / f"encoder-{other_fingerprint(new)}" / "onnx" / "model.onnx"
    kept.unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        other.search("Paris")
        wait_for(lambda: said)
        assert other.search("Paris", k=1)
    assert "the old encoder stays in use" in str(said[0].message)
    assert other.index.dimension == 24
    with pytest.raises(ModelError, match=r"model\.onnx"):
        other.add(documents(1, 10))
    assert "d10" not in other
    with pytest.raises(ModelError, match=r"model\.onnx"):
        retriever.index.verify()


def test_a_generation_that_was_dropped_is_not_brought_back(folders, monkeypatch):
    """Between the linking of a ready one and its activation."""
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(20))
    retriever.reindex(new)
    retriever.reindex(old)
    link, dropped = Index.link, []

    def slow(index, **options):
        if not dropped:
            dropped.extend(module.drop_others(index.store))
        return link(index, **options)

    monkeypatch.setattr(Index, "link", slow)
    assert retriever.reindex(new) == 20  # embedded again
    assert dropped
    check(retriever, documents(20))
    with retriever.index.store.change() as change:
        change.connection.execute("DELETE FROM blocks")
        change.connection.execute("UPDATE generations SET places = 0")
    with pytest.raises(IndexFileError, match="20 documents have no vector of the encoder"):
        retriever.index.verify()


def test_adding_across_a_drop(folders, monkeypatch):
    """Another process changes the encoder and drops the former one while a chunk is embedded."""
    old, new = folders
    service, other = Retriever.create(old), None
    service.add(documents(10))
    other = Retriever.load(old)
    encode, turns = OnnxEncoder.encode_documents, []

    def slow(encoder, texts, **options):
        found = encode(encoder, texts, **options)
        if len(texts) == 3 and not turns:
            turns.append(1)
            other.reindex(new, drop=True)
        return found

    monkeypatch.setattr(OnnxEncoder, "encode_documents", slow)
    service.add(documents(3, 10))
    check(service, documents(13))
    assert service.index.dimension == 16


def test_changes_of_the_encoder_at_once(folders):
    """Two threads change it to and fro, dropping the other one, beside a writer and a searcher."""
    old, new = folders
    Retriever.create(old).add(documents(20))
    stop, wrong, added = threading.Event(), [], []

    def change(seed: int) -> None:
        rng = random.Random(seed)
        own = Retriever.load(old)
        while not stop.is_set():
            try:
                own.reindex(rng.choice([old, new]), drop=rng.random() < 0.5)
            except IndexFileError as error:
                if "another encoder" not in str(error):
                    wrong.append(repr(error))

    def write() -> None:
        own = Retriever.load(old)
        for n in range(20, 50):
            try:
                own.add(documents(1, n))
                added.append(n)
            except Exception as error:
                wrong.append(repr(error))
            time.sleep(0.05)

    def ask() -> None:
        own = Retriever.load(old)
        while not stop.is_set():
            try:
                (hit,) = own.search(documents(1, 7)[0].text, k=1)
                if hit.score < 0.9999:
                    wrong.append(str(hit))
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=change, args=(n,)) for n in range(2)]
    threads += [threading.Thread(target=ask), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    threads[-1].join()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    check(Retriever.load(old), documents(20 + len(added)))


def test_an_encoder_that_many_keep_at_once(folders):
    old, new = folders
    retriever = Retriever.create(old)
    store, encoder = retriever.index.store, OnnxEncoder(new)
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: store.keep(new, encoder.fingerprint), range(8)))
        kept = old / "index" / f"encoder-{encoder.fingerprint}"
        assert OnnxEncoder(kept).fingerprint == encoder.fingerprint
        shutil.rmtree(kept)
    kept.write_text("not a folder")
    with pytest.raises(IndexFileError, match="not a folder"):
        store.keep(new, encoder.fingerprint)


def test_an_encoder_that_is_written_over_is_noticed(folders):
    """In the folder that it came from, and in the store's own."""
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(5))
    for file in ("hybridret.json", "tokenizer.json", "onnx/model.onnx"):  # cp new/* old
        (old / file).write_bytes((new / file).read_bytes())
    check(Retriever.load(old / "index"), documents(5))  # the store has its own
    with pytest.raises(IndexFileError, match="made with another encoder"):
        Retriever.load(old)
    assert main(["reindex", str(old / "index"), "--encoder", str(new), "--drop"]) == 0
    check(Retriever.load(old), documents(5))
    kept = next((old / "index").glob("encoder-*"))
    manifest = json.loads((kept / "hybridret.json").read_text())
    tokenizer = kept / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    manifest.pop("files")
    (kept / "hybridret.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="was changed after the export"):
        Retriever.load(old / "index")
    with pytest.raises(ModelError, match="was changed after the export"):
        retriever.index.store and Index.open(old / "index").verify()
    shutil.rmtree(kept)
    with pytest.raises(IndexFileError, match="the encoder's folder is missing"):
        Index.open(old / "index").verify()


def test_vectors_of_ones_own_get_an_encoder(folders, tmp_path):
    index = Index.create(tmp_path / "index", dimension=3)
    index.add(documents(4), np.eye(4, 3, dtype=np.float32) + 1)
    old, _ = folders
    assert main(["reindex", str(tmp_path / "index"), "--encoder", str(old)]) == 1
    assert main(["reindex", str(tmp_path / "index"), "--encoder", str(old), "--drop"]) == 0
    check(Retriever.load(tmp_path / "index"), documents(4))


def test_a_store_of_the_former_version_gets_words(folders, tmp_path):
    """And is opened by its own folder."""
    data = Path(__file__).parent / "data" / "index-0.1"
    shutil.copytree(data, tmp_path / "index")
    assert has_index(tmp_path / "index")
    old, _ = folders
    assert main(["reindex", str(tmp_path / "index"), "--encoder", str(old), "--drop"]) == 0
    retriever = Retriever.load(tmp_path / "index")
    document = next(retriever.documents())
    words = retriever.search(document.text, mode="words")
    with retriever.index.store.change() as change:
        drop(change.connection, retriever.index.number)
        change.connection.execute("UPDATE generations SET words = 0")
    again = Retriever.load(tmp_path / "index")
    with pytest.raises(DataError, match="'hybridret reindex' with its encoder makes them"):
        again.search("Paris", mode="words")
    assert again.reindex(old) == 0
    again = Retriever.load(tmp_path / "index")
    assert again.search(document.text, mode="words") == words
    again.index.verify()


def test_encoders_that_are_not_used_any_more_are_let_go(folders):
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(3))
    for folder in (new, old, new):
        retriever.reindex(folder, drop=True)
    assert len(retriever._encoders) == 1
    with pytest.raises(DataError, match="batch_size must be an integer of at least 1, got 0"):
        retriever.reindex(old, batch_size=0)
    assert len(retriever.index.store.generations()) == 1
    index = retriever.index
    retriever.reindex(old)
    retriever.add(documents(2, 3))
    assert len(index) == 5  # the one from before sees what this thread has added


SERVICE = """
import sys, threading, time
sys.path[:0] = [{tests!r}]
from test_reindex import *
retriever = Retriever.load({folder!r}, threads=1)
docs = documents(40)
end = time.monotonic() + 60
seen, wrong = set(), []
stop = threading.Event()

def ask(seed):
    rng = random.Random(seed)
    while not stop.is_set():
        document = rng.choice(docs)
        try:
            hits = retriever.search(document.text, k=3)
            good = len(hits) == 3 and abs(hits[0].score - 1) < 1e-4
            if not good:
                wrong.append(str(hits))
        except Exception as error:
            wrong.append(repr(error))

threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
for t in threads: t.start()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "dimension":
        print(retriever.index.dimension, flush=True)
stop.set()
for t in threads: t.join()
print(len(wrong), wrong[:3], flush=True)
"""


def test_no_query_fails_or_is_mixed_across_a_change(folders):
    """A service of another process is asked by four threads for what it has: a query of one encoder
    in the vectors of the other would not be found with a cosine of 1."""
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(40))
    code = SERVICE.format(tests=str(Path(__file__).parent), folder=str(old))
    service = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert service.stdin is not None
    assert service.stdout is not None

    def dimension() -> int:
        service.stdin.write("dimension\n")
        service.stdin.flush()
        return int(service.stdout.readline())

    assert service.stdout.readline() == "ready\n"
    for n, (target, expected) in enumerate(((new, 16), (old, 24), (new, 16))):
        retriever.add(documents(3, 100 * (n + 1)))
        retriever.reindex(target)
        wait_for(lambda expected=expected: dimension() == expected, 60)
    module.drop_others(retriever.index.store)
    retriever.add(documents(3, 1000))
    time.sleep(0.3)
    service.stdin.close()
    assert service.stdout.read() == "0 []\n"
    assert service.wait() == 0


def test_an_encoder_whose_removal_was_cut_off(folders, monkeypatch):
    old, new = folders
    retriever = Retriever.create(old)
    retriever.add(documents(20))
    kept = next((old / "index").glob("encoder-*"))

    def cut_off(folder, **_):
        if Path(folder).name.endswith(kept.name) and Path(folder).exists():
            (Path(folder) / "onnx" / "model.onnx").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            retriever.reindex(new, drop=True)
    assert not kept.exists()
    # It comes again, whole, and what was left over goes.
    retriever = Retriever.load(old)
    assert retriever.reindex(old) == 20
    check(retriever, documents(20))
    assert kept.is_dir()
    retriever.reindex(new, drop=True)
    assert not kept.exists()
    assert not list((old / "index").glob("removed-*"))


KILLED = """
import sys
sys.path[:0] = [{tests!r}]
from test_reindex import *
module._CHUNK, module._LAST = 8, 2
retriever = Retriever.load({folder!r})
print("ready", flush=True)
turns = [{new!r}, {old!r}]
if retriever.index.dimension == 16:
    turns.reverse()
while True:
    for turn in turns:
        retriever.reindex(turn, drop=random.random() < 0.7)
        retriever.add(documents(1, random.randrange(10**6, 10**9)))
"""


def test_killed_at_random_moments(folders):
    kills = int(os.environ.get("HYBRIDRET_KILLS", "4"))
    old, new = folders
    Retriever.create(old).add(documents(50))
    code = KILLED.format(
        tests=str(Path(__file__).parent), folder=str(old), old=str(old), new=str(new)
    )
    rng = random.Random(kills)
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        survivor = Retriever.load(old)
        there = list(survivor.documents())
        assert {d.document_id for d in documents(50)} <= {d.document_id for d in there}
        check(survivor, there)


def test_the_command(folders, made, tmp_path, capsys):
    old, _ = folders
    Retriever.create(old).add(documents(6))
    model = tmp_path / "model"
    model.mkdir()
    TorchEncoder.new_static(TEXTS, dimension=8, vocabulary_size=300).save(model)
    assert main(["reindex", str(old), "--encoder", str(model)]) == 0
    said = capsys.readouterr().out
    assert "6 documents embedded; 6 are searched with" in said
    assert main(["reindex", str(old), "--encoder", str(old)]) == 0
    assert "0 documents embedded" in capsys.readouterr().out
    assert main(["search", str(old / "index"), "Paris", "--mode", "hybrid", "-k", "1"]) == 0
    assert capsys.readouterr().out.startswith("0.0")
    assert main(["reindex", str(old), "--drop"]) == 0
    assert "1 other encoders dropped" in capsys.readouterr().out
    assert main(["reindex", str(old)]) == 1
    assert "nothing to do: give --encoder, --drop, or both" in capsys.readouterr().err
    assert Store(old / "index").generations()[0].state == "ready"
