"""A table of pairs whose texts stay on disk, for files that memory cannot hold.

The file is read once. Its texts go to a temporary file (in the folder that TMPDIR names), and are
read from there when a batch has them. Memory holds numbers alone: per pair some 100 bytes, and 8
for each language of the file.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hybridret._progress import progress_bar
from hybridret._types import Ints
from hybridret.data.jsonl import read_pair_lines
from hybridret.data.table import select_languages
from hybridret.errors import DataError
from hybridret.training.pairs import ABSENT, PairTable

_Ints = NDArray[Any]  # int32 or int64
_BUFFER = 1 << 20  # bytes


class DiskTexts(Sequence[str]):
    """Texts in a temporary file, which is deleted with the last reference."""

    def __init__(self, file: Any, starts: Ints, ends: Ints) -> None:
        self._file, self._starts, self._ends = file, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return DiskTexts(self._file, self._starts[at], self._ends[at])
        start, end = int(self._starts[at]), int(self._ends[at])
        return os.pread(self._file.fileno(), end - start, start).decode()


class Lists(Mapping[int, Ints]):
    """A list of numbers for some of the numbers from 0: ``values[starts[i] : starts[i + 1]]``."""

    def __init__(self, starts: _Ints, values: _Ints) -> None:
        self._starts, self._values = starts, values

    def __getitem__(self, key: int) -> Ints:
        found = self._values[self._starts[key] : self._starts[key + 1]]
        if not len(found):
            raise KeyError(key)
        return found.astype(np.int64)

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(np.diff(self._starts)).tolist())

    def __len__(self) -> int:
        return int((np.diff(self._starts) > 0).sum())


def stream_pairs(
    path: str | Path, languages: Sequence[str] | None = None, *, progress: bool = False
) -> PairTable:
    """The table of a file of pairs (see :func:`hybridret.data.jsonl.read_pairs`), texts on disk.

    The same as ``PairTable.from_dataset(load_dataset(path, languages=languages))``, but that two
    texts are taken for one if their hashes of 64 bits are equal (for 20 million texts: with a
    chance of 1 in 100,000).

    Raises:
        DataError: as of the reader.
    """
    path = Path(path)
    lines = _Lines(path, progress)
    tags = sorted(lines.tags)
    keep = set(tags) if languages is None else select_languages(path.name, tags, languages)
    return lines.table(path.name, sorted(keep))


class _Lines:
    """What is kept of the lines of a file: hashes and languages, and where their texts are.

    An *occurrence* is a place in the file where a document stands: a positive or a negative.
    """

    def __init__(self, path: Path, progress: bool) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.tags: dict[str, int] = {}
        self.query_languages, self.languages = array("H"), array("H")
        self.query_ends, self.starts, self.ends = array("q"), array("q"), array("q")
        self.query_starts = array("q")
        self.hashes, self.groups = array("Q"), array("Q")
        self.positives = array("q")  # occurrence of each line's positive
        at, buffer = 0, bytearray()
        with progress_bar(None, f"Reading {path.name}", enabled=progress) as bar:
            for line in read_pair_lines(path):
                texts = [line.query, line.positive, *line.negatives]
                for n, text in enumerate(texts):
                    raw = text.encode()
                    buffer += raw
                    start, at = at, at + len(raw)
                    if n == 0:
                        self.query_starts.append(start)
                        self.query_ends.append(at)
                        continue
                    tag = line.positive_language if n == 1 else line.negative_language
                    if n == 1:
                        self.positives.append(len(self.starts))
                    self.starts.append(start)
                    self.ends.append(at)
                    self.languages.append(self.tags.setdefault(tag, len(self.tags)))
                    self.hashes.append(_hash(tag.encode() + b"\0" + raw))
                language = line.query_language
                self.query_languages.append(self.tags.setdefault(language, len(self.tags)))
                self.groups.append(_hash(line.group.encode()))
                if len(buffer) > _BUFFER:
                    self.file.write(buffer)
                    buffer.clear()
                bar.update(1)
        self.file.write(buffer)
        self.file.flush()

    def table(self, name: str, languages: list[str]) -> PairTable:
        """The table of the queries and documents in these languages."""
        width = len(languages)
        column = np.full(len(self.tags), ABSENT, dtype=np.int32)
        column[[self.tags[tag] for tag in languages]] = np.arange(width)
        positives = _view(self.positives)
        first, document_of = _numbered(_view(self.hashes))  # of each occurrence
        line_of = np.repeat(
            np.arange(len(positives), dtype=np.int32),
            np.diff(positives, append=len(document_of)),
        )
        _, groups = _numbered(_view(self.groups))
        joined = _joined(groups, document_of[positives], len(first))
        query_columns = column[_view(self.query_languages)]
        asked = query_columns != ABSENT
        columns = column[_view(self.languages)[first]]  # of each document

        used = np.zeros(len(first), dtype=bool)
        used[document_of[asked[line_of]]] = True
        used &= columns != ABSENT
        place = np.where(used, np.cumsum(used) - 1, ABSENT).astype(np.int32)
        occurring = place[document_of]
        first, columns = first[used], columns[used]
        _, document_groups = _numbered(joined[used])
        del joined, document_of

        _, groups = _numbered(groups[asked])
        lines = np.flatnonzero(asked)
        queries = _query_rows(name, groups, query_columns[asked], width, languages)
        rows = _document_rows(groups, occurring[positives[lines]], columns, width, len(queries))
        documents, of_group = rows
        if not len(documents):
            raise DataError(f"{name}: empty: no query has a relevant document")
        if len(of_group) != len(queries) or len(of_group) != of_group[-1] + 1:
            queries = queries[of_group]
        is_negative = np.ones(len(line_of), dtype=bool)
        is_negative[positives] = False
        is_negative &= (occurring != ABSENT) & asked[line_of]
        counts = np.bincount(line_of[is_negative], minlength=len(asked))[asked]
        query_starts, query_ends = _view(self.query_starts), _view(self.query_ends)
        return PairTable(
            languages,
            DiskTexts(self.file, query_starts[asked], query_ends[asked]),
            DiskTexts(self.file, _view(self.starts)[first], _view(self.ends)[first]),
            queries,
            documents,
            of_group,
            document_groups,
            {},
            Lists(np.concatenate([[0], np.cumsum(counts)]), occurring[is_negative]),
        )


def _query_rows(
    name: str, groups: _Ints, columns: _Ints, width: int, languages: list[str]
) -> _Ints:
    """int32 [G, L], the query of each group in each language."""
    keys = groups.astype(np.int64) * width + columns
    found = np.full(int(groups.max(initial=-1) + 1) * width, ABSENT, dtype=np.int32)
    found[keys] = np.arange(len(keys))
    twice = np.flatnonzero(found[keys] != np.arange(len(keys)))
    if len(twice):
        query = int(twice[0])
        raise DataError(
            f"{name}: a group has two queries in {languages[columns[query]]}: those of pairs "
            f"{query + 1} and {int(found[keys[query]]) + 1}"
        )
    return found.reshape(-1, width)


def _document_rows(
    groups: _Ints, documents: _Ints, columns: _Ints, width: int, count: int
) -> tuple[_Ints, _Ints]:
    """The n-th document of each group in each language, int32 [R, L], and the group of each row.

    Args:
        groups, documents: of each pair.
        columns: language of each document.
        count: number of groups.
    """
    there = documents != ABSENT
    groups, documents = groups[there], documents[there]
    keys = groups.astype(np.int64) * max(1, len(columns)) + documents
    once = np.sort(np.unique(keys, return_index=True)[1])  # a pair may stand on several lines
    groups, documents = groups[once], documents[once]
    cells = groups.astype(np.int64) * width + columns[documents]
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    which = np.empty(len(order), dtype=np.int64)
    which[order] = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    rows = np.zeros(count, dtype=np.int64)
    np.maximum.at(rows, groups, which + 1)
    starts = np.cumsum(rows) - rows
    found = np.full((int(rows.sum()), width), ABSENT, dtype=np.int32)
    found[starts[groups] + which, columns[documents]] = documents
    return found, np.repeat(np.arange(count, dtype=np.int32), rows)


def _numbered(values: NDArray[Any]) -> tuple[_Ints, _Ints]:
    """Where each value stands first, in order, and the number of each value in that order."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order))
    return first[order], number[inverse.ravel()]


def _joined(groups: _Ints, documents: _Ints, count: int) -> _Ints:
    """int64 [count], the same number for documents that answer one group, or are joined by others.

    Documents that answer no group have numbers of their own.
    """
    size = int(groups.max(initial=-1)) + 1
    label = np.arange(size)
    while True:
        of_document = np.full(count, size, dtype=np.int64)
        np.minimum.at(of_document, documents, label[groups])
        new = label.copy()
        np.minimum.at(new, groups, of_document[documents])
        new = new[new]
        if np.array_equal(new, label):
            break
        label = new
    alone = of_document == size
    of_document[alone] = size + np.flatnonzero(alone)
    return of_document


def _view(numbers: array[int]) -> NDArray[Any]:
    return np.frombuffer(numbers, dtype=np.dtype(numbers.typecode))


def _hash(raw: bytes) -> int:
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")
