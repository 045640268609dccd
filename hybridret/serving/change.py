"""What one transaction does to a store, see :meth:`hybridret.serving.store.Store.change`."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridret._files import sync
from hybridret._types import Ints, Similarity, Vectors
from hybridret.data.table import Document
from hybridret.errors import IndexFileError
from hybridret.serving import words
from hybridret.serving.connections import Connection

if TYPE_CHECKING:
    from hybridret.serving.store import Store

REMOVED = "removed-"
"""What the name of a folder begins with while it is removed."""
CHUNK = 500
"""Values of a statement."""
_ROWS = 65_536  # places that are copied at a time
_HEAD = """
SELECT change.value, live.value, active.value, generations.*
FROM settings AS change, settings AS live, settings AS active, generations
WHERE change.name = 'change' AND live.name = 'live' AND active.name = 'active'
    AND generations.number = coalesce(?, active.value)
"""  # one statement: between two, another thread may take its turn


@dataclass(frozen=True)
class Generation:
    """The vectors of one encoder, and its words.

    Attributes:
        encoder: its fingerprint.
        state: ``building``: it has vectors of some documents; ``ready``: of all, and of those that
            are added; ``dropped``: of none any more.
        words: whether it has the documents' words.
        file: of the vectors.
        places: vectors that are committed.
        graph, graph_places, graph_checksum: the file of the graph, if one is published, how many
            places it links, and its SHA-256.
        graph_recall: JSON of what :func:`hybridret.serving.recall.measured` has found.
    """

    number: int
    encoder: str
    dimension: int
    similarity: Similarity
    state: str
    words: bool
    file: str
    places: int
    graph: str | None
    graph_places: int
    graph_checksum: str | None
    graph_recall: str | None

    @property
    def folder(self) -> str:
        """Name of the folder of its encoder."""
        return f"encoder-{self.encoder}"


@dataclass(frozen=True)
class Head:
    """What is committed.

    Attributes:
        change: number of the last one.
        live: documents that are not deleted.
        active: number of the generation that is to be searched.
        generation: the one that was asked for.
    """

    change: int
    live: int
    active: int
    generation: Generation


@dataclass(frozen=True)
class Embedded:
    """What a generation has of documents.

    Attributes:
        vectors: float32 [N, dimension], checked.
        terms: those of :meth:`hybridret.serving.words.Words.documents`, if it has words.
    """

    vectors: Vectors
    terms: Sequence[str] | None


class GenerationGone(IndexFileError):
    """The vectors of an encoder are no longer in the store."""


class NotEmbedded(IndexFileError):
    """Documents were to be added without their vectors of every encoder of the store."""


class Change:
    """A change that has begun."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store = store
        self.connection = connection
        self.head = head_of(connection, None, store.folder)
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
            for generation in self.generations():
                if generation.words:
                    words.remove(self.connection, generation.number, [row for _, row in values])
        self._deleted += len(values)

    def add(self, documents: Sequence[Document], embedded: Mapping[int, Embedded]) -> None:
        """New documents, with what each generation that is ready has of them.

        Raises:
            NotEmbedded: a generation is missing.
            GenerationGone: those that are given were dropped.
        """
        if not documents:
            return
        ready = [g for g in self.generations() if g.state == "ready"]
        if not {g.number for g in ready} & embedded.keys():
            raise gone(self.store.folder, self._generation(next(iter(embedded))))
        if not {g.number for g in ready} <= embedded.keys():
            encoders = ", ".join(g.encoder or "none" for g in ready)
            raise NotEmbedded(
                f"{self.store.folder}: documents are embedded with {len(ready)} encoders (of "
                f"fingerprints {encoders}), until all but one are dropped: add with a Retriever"
            )
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
            for generation in ready:
                self._append(generation, rows, embedded[generation.number])
        self._added += len(documents)

    def generations(self) -> list[Generation]:
        """Those that are not dropped, in order."""
        return generations_of(self.connection)

    def publish(
        self, generation: Generation, graph: str, places: int, checksum: str, recall: str
    ) -> None:
        """Names the graph of a generation's first places, unless its file is another by now."""
        with self.store.naming():
            self.connection.execute(
                "UPDATE generations SET graph = ?, graph_places = ?, graph_checksum = ?, "
                "graph_recall = ? WHERE number = ? AND file = ? AND graph_places <= ?",
                (graph, places, checksum, recall, generation.number, generation.file, places),
            )

    def compact(self) -> None:
        """Takes deleted documents out for good."""
        with self.store.naming():
            for generation in self.generations():
                self._rewrite(generation, self._next_file())
                if generation.words:
                    words.pack(self.connection, generation.number)
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
            "graph_checksum = NULL, graph_recall = NULL WHERE number = ?",
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
            self._append(
                self._generation(generation.number), rows[some], Embedded(vectors[some], None)
            )
        sync(self.store.folder)

    def _next_file(self) -> str:
        """A name for a file of vectors that no generation has had."""
        (number,) = self.connection.execute(
            "SELECT max(CAST(substr(file, 9) AS INTEGER)) + 1 FROM generations"
        ).fetchone()
        return f"vectors-{number}.f32"

    # ------------------------------------------------------------------------- other encoders

    def begin(
        self, fingerprint: str, dimension: int, similarity: Similarity, *, with_words: bool
    ) -> Generation | None:
        """The generation of an encoder; an empty one if it is new. None if the encoder's folder is
        not in the store.

        Raises:
            IndexFileError: another one is being built.
        """
        for known in self.generations():
            if known.encoder == fingerprint:
                return known
            if known.state == "building":
                raise IndexFileError(
                    f"{self.store.folder}: documents are being embedded with another encoder "
                    f"(fingerprint {known.encoder}); go on with that, or drop it first "
                    f"('hybridret reindex --drop')"
                )
        if not (self.store.folder / f"encoder-{fingerprint}").is_dir():
            return None
        with self.store.naming():
            file = self._next_file()
            (self.store.folder / file).write_bytes(b"")
            number = self.connection.execute(
                "INSERT INTO generations "
                "(encoder, dimension, similarity, state, words, file, places) "
                "VALUES (?, ?, ?, 'building', ?, ?, 0)",
                (fingerprint, dimension, similarity, with_words, file),
            ).lastrowid
            assert number is not None
            if with_words:
                words.create(self.connection, number)
            return self._generation(number)

    def add_words(self, number: int, terms: Mapping[int, str]) -> list[int]:
        """Gives a generation words that has none; returns rows whose terms are missing, if any,
        and then nothing has changed. Another process may have been first."""
        if self._generation(number).words:
            return []
        live = self.connection.execute("SELECT row FROM documents WHERE deleted IS NULL")
        rows = [row for (row,) in live]
        if missing := [row for row in rows if row not in terms]:
            return missing
        with self.store.naming():
            words.create(self.connection, number)
            words.add(self.connection, number, rows, [terms[row] for row in rows])
            self.connection.execute("UPDATE generations SET words = 1 WHERE number = ?", (number,))
        return []

    def embed(self, number: int, rows: Sequence[int], embedded: Embedded) -> None:
        """Vectors of documents that are there already, for a generation that is being built.

        Args:
            rows: of the documents, those after the generation's last one. Deleted ones are passed
                over, and all of them if another process was first.
        """
        generation = self._generation(number)
        if generation.state == "dropped":
            raise gone(self.store.folder, generation)
        if generation.state != "building" or not rows or rows[0] <= self.last_row(number):
            return
        live: set[int] = set()
        for start in range(0, len(rows), CHUNK):
            some_rows = rows[start : start + CHUNK]
            found = self.connection.execute(
                f"SELECT row FROM documents WHERE deleted IS NULL AND row IN ({marks(some_rows)})",
                some_rows,
            )
            live.update(row for (row,) in found)
        kept = [n for n, row in enumerate(rows) if row in live]
        if not kept:
            return
        terms = embedded.terms
        some = Embedded(embedded.vectors[kept], terms and [terms[n] for n in kept])
        with self.store.naming():
            self._append(generation, [rows[n] for n in kept], some)

    def last_row(self, number: int) -> int:
        """That of a generation's last place; 0: it has none."""
        found = self.connection.execute(
            "SELECT rows FROM blocks WHERE generation = ? ORDER BY first DESC LIMIT 1",
            (number,),
        ).fetchone()
        return int(np.frombuffer(found[0], dtype="<i8")[-1]) if found else 0

    def activate(self, number: int) -> None:
        """Has a generation searched, which must have all documents by now.

        Raises:
            GenerationGone: it was dropped.
        """
        generation = self._generation(number)
        if generation.state == "dropped":
            raise gone(self.store.folder, generation)
        with self.store.naming():
            self.connection.execute(
                "UPDATE generations SET state = 'ready' WHERE number = ?", (number,)
            )
            self.connection.execute(
                "UPDATE settings SET value = ? WHERE name = 'active'", (number,)
            )

    def drop(self, number: int) -> None:
        """Takes the vectors and words of an encoder out; its fingerprint stays known."""
        with self.store.naming():
            if self._generation(number).words:
                words.drop(self.connection, number)
            self.connection.execute("DELETE FROM blocks WHERE generation = ?", (number,))
            self.connection.execute(
                "UPDATE generations SET state = 'dropped', words = 0, places = 0, graph = NULL, "
                "graph_places = 0, graph_checksum = NULL, graph_recall = NULL WHERE number = ?",
                (number,),
            )

    def _generation(self, number: int) -> Generation:
        found = self.connection.execute("SELECT * FROM generations WHERE number = ?", (number,))
        return Generation(*found.fetchone())

    def _append(
        self, generation: Generation, rows: Sequence[int] | Ints, embedded: Embedded
    ) -> None:
        """Writes and syncs a block of places, then names it."""
        data = np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes()
        start = generation.places * generation.dimension * 4
        file = os.open(self.store.folder / generation.file, os.O_WRONLY)
        try:
            _write_all(file, data, start)
            getattr(os, "fdatasync", os.fsync)(file)  # macOS has the latter alone
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
        if embedded.terms is not None and generation.words:
            words.add(self.connection, generation.number, rows, embedded.terms)

    def finish(self) -> None:
        """Counts the change, if it was one."""
        if self._added or self._deleted or self._compacted:
            live = self.head.live + self._added - self._deleted
            self.connection.executemany(
                "UPDATE settings SET value = ? WHERE name = ?",
                [(self.number, "change"), (live, "live")],
            )


def head_of(connection: Connection, number: int | None, folder: Path) -> Head:
    """What a connection sees as committed, or as changed by itself.

    Args:
        number: of a generation; None: the active one.

    Raises:
        GenerationGone: it was dropped.
    """
    change, live, active, *columns = connection.execute(_HEAD, (number,)).fetchone()
    generation = Generation(*columns)
    if generation.state == "dropped":
        raise gone(folder, generation)
    return Head(int(change), int(live), int(active), generation)


def gone(folder: Path, generation: Generation) -> GenerationGone:
    """The error of a generation that was dropped."""
    return GenerationGone(
        f"{folder}: the vectors of the encoder with fingerprint {generation.encoder or 'none'} "
        f"were dropped; open the store again"
    )


def generations_of(connection: Connection) -> list[Generation]:
    """Those that are not dropped, in order."""
    found = connection.execute("SELECT * FROM generations WHERE state != 'dropped' ORDER BY number")
    return [Generation(*row) for row in found]


def unnamed(connection: Connection, folder: Path) -> list[Path]:
    """Files of vectors and graphs, and folders of encoders, that the database does not name.

    A graph of a generation's file may be about to be published: it is left.
    """
    generations = generations_of(connection)
    linked = {g.file: g.graph_places for g in generations}
    named = {name for g in generations for name in (g.file, g.graph, g.folder)}
    found = []
    for path in folder.iterdir():
        if path.name in named:
            continue
        if re.fullmatch(rf"vectors-\d+\.f32|({REMOVED})?encoder-[0-9a-f]{{32}}", path.name):
            found.append(path)
        elif match := re.fullmatch(r"graph-(\d+)-(\d+)-[0-9a-f]+\.hnsw", path.name):
            places = linked.get(f"vectors-{match[1]}.f32")
            if places is None or int(match[2]) < places:
                found.append(path)
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
