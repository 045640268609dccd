"""What of a store is in memory to be searched, and how it follows the store."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret import _native
from hybridret._files import sha256
from hybridret._types import Floats, Ints, Vectors
from hybridret.data.languages import matches_language
from hybridret.errors import DataError, IndexFileError
from hybridret.serving import words
from hybridret.serving.arrays import Growing
from hybridret.serving.change import Generation, Head
from hybridret.serving.filters import Columns
from hybridret.serving.recall import ef_for
from hybridret.serving.store import DATABASE, News, Store

_FILTERS = 64  # that are kept


@dataclass(frozen=True)
class GraphSettings:
    """HNSW's parameters (Malkov and Yashunin, arXiv 1603.09320).

    Attributes:
        M: links per document and level (level 0: twice as many).
        ef_construction, ef_search: size of the candidate list when building and when searching;
            larger values cost time and raise recall.
        seed: for the levels of the documents. One thread builds the same graph from the same seed;
            with several threads the graph depends on their timing.

    Raises:
        DataError: a value is not an integer or out of range.
    """

    M: int = 16
    ef_construction: int = 200
    ef_search: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"M": 2, "ef_construction": 1, "ef_search": 1, "seed": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value < 2**63:
                raise DataError(
                    f"{name} must be an integer of at least {minimum} and below 2^63, got {value!r}"
                )


class _Filter:
    """The places for which a filter holds, as far as it has been worked out."""

    def __init__(self) -> None:
        self.admitted: Growing[np.uint8] = Growing(np.uint8)  # of each place
        self.places: Growing[np.uint32] = Growing(np.uint32)


class State:
    """What of a generation's file is in memory; it grows, see :meth:`advance`."""

    def __init__(self, store: Store, head: Head, settings: GraphSettings) -> None:
        self.store = store
        self.head = replace(head, change=0, live=0)
        self.generation: Generation = replace(head.generation, places=0, graph=None, graph_places=0)
        self.settings = settings
        self.table = _native.Table(self.generation.dimension)
        self.graph: _native.Graph | None = None
        self.damaged = ""  # what is wrong with the published graph
        self.size = 0
        self._rows: Growing[np.int64] = Growing(np.int64)
        self._languages: Growing[np.int32] = Growing(np.int32)
        self._alive: Growing[np.bool_] = Growing(bool)
        self._numbers: dict[str, int] = {}  # of languages
        self._counts = np.zeros(0, dtype=np.int64)  # live documents by the language's number
        self._language_of: dict[int, int] = {}  # number by row, of documents without a place yet
        self.last_row = 0
        self._builder: _native.Graph | None = None
        self._counts_of_terms = words.Counts(self.generation.number)
        self._columns: Columns | None = None
        self._filters: OrderedDict[str, _Filter] = OrderedDict()
        self.broken = False
        self.unlock()

    def unlock(self) -> None:
        """A lock that nobody holds."""
        self._filtering = threading.Lock()

    @property
    def linked(self) -> int:
        """Places in the graph that searches use."""
        return self.graph.size if self.graph else 0

    @property
    def measured(self) -> dict[int, float]:
        """Recall of the published graph by ``ef``."""
        found = self.generation.graph_recall
        return {int(ef): value for ef, value in json.loads(found).items()} if found else {}

    @property
    def builder(self) -> _native.Graph:
        """A graph that searches do not use, to go on with."""
        if self._builder is None:
            self._builder = self._read_graph() or self._new_graph()
        return self._builder

    def _new_graph(self) -> _native.Graph:
        s = self.settings
        return _native.Graph(self.table, M=s.M, ef_construction=s.ef_construction, seed=s.seed)

    def advance(self, head: Head, news: News) -> None:
        """Takes over what has been committed since."""
        new = head.generation
        if len(news.rows) != new.places - self.size:
            raise IndexFileError(f"{self.store.folder / DATABASE}: damaged: blocks are missing")
        vectors = np.asarray(self.store.vectors(new))
        for row, language in news.documents:
            number = self._numbers.setdefault(language, len(self._numbers))
            self._language_of[row] = number
            self.last_row = max(self.last_row, row)
        if len(news.rows):
            numbers = [self._language_of.pop(row, -1) for row in news.rows.tolist()]
            # Before the table has them: searches look up what it finds.
            self._rows.extend(news.rows)
            self._languages.extend(numbers)
            self._alive.extend(np.ones(len(numbers), dtype=bool))
            self.table.extend(vectors)
            self.size = len(self._rows)
        places, there = self._places(news.deleted, self.size)
        alive, languages = self._alive.values, self._languages.values
        gone = places[there]
        gone = gone[alive[gone]]
        alive[gone] = False
        self.table.remove(gone.astype(np.uint32))
        counts = np.zeros(len(self._numbers), dtype=np.int64)
        counts[: len(self._counts)] = self._counts
        np.add.at(counts, languages[self.size - len(news.rows) :], 1)
        np.subtract.at(counts, languages[gone], 1)
        self._counts = counts
        old = self.generation
        same = (new.graph, new.graph_checksum) == (old.graph, old.graph_checksum)
        if self.damaged or not same:
            self.generation = new
            self.graph = self._read_graph()
        self.generation, self.head = new, head

    def _places(self, rows: Ints, size: int) -> tuple[Ints, NDArray[np.bool_]]:
        """The place of each row, and whether it has one of the first ``size``; else it is 0.

        Rows ascend from place to place.
        """
        known = self._rows.values[:size]
        at = np.searchsorted(known, rows)
        there = at < size
        there[there] = known[at[there]] == rows[there]
        return np.where(there, at, 0), there

    def _read_graph(self) -> _native.Graph | None:
        """The published graph; None if there is none or it is damaged."""
        generation = self.generation
        self.damaged = ""
        if generation.graph is None:
            return None
        path = self.store.folder / generation.graph
        graph = self._new_graph()
        try:
            if sha256(path) != generation.graph_checksum:
                raise RuntimeError(f"{path}: damaged: its checksum differs")
            graph.load(str(path), generation.graph_places)
        except (OSError, RuntimeError) as error:
            self.damaged = str(error)
            return None
        return graph

    def search(
        self,
        queries: Vectors,
        k: int,
        languages: Sequence[str] | None,
        conditions: Sequence[tuple[str, str, Any]],
        *,
        recall: float | None,
        exact: bool,
        threads: int,
    ) -> tuple[Ints, Vectors]:
        """Rows [Q, <= k] and scores; -1 where there are no more."""
        options: dict[str, Any] = {"threads": threads}
        if languages is not None or conditions:
            options["admitted"], options["rows"] = self._subset(languages, conditions)
        graph = None if exact else self.graph
        ef = self.settings.ef_search if recall is None else ef_for(self.measured, recall, k)
        if graph is None or ef is None:
            places, scores = self.table.search(queries, k, **options)
        else:
            places, scores = graph.search(queries, k, ef=ef, **options)
        rows = np.where(places < 0, -1, self._rows.values[places]) if places.size else places
        return rows, scores

    def search_words(
        self,
        terms: Sequence[str],
        k: int,
        languages: Sequence[str] | None,
        conditions: Sequence[tuple[str, str, Any]],
    ) -> tuple[Ints, Floats]:
        """Rows [<= k] of the documents that have one of the terms, best first, and their BM25."""
        admitted = self._alive.values.view(np.uint8)
        if languages is not None or conditions:
            admitted, _ = self._subset(languages, conditions)
        rows, scores = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        number, found = self.generation.number, 0
        with self.store.snapshot() as connection:
            head = self.store.head(number)
            counts = self._counts_of_terms.of(connection, terms, head.live)
            for turn in words.turns(counts) if admitted.size else []:
                for some, bm25 in words.ranked(connection, number, turn):
                    places, there = self._places(some, admitted.size)
                    kept = there & (admitted[places] != 0)
                    rows.append(some[kept])
                    scores.append(bm25[kept])
                    found += int(kept.sum())
                    if found >= k:
                        break
                if found:
                    break
        return np.concatenate(rows)[:k], np.concatenate(scores)[:k]

    def _subset(
        self, languages: Sequence[str] | None, conditions: Sequence[tuple[str, str, Any]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """A byte for each place, and the places that are admitted."""
        key = json.dumps([languages, conditions])
        with self._filtering:
            known = self._filters.get(key)
            found = known or _Filter()
            start, size = len(found.admitted), self.size
            if start < size or known is None:
                new = np.ones(size - start, dtype=bool)
                if languages is not None:
                    numbers = self._language_numbers(languages)
                    new &= np.isin(self._languages.values[start:size], numbers)
                if conditions:
                    new &= self._metadata(size).admitted(conditions, start)[: size - start]
                found.admitted.extend(new)
                found.places.extend(start + np.flatnonzero(new))
            self._filters[key] = found
            self._filters.move_to_end(key)
            while len(self._filters) > _FILTERS:
                self._filters.popitem(last=False)
            return found.admitted.values, found.places.values

    @property
    def languages(self) -> dict[str, int]:
        """Live documents in each language."""
        counts = self._counts
        found = {x: int(counts[n]) for x, n in self._numbers.copy().items() if n < len(counts)}
        return {language: found[language] for language in sorted(found) if found[language]}

    def _language_numbers(self, languages: Sequence[str]) -> list[int]:
        known = self.languages
        for asked in languages:
            if not any(matches_language(language, asked) for language in known):
                there = ", ".join(known) or "none"
                raise DataError(f"no document in language {asked!r}; the index has {there}")
        return [
            number
            for language, number in list(self._numbers.items())
            if any(matches_language(language, asked) for asked in languages)
        ]

    @property
    def fields(self) -> list[str]:
        """Those that metadata have."""
        with self._filtering:
            return self._metadata(self.size).fields

    def _metadata(self, size: int) -> Columns:
        """The columns, up to a number of places."""
        columns = self._columns = self._columns or Columns()
        if columns.size < size:
            rows = self._rows.values[columns.size : size]
            texts = dict(self.store.metadata(int(rows.min()) - 1))
            columns.extend(
                [json.loads(text) if (text := texts.get(row)) else None for row in rows.tolist()]
            )
        return columns
