"""A table of pairs whose texts stay on disk, for files that memory cannot hold.

The file is read once. Its texts go to a temporary file (in the folder that TMPDIR names), and are
read from there when a batch has them. Memory holds numbers alone, some 100 bytes for each pair.
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

    def __init__(self, file: Any, starts: _Ints, lengths: _Ints) -> None:
        self._file, self._starts, self._lengths = file, starts, lengths

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return DiskTexts(self._file, self._starts[at], self._lengths[at])
        length, start = int(self._lengths[at]), int(self._starts[at])
        return os.pread(self._file.fileno(), length, start).decode()


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


class Cells:
    """A table of numbers [R, L] of which most cells are empty; it is read like an array.

    Args:
        numbers: of the cells, row by row: row * L + column, in order.
        values: of these cells; the others have -1.
        rows: the row of ``numbers`` that each of the R rows is.
    """

    def __init__(self, numbers: _Ints, values: _Ints, rows: _Ints, width: int) -> None:
        self._numbers, self._values, self._rows = numbers, values, rows
        self.shape = (len(rows), width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: tuple[_Ints | int, _Ints | int]) -> _Ints:
        wanted = self._rows[at[0]].astype(np.int64) * self.shape[1] + at[1]
        place = np.minimum(np.searchsorted(self._numbers, wanted), len(self._numbers) - 1)
        return np.where(self._numbers[place] == wanted, self._values[place], ABSENT)

    def __ne__(self, value: object) -> NDArray[np.bool_]:  # type: ignore[override]
        """bool [R, L]: which cells there are."""
        assert value == ABSENT
        there = np.zeros((int(self._rows[-1]) + 1, self.shape[1]), dtype=bool)
        there.reshape(-1)[self._numbers[self._numbers < there.size]] = True
        return there if len(there) == len(self) else there[self._rows]

    __hash__ = None  # type: ignore[assignment]

    def max(self, axis: int) -> _Ints:
        """[R], the largest of each row."""
        assert axis == 1
        found = np.full(int(self._rows[-1]) + 1, ABSENT, dtype=self._values.dtype)
        rows = self._numbers // self.shape[1]
        there = rows < len(found)
        np.maximum.at(found, rows[there], self._values[there])
        return found[self._rows]

    def tobytes(self) -> bytes:
        return b"".join(x.tobytes() for x in (self._numbers, self._values, self._rows))


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
        self.query_starts, self.query_lengths = array("q"), array("I")
        self.starts, self.lengths = array("q"), array("I")
        self.hashes, self.groups = array("Q"), array("Q")
        self.counts = array("I")  # occurrences of each line
        at, buffer = 0, bytearray()
        with progress_bar(None, f"Reading {path.name}", enabled=progress) as bar:
            for line in read_pair_lines(path):
                raw = line.query.encode()
                self.query_starts.append(at)
                self.query_lengths.append(len(raw))
                self.query_languages.append(self._language(line.query_language))
                self.groups.append(_hash(line.group.encode()))
                self.counts.append(1 + len(line.negatives))
                buffer += raw
                at += len(raw)
                for n, text in enumerate((line.positive, *line.negatives)):
                    tag = line.negative_language if n else line.positive_language
                    raw = text.encode()
                    self.starts.append(at)
                    self.lengths.append(len(raw))
                    self.languages.append(self._language(tag))
                    self.hashes.append(_hash(tag.encode() + b"\0" + raw))
                    buffer += raw
                    at += len(raw)
                if len(buffer) > _BUFFER:
                    self.file.write(buffer)
                    buffer.clear()
                bar.update(1)
        self.file.write(buffer)
        self.file.flush()

    def _language(self, tag: str) -> int:
        return self.tags.setdefault(tag, len(self.tags))

    def table(self, name: str, languages: list[str]) -> PairTable:
        """The table of the queries and documents in these languages; can be made once."""
        width = len(languages)
        column = np.full(len(self.tags), ABSENT, dtype=np.int16)
        column[[self.tags[tag] for tag in languages]] = np.arange(width)
        query_columns = column[_taken(self, "query_languages")]
        asked = query_columns != ABSENT
        query_columns = query_columns[asked]
        counts = _taken(self, "counts")
        positives = np.cumsum(counts, dtype=np.int64) - counts  # occurrence of each line's
        of_asked = np.repeat(asked, counts)  # occurrences in lines that are kept

        first, documents = _numbered(_taken(self, "hashes"))  # of each occurrence
        columns = column[_taken(self, "languages")[first]]  # of each document
        used = np.zeros(len(first), dtype=bool)
        used[documents[of_asked]] = True
        used &= columns != ABSENT
        columns = columns[used]
        _, groups = _numbered(_taken(self, "groups"))
        joined = _joined(groups, documents[positives], len(first))[used]
        _, groups = _numbered(groups[asked])
        _, document_groups = _numbered(joined)
        del joined
        first = first[used]
        texts = DiskTexts(self.file, _taken(self, "starts")[first], _taken(self, "lengths")[first])
        del first
        place = np.where(used, np.cumsum(used, dtype=np.int32) - 1, ABSENT)
        documents = place[documents]
        del place, used

        answers = documents[positives[asked]]
        is_negative = of_asked & (documents != ABSENT)
        is_negative[positives] = False
        line_of = np.repeat(np.arange(len(asked), dtype=np.int32), counts)
        many = np.bincount(line_of[is_negative], minlength=len(asked))[asked]
        negatives = Lists(np.concatenate([[0], np.cumsum(many)]), documents[is_negative])
        del documents, line_of, is_negative, of_asked, positives, counts

        asking = _queries(name, groups, query_columns, languages)
        answering, of_group = _answers(groups, answers, columns, width)
        if not len(of_group):
            raise DataError(f"{name}: empty: no query has a relevant document")
        starts, lengths = _taken(self, "query_starts"), _taken(self, "query_lengths")
        return PairTable(
            languages,
            DiskTexts(self.file, starts[asked], lengths[asked]),
            texts,
            Cells(*asking, of_group, width),  # type: ignore[arg-type]
            Cells(*answering, np.arange(len(of_group), dtype=np.int32), width),  # type: ignore[arg-type]
            of_group,
            document_groups,
            {},
            negatives,
        )


def _queries(
    name: str, groups: _Ints, columns: _Ints, languages: Sequence[str]
) -> tuple[_Ints, _Ints]:
    """The cells of a table of groups by languages that have a query, and the queries."""
    numbers = groups.astype(np.int64) * len(languages) + columns
    order = np.argsort(numbers, kind="stable").astype(np.int32)
    numbers = numbers[order]
    twice = np.flatnonzero(np.diff(numbers) == 0)
    if len(twice):
        one, other = (int(order[twice[0] + n]) + 1 for n in (0, 1))
        raise DataError(
            f"{name}: a group has two queries in {languages[int(columns[one - 1])]}: those of "
            f"pairs {one} and {other}"
        )
    return numbers, order


def _answers(
    groups: _Ints, documents: _Ints, columns: _Ints, width: int
) -> tuple[tuple[_Ints, _Ints], _Ints]:
    """Rows with the n-th document of a group in each language: their cells, and their groups.

    Args:
        groups, documents: of each pair.
        columns: language of each document.
    """
    there = documents != ABSENT
    groups, documents = groups[there], documents[there]
    numbers = groups.astype(np.int64) * max(1, len(columns)) + documents
    once = np.sort(np.unique(numbers, return_index=True)[1])  # a pair may stand on several lines
    groups, documents = groups[once], documents[once]
    del numbers, once
    cells = groups.astype(np.int64) * width + columns[documents]
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    begins = np.flatnonzero(np.diff(cells, prepend=-1))
    which = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    del begins
    groups, documents = groups[order], documents[order]
    del order
    rows = np.zeros(int(groups.max(initial=-1)) + 1, dtype=np.int32)
    np.maximum.at(rows, groups, (which + 1).astype(np.int32))
    starts = np.cumsum(rows, dtype=np.int64) - rows
    numbers = (starts[groups] + which) * width + columns[documents]
    order = np.argsort(numbers, kind="stable")
    of_group = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
    return (numbers[order], documents[order]), of_group


def _numbered(values: NDArray[Any]) -> tuple[_Ints, _Ints]:
    """Where each value stands first, in order, and the number of each value in that order."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return first[order], number[inverse.ravel()]


def _joined(groups: _Ints, documents: _Ints, count: int) -> _Ints:
    """[count], the same number for documents that answer one group, or are joined by others.

    Documents that answer no group have numbers of their own.
    """
    size = int(groups.max(initial=-1)) + 1
    label = np.arange(size, dtype=np.int32)
    while True:
        of_document = np.full(count, size, dtype=np.int32)
        np.minimum.at(of_document, documents, label[groups])
        new = label.copy()
        np.minimum.at(new, groups, of_document[documents])
        new = new[new]
        if np.array_equal(new, label):
            break
        label = new
    alone = np.flatnonzero(of_document == size)
    joined = of_document.astype(np.int64)
    joined[alone] = size + alone
    return joined


def _taken(lines: _Lines, name: str) -> NDArray[Any]:
    """A column of the lines, which does not keep it any longer."""
    numbers = getattr(lines, name)
    setattr(lines, name, None)
    return np.frombuffer(numbers, dtype=np.dtype(numbers.typecode))


def _hash(raw: bytes) -> int:
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")
