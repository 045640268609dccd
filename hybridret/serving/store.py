"""Documents and their vectors on disk: the truth that every search structure is made from.

::

    store.db            SQLite: documents, deletions, settings, generations and their blocks
    vectors-<n>.f32     float32 rows, only ever appended to; processes map it
    graph-<n>.hnsw      links, made from the vectors and made again from them
    encoder-<f>/        the exported encoder of a generation
    writer              who writes, or wrote last

A *generation* is what the documents are to one encoder: its vectors, and the words of the texts.
Its places are numbered from 0; a block of them is written and synced before the transaction that
names it commits, with a checksum and the rows (the documents) that its places are of. So what a
transaction names is there, and what a killed process wrote beyond that is written over. Deleted
documents stay until a compaction, which writes the places that are left to another file.

One process writes at a time, for the length of a :meth:`Store.change`. Readers see what was
committed when they look, see :meth:`Store.head`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._files import atomic_folder
from hybridret._types import Ints, Similarity
from hybridret.data.table import Document
from hybridret.encoder.manifest import copy_encoder
from hybridret.errors import IndexFileError
from hybridret.serving import words
from hybridret.serving.change import (
    CHUNK,
    REMOVED,
    Change,
    Generation,
    Head,
    generations_of,
    head_of,
    marks,
    unnamed,
)
from hybridret.serving.connections import TIMEOUT, Connection, Connections, after_fork

DATABASE = "store.db"
SCHEMA = 2
_APPLICATION = 0x48524554  # of SQLite's header: this is a store
_COUNTERS = ("change", "live", "active")  # of the settings: they change
_FREED = 2000  # pages of the database that are given back at a time
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs")

_TABLES = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {SCHEMA};
PRAGMA journal_mode = WAL;
CREATE TABLE settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    language TEXT NOT NULL,
    group_id TEXT NOT NULL,
    title TEXT NOT NULL,
    deleted INTEGER  -- the change that deleted it
);
CREATE UNIQUE INDEX live_ids ON documents (id) WHERE deleted IS NULL;
CREATE INDEX deletions ON documents (deleted) WHERE deleted IS NOT NULL;
CREATE TABLE contents (row INTEGER PRIMARY KEY, text TEXT NOT NULL, metadata TEXT);
CREATE TABLE generations (
    number INTEGER PRIMARY KEY,
    encoder TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    similarity TEXT NOT NULL,
    state TEXT NOT NULL,
    words INTEGER NOT NULL,
    file TEXT NOT NULL,
    places INTEGER NOT NULL,
    graph TEXT,
    graph_places INTEGER NOT NULL DEFAULT 0,
    graph_checksum TEXT,
    graph_recall TEXT
);
CREATE TABLE blocks (
    generation INTEGER NOT NULL,
    first INTEGER NOT NULL,
    places INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    rows BLOB NOT NULL,  -- int64, little-endian
    PRIMARY KEY (generation, first)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class News:
    """What has come to a store.

    Attributes:
        rows: int64, of the new places.
        documents: row and language of new ones.
        deleted: int64, rows of documents.
    """

    rows: Ints
    documents: list[tuple[int, str]]
    deleted: Ints


class Store:
    """A folder with documents and vectors. Thread-safe; processes may share the folder.

    Args:
        folder: made by :meth:`create`.
        timeout: seconds that a change waits for that of another process.

    Raises:
        IndexFileError: there is no store, it is damaged, of another version, or on a network file
            system.
    """

    def __init__(self, folder: str | Path, *, timeout: float = TIMEOUT) -> None:
        self.folder = Path(folder)
        self.timeout = timeout
        self._connections = Connections(self.folder / DATABASE, timeout)
        self._forked()
        after_fork(self._forked)
        path = self.folder / DATABASE
        if not path.is_file():
            raise IndexFileError(f"{self.folder}: no store here")
        _check_file_system(self.folder)
        with self._reading(path) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION:
            raise IndexFileError(f"{path}: a database, but not of a store")
        if schema != SCHEMA:
            raise IndexFileError(f"{path}: schema {schema}, but this version reads schema {SCHEMA}")

    def _forked(self) -> None:
        """In a child: another thread may have held the lock."""
        self._writer = threading.Lock()
        self._commits = 0  # by this process, of this store
        self._transaction = threading.local()  # whether this thread is in one

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        dimension: int,
        similarity: Similarity,
        encoder: str,
        encoder_folder: Path | None,
        settings: dict[str, Any],
        timeout: float = TIMEOUT,
    ) -> Store:
        """An empty store; it appears whole or not at all.

        Args:
            encoder: fingerprint of the first generation's encoder.
            encoder_folder: of that encoder, which is copied, and whose subwords are the words of
                the documents; None: vectors alone.

        Raises:
            IndexFileError: the folder is there and not empty, on a network file system, or cannot
                be written.
        """
        folder = Path(folder)
        with_words = encoder_folder is not None and words.available()
        first = Generation(
            number=1,
            encoder=encoder,
            dimension=dimension,
            similarity=similarity,
            state="ready",
            words=with_words,
            file="vectors-1.f32",
            places=0,
            graph=None,
            graph_places=0,
            graph_checksum=None,
            graph_recall=None,
        )
        try:
            with atomic_folder(folder, replace=False) as made:
                _check_file_system(made)
                connection = sqlite3.connect(made / DATABASE, isolation_level=None)
                try:
                    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                    connection.executescript(_TABLES)
                    connection.execute("BEGIN")
                    counters = dict(zip(_COUNTERS, (0, 0, 1), strict=True))
                    values = counters | {k: json.dumps(v) for k, v in settings.items()}
                    connection.executemany("INSERT INTO settings VALUES (?, ?)", values.items())
                    connection.execute(
                        f"INSERT INTO generations VALUES ({marks(astuple(first))})", astuple(first)
                    )
                    if with_words:
                        words.create(connection, first.number)
                    connection.execute("COMMIT")
                finally:
                    connection.close()
                (made / first.file).touch()
                if encoder_folder is not None:
                    (made / first.folder).mkdir()
                    copy_encoder(encoder_folder, made / first.folder)
                (made / "writer").touch()
        except FileExistsError:
            raise IndexFileError(
                f"{folder}: there is something here already; nothing was changed"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise IndexFileError(f"{folder}: the store could not be created: {error}") from None
        return cls(folder, timeout=timeout)

    # ------------------------------------------------------------------------------- reading

    def settings(self) -> dict[str, Any]:
        """As they were given to :meth:`create`."""
        with self._reading() as connection:
            found = dict(connection.execute("SELECT name, value FROM settings"))
        return {k: json.loads(v) for k, v in found.items() if k not in _COUNTERS}

    def version(self) -> tuple[int, int, int]:
        """Another value after every commit; a few microseconds."""
        with self._reading() as connection:
            # Which is silent about commits of this connection.
            (number,) = connection.execute("PRAGMA data_version").fetchone()
            return connection.serial, int(number), self._commits

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Reads that see one state; within a change or another snapshot, that one's."""
        with self._reading() as connection:
            if getattr(self._transaction, "open", False):
                yield connection
                return
            try:
                connection.begin()
                self._transaction.open = True
                yield connection
            finally:
                self._transaction.open = False
                connection.end("COMMIT")

    def head(self, number: int | None = None) -> Head:
        """What is committed now.

        Args:
            number: of a generation; None: the active one.

        Raises:
            GenerationGone: it was dropped.
        """
        with self.snapshot() as connection:
            return head_of(connection, number, self.folder)

    def generations(self) -> list[Generation]:
        """Those that are not dropped, in order."""
        with self.snapshot() as connection:
            return generations_of(connection)

    def encoders(self) -> set[str]:
        """Fingerprints of all encoders that there have been."""
        with self._reading() as connection:
            return {name for (name,) in connection.execute("SELECT encoder FROM generations")}

    def news(self, generation: Generation, start: int, after_row: int, after_change: int) -> News:
        """What has come since a reader last looked.

        Args:
            start: first place that is not known.
            after_row, after_change: the last known ones.
        """
        with self.snapshot() as connection:
            blocks = connection.execute(
                "SELECT rows FROM blocks WHERE generation = ? AND first >= ? AND first < ? "
                "ORDER BY first",
                (generation.number, start, generation.places),
            )
            rows = np.frombuffer(b"".join(blob for (blob,) in blocks), dtype="<i8")
            documents = connection.execute(
                "SELECT row, language FROM documents WHERE row > ?", (after_row,)
            ).fetchall()
            deleted = connection.execute(
                "SELECT row FROM documents WHERE deleted > ?", (after_change,)
            ).fetchall()
        return News(rows, documents, np.array([row for (row,) in deleted], dtype=np.int64))

    def vectors(self, generation: Generation) -> NDArray[np.float32]:
        """The committed vectors [places, dimension], mapped.

        Raises:
            IndexFileError: the file is shorter.
        """
        path = self.folder / generation.file
        shape = generation.places, generation.dimension
        if not generation.places:
            return np.empty(shape, dtype=np.float32)
        try:
            return np.memmap(path, dtype="<f4", mode="r", shape=shape)
        except (OSError, ValueError):
            raise IndexFileError(
                f"{path}: damaged: missing, or shorter than its {generation.places} vectors"
            ) from None

    def documents(self, rows: Iterable[int]) -> dict[int, Document]:
        """Live documents by row."""
        rows = [int(row) for row in rows]
        if len(rows) <= CHUNK:  # one statement sees one state without a transaction around it
            with self._reading() as connection:
                return _documents(connection, f"row IN ({marks(rows)})", rows)
        found: dict[int, Document] = {}
        with self.snapshot() as connection:
            for start in range(0, len(rows), CHUNK):
                some = rows[start : start + CHUNK]
                found.update(_documents(connection, f"row IN ({marks(some)})", some))
        return found

    def by_id(self, ids: Iterable[str]) -> dict[str, Document]:
        """Live documents by id."""
        found: dict[str, Document] = {}
        names = list(ids)
        with self.snapshot() as connection:
            for start in range(0, len(names), CHUNK):
                some = names[start : start + CHUNK]
                documents = _documents(connection, f"id IN ({marks(some)})", some)
                found.update((d.document_id, d) for d in documents.values())
        return found

    def all(self) -> Iterator[Document]:
        """Live documents in the order of their rows; those that come meanwhile may be among them.

        No transaction stays open between them.
        """
        last = 0
        while True:
            found = self.after(last, CHUNK)
            if not found:
                return
            yield from found.values()
            last = max(found)

    def after(self, row: int, limit: int) -> dict[int, Document]:
        """Live documents by row, in order, the first ones after a row."""
        with self.snapshot() as connection:
            return _documents(connection, "row > ?", [row], limit=limit)

    def metadata(self, after_row: int) -> list[tuple[int, str]]:
        """Row and JSON of documents with metadata, from a row on."""
        with self._reading() as connection:
            return connection.execute(
                "SELECT row, metadata FROM contents WHERE row > ? AND metadata IS NOT NULL",
                (after_row,),
            ).fetchall()

    def keep(self, encoder: Path, fingerprint: str) -> None:
        """Copies the folder of an exported encoder into the store, where it appears whole."""
        folder = self.folder / f"encoder-{fingerprint}"
        with self.naming():
            if folder.exists() and not folder.is_dir():
                raise FileExistsError(errno.EEXIST, "not a folder", str(folder))
            unless_there = suppress(FileExistsError)
            with unless_there, atomic_folder(folder, replace=False) as made:
                copy_encoder(encoder, made)

    def bytes(self) -> int:
        """Of all files but those of the encoders."""
        total = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # removed meanwhile
                total += file.stat().st_size
        return total

    def tidy(self, *, pack: bool = False) -> None:
        """Removes files that nothing names any more, and gives free pages back; where others use
        the database, another time.

        Args:
            pack: write the database anew, without gaps.
        """
        with suppress(IndexFileError, sqlite3.Error), self._alone(), self._lock():
            connection = self._connections.get()
            for path in unnamed(connection, self.folder):
                with suppress(OSError):
                    if path.is_dir():
                        _remove_folder(path)
                    else:
                        path.unlink()
            how = "VACUUM" if pack else f"PRAGMA incremental_vacuum({_FREED})"
            connection.execute(how).fetchall()
            how = "TRUNCATE" if pack else "PASSIVE"
            connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()

    def verify(self) -> None:
        """Reads all of it, again where it was compacted meanwhile.

        Raises:
            IndexFileError: the database or a block of vectors is damaged.
        """
        while True:
            before = [generation.file for generation in self.generations()]
            try:
                return self._verify()
            except IndexFileError:
                if [generation.file for generation in self.generations()] == before:
                    raise

    def _verify(self) -> None:
        with self.snapshot() as connection:
            (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise IndexFileError(f"{self.folder / DATABASE}: damaged: {said}")
            generations = generations_of(connection)
            live = self.head().live
            for generation in generations:
                if generation.words and generation.state == "ready":
                    (count,) = connection.execute(
                        f"SELECT count(*) FROM terms_{generation.number}"
                    ).fetchone()
                    if count != live:
                        raise IndexFileError(
                            f"{self.folder / DATABASE}: damaged: words of {count} documents, not "
                            f"{live}"
                        )
            blocks = connection.execute(
                "SELECT generation, first, places, checksum, rows FROM blocks "
                "ORDER BY generation, first"
            ).fetchall()
            live_rows = {
                row
                for (row,) in connection.execute("SELECT row FROM documents WHERE deleted IS NULL")
            }
        for generation in generations:
            own = [block[1:] for block in blocks if block[0] == generation.number]
            mapped, end = self.vectors(generation), 0
            missing = set(live_rows) if generation.state == "ready" else set()
            for first, places, checksum, rows in own:
                if first != end or len(rows) != 8 * places:
                    raise IndexFileError(f"{self.folder / DATABASE}: damaged: blocks do not follow")
                missing.difference_update(np.frombuffer(rows, dtype="<i8").tolist())
                end = first + places
                if zlib.crc32(mapped[first:end].tobytes()) != checksum:
                    raise IndexFileError(
                        f"{self.folder / generation.file}: damaged: the vectors {first} to "
                        f"{end - 1} have another checksum"
                    )
            if end != generation.places:
                raise IndexFileError(f"{self.folder / DATABASE}: damaged: {end} places in blocks")
            if missing:
                raise IndexFileError(
                    f"{self.folder / DATABASE}: damaged: {len(missing)} documents have no vector "
                    f"of the encoder with fingerprint {generation.encoder or 'none'}"
                )

    # ------------------------------------------------------------------------------- writing

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A change, which commits at the end and leaves nothing behind on an error.

        Raises:
            IndexFileError: another process writes for longer than the timeout; the store cannot be
                written (a full disk, a read-only folder).
        """
        with self._alone(), self._lock():
            connection = self._connections.get()
            try:
                with self.naming():
                    connection.begin("IMMEDIATE")
                self._transaction.open = True
                change = Change(self, connection)
                yield change
                with self.naming():
                    change.finish()
                    connection.execute("COMMIT")
                    self._commits += 1
            finally:
                self._transaction.open = False
                connection.end("ROLLBACK")  # unless it was committed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread of this process."""
        if not self._writer.acquire(timeout=self.timeout):
            raise self._busy("another thread")
        try:
            yield
        finally:
            self._writer.release()

    def _busy(self, holder: str) -> IndexFileError:
        return IndexFileError(
            f"{self.folder}: {holder} has been changing the store for more than "
            f"{self.timeout:g} s; nothing was changed, try again"
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process."""
        path = self.folder / "writer"
        end = time.monotonic() + self.timeout
        with self.naming():
            file = path.open("a+", encoding="utf-8")
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        file.seek(0)
                        holder = file.read().strip() or "another process"
                        raise self._busy(holder) from None
                    time.sleep(0.005)
            try:
                with self.naming():
                    file.truncate(0)
                    file.write(f"process {os.getpid()}")
                    file.flush()
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a child of a fork has the file, too

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors of the disk and the database as ours."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise IndexFileError(
                f"{self.folder}: the store could not be changed: {error}"
            ) from error

    def close(self) -> None:
        """Closes this thread's connection; the next call opens another."""
        self._connections.close()

    # --------------------------------------------------------------------------- connections

    @contextmanager
    def _reading(self, path: Path | None = None) -> Iterator[Connection]:
        try:
            yield self._connections.get()
        except sqlite3.Error as error:
            raise IndexFileError(f"{path or self.folder / DATABASE}: {error}") from None


def _documents(
    connection: Connection, where: str, values: Sequence[Any], limit: int = -1
) -> dict[int, Document]:
    found = connection.execute(
        f"SELECT documents.row, id, text, language, group_id, title, metadata FROM documents "
        f"JOIN contents USING (row) WHERE deleted IS NULL AND documents.{where} "
        f"ORDER BY documents.row LIMIT {limit}",
        values,
    )
    return {
        row: Document(id, text, language, group, title, metadata=metadata and json.loads(metadata))
        for row, id, text, language, group, title, metadata in found
    }


def _check_file_system(folder: Path) -> None:
    """Raises IndexFileError on a network file system: SQLite's log needs shared memory."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return
    kind = _file_system(folder, mounts.read_text(encoding="utf-8", errors="replace"))
    if kind in _REMOTE:
        raise IndexFileError(
            f"{folder} is on a network file system ({kind}), where processes cannot share a store; "
            f"choose a local folder"
        )


def _file_system(folder: Path, mounts: str) -> str:
    """What a folder is on, by the lines of /proc/mounts."""
    where = str(folder.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _remove_folder(folder: Path) -> None:
    """Under its name a folder is there whole or not at all, also if this is cut off."""
    gone = folder
    if not folder.name.startswith(REMOVED):
        gone = folder.with_name(REMOVED + folder.name)
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
