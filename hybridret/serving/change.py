"""What one transaction does to a store, see :meth:`hybridret.serving.store.Store.change`."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridret._files import sync_folder
from hybridret._types import Ints, Vectors
from hybridret.data.table import Document
from hybridret.serving.connections import Connection

if TYPE_CHECKING:
    from hybridret.serving.store import Store

CHUNK = 500
"""Values of a statement."""
_ROWS = 65_536  # places that are copied at a time


@dataclass(frozen=True)
class Generation:
    """The vectors of one encoder.

    Attributes:
        encoder: its fingerprint.
        file: of the vectors.
        places: vectors that are committed.
        graph, graph_places, graph_checksum: the file of the graph, if one is published, how many
            places it links, and its SHA-256.
    """

    number: int
    encoder: str
    dimension: int
    file: str
    places: int
    graph: str | None
    graph_places: int
    graph_checksum: str | None


@dataclass(frozen=True)
class Head:
    """What is committed.

    Attributes:
        change: number of the last one.
        live: documents that are not deleted.
        generation: the one that is searched.
    """

    change: int
    live: int
    generation: Generation


class Change:
    """A change that has begun."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store = store
        self.connection = connection
        self.head = head_of(connection)
        self.number = self.head.change + 1
        self._added = self._deleted = 0
        self._compacted = False

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of live documents, by id; of those that are there."""
        found: dict[str, int] = {}
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            found.update(
                self.connection.execute(
                    f"SELECT id, row FROM documents "
                    f"WHERE deleted IS NULL AND id IN ({marks(some)})",
                    some,
                )
            )
        return found

    def delete(self, rows: Iterable[int]) -> None:
        """Documents that no search returns any more; rows of live ones, each once."""
        values = [(self.number, int(row)) for row in rows]
        with self.store.naming():
            self.connection.executemany("UPDATE documents SET deleted = ? WHERE row = ?", values)
        self._deleted += len(values)

    def add(self, documents: Sequence[Document], vectors: Vectors) -> None:
        """New documents with their vectors [N, dimension], float32 and checked."""
        if not documents:
            return
        with self.store.naming():
            (last,) = self.connection.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'documents'"
            ).fetchone()
            rows = range(last + 1, last + 1 + len(documents))
            self.connection.executemany(
                "INSERT INTO documents (row, id, language, group_id, title) VALUES (?, ?, ?, ?, ?)",
                [
                    (row, d.document_id, d.language, d.group_id, d.title)
                    for row, d in zip(rows, documents, strict=True)
                ],
            )
            self.connection.executemany(
                "INSERT INTO contents VALUES (?, ?, ?)",
                [(row, d.text, _json(d.metadata)) for row, d in zip(rows, documents, strict=True)],
            )
            self._append(self._generation(self.head.generation.number), rows, vectors)
        self._added += len(documents)

    def publish(self, generation: Generation, graph: str, places: int, checksum: str) -> None:
        """Names the graph of a generation's first places, unless its file is another by now."""
        with self.store.naming():
            self.connection.execute(
                "UPDATE generations SET graph = ?, graph_places = ?, graph_checksum = ? "
                "WHERE number = ? AND file = ? AND graph_places <= ?",
                (graph, places, checksum, generation.number, generation.file, places),
            )

    def compact(self) -> None:
        """Takes deleted documents out for good."""
        with self.store.naming():
            numbers = [n for (n,) in self.connection.execute("SELECT number FROM generations")]
            (next_file,) = self.connection.execute(
                "SELECT max(CAST(substr(file, 9) AS INTEGER)) + 1 FROM generations"
            ).fetchone()
            for n, number in enumerate(numbers):
                generation = self._generation(number)
                self._rewrite(generation, f"vectors-{next_file + n}.f32")
            for table in ("contents", "documents"):
                self.connection.execute(
                    f"DELETE FROM {table} WHERE row IN "
                    "(SELECT row FROM documents WHERE deleted IS NOT NULL)"
                )
        self._compacted = True

    def _rewrite(self, generation: Generation, file: str) -> None:
        """Copies the places of live documents to another file, which becomes the generation's."""
        (self.store.folder / file).write_bytes(b"")  # a killed process may have left one
        vectors = self.store.vectors(generation)
        blocks = self.connection.execute(
            "SELECT first, rows FROM blocks WHERE generation = ? ORDER BY first",
            (generation.number,),
        ).fetchall()
        self.connection.execute("DELETE FROM blocks WHERE generation = ?", (generation.number,))
        self.connection.execute(
            "UPDATE generations SET file = ?, places = 0, graph = NULL, graph_places = 0, "
            "graph_checksum = NULL WHERE number = ?",
            (file, generation.number),
        )
        rows = np.frombuffer(b"".join(blob for _, blob in blocks), dtype="<i8")
        live = {
            row
            for (row,) in self.connection.execute("SELECT row FROM documents WHERE deleted IS NULL")
        }
        places = np.flatnonzero([row in live for row in rows.tolist()])
        for start in range(0, len(places), _ROWS):
            some = places[start : start + _ROWS]
            new = self._generation(generation.number)
            self._append(new, rows[some], vectors[some])
        sync_folder(self.store.folder)

    def _generation(self, number: int) -> Generation:
        found = self.connection.execute("SELECT * FROM generations WHERE number = ?", (number,))
        return Generation(*found.fetchone())

    def _append(self, generation: Generation, rows: Sequence[int] | Ints, vectors: Vectors) -> None:
        """Writes and syncs a block of places, then names it."""
        data = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        start = generation.places * generation.dimension * 4
        file = os.open(self.store.folder / generation.file, os.O_WRONLY)
        try:
            _write_all(file, data, start)
            os.fdatasync(file)
        finally:
            os.close(file)
        self.connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?)",
            (
                generation.number,
                generation.places,
                len(rows),
                zlib.crc32(data),
                np.array(rows, dtype="<i8").tobytes(),
            ),
        )
        self.connection.execute(
            "UPDATE generations SET places = places + ? WHERE number = ?",
            (len(rows), generation.number),
        )

    def finish(self) -> None:
        """Counts the change, if it was one."""
        if self._added or self._deleted or self._compacted:
            live = self.head.live + self._added - self._deleted
            self.connection.executemany(
                "UPDATE settings SET value = ? WHERE name = ?",
                [(self.number, "change"), (live, "live")],
            )


def head_of(connection: Connection) -> Head:
    """What a connection sees as committed, or as changed by itself."""
    values = dict(connection.execute("SELECT name, value FROM settings"))
    generation = connection.execute(
        "SELECT * FROM generations WHERE number = ?", (values["active"],)
    ).fetchone()
    return Head(int(values["change"]), int(values["live"]), Generation(*generation))


def unnamed(connection: Connection, folder: Path) -> list[str]:
    """Files of vectors and graphs that the database does not name.

    A graph of a generation's file may be about to be published: it is left.
    """
    named = connection.execute("SELECT file, graph, graph_places FROM generations")
    linked = {file: (graph, places) for file, graph, places in named}
    graphs = {graph for graph, _ in linked.values()}
    found = []
    for path in folder.iterdir():
        if re.fullmatch(r"vectors-\d+\.f32", path.name) and path.name not in linked:
            found.append(path.name)
        elif match := re.fullmatch(r"graph-(\d+)-(\d+)-[0-9a-f]+\.hnsw", path.name):
            _, places = linked.get(f"vectors-{match[1]}.f32", (None, None))
            outdated = places is None or int(match[2]) < places
            if path.name not in graphs and outdated:
                found.append(path.name)
    return found


def marks(values: Sequence[Any]) -> str:
    """Question marks of a statement."""
    return ", ".join("?" * len(values))


def _json(metadata: Any) -> str | None:
    return None if metadata is None else json.dumps(dict(metadata), ensure_ascii=False)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
