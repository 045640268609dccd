"""JSON Lines: documents to index, and query/passage pairs to train on."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.data.table import Dataset, Document, Query, groups_by_relevance
from hybridret.errors import DataError


def open_text(path: Path) -> io.TextIOBase:
    """A UTF-8 text file, gzipped where its name ends in ``.gz``.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``file:line``, line without its end) for every line; undecodable or cut files raise."""
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 after line {number}: {error.reason}") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut short after line {number}: {error}") from None


class Row:
    """One JSON object of a file, whose fields are asked for by name and checked."""

    def __init__(self, where: str, line: str) -> None:
        self.where = where
        try:
            self.fields: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(self.fields, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(self.fields).__name__}")

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of ``names`` that is there; numbers are read as text."""
        for name in names:
            if name in self.fields and not (default is not None and self.fields[name] is None):
                value = self.fields[name]
                if isinstance(value, int) and not isinstance(value, bool):
                    return str(value)
                if not isinstance(value, str) or (default is None and not value.strip()):
                    got = "an empty text" if isinstance(value, str) else json.dumps(value)[:60]
                    raise DataError(f"{self.where}: field {name!r} must be a text, got {got}")
                if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                    raise DataError(f"{self.where}: field {name!r} holds a lone surrogate")
                return value
        if default is None:
            expected = " or ".join(repr(name) for name in names)
            there = ", ".join(repr(name) for name in self.fields) or "none"
            raise DataError(f"{self.where}: no field {expected}; the line has {there}")
        return default

    def language(self, *names: str) -> str:
        """A normalised language tag; ``und`` where none of ``names`` is there."""
        tag = self.text(*names, default=UNDETERMINED)
        try:
            return normalize_language(tag)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from None


def read_rows(path: Path) -> Iterator[Row]:
    """The JSON objects of a file; blank lines are passed over, an empty file raises."""
    empty = True
    for where, line in read_lines(path):
        if line.strip():
            empty = False
            yield Row(where, line)
    if empty:
        raise DataError(f"{path}: the file is empty")


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents to index: ``{"id", "text", "title"?, "language"?}`` a line (``.jsonl[.gz]``).

    Ids default to the line number; BEIR's ``_id`` is read, too.

    Raises:
        DataError: naming file, line and field.
    """
    seen: set[str] = set()
    for row in read_rows(Path(path)):
        document_id = row.text("id", "_id", "document_id", default=row.where.rpartition(":")[2])
        if document_id in seen:
            raise DataError(f"{row.where}: document id {document_id!r} stands twice")
        seen.add(document_id)
        yield Document(
            document_id,
            row.text("text"),
            row.language("language", "lang"),
            row.text("group", "group_id", default=document_id),
            row.text("title", default=""),
        )


def read_pairs(path: str | Path) -> Dataset:
    """Training pairs: ``{"query", "positive", "language"?, "group"?}`` a line (``.jsonl[.gz]``).

    Lines of one ``group`` are translations of each other. ``passage`` may stand for ``positive``,
    ``lang`` for ``language``; ``query_language`` and ``positive_language`` may differ.

    Raises:
        DataError: naming file, line and field.
    """
    path = Path(path)
    queries: list[Query] = []
    positives: list[tuple[str, str, str]] = []
    document_ids: dict[tuple[str, str], str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row in read_rows(path):
        number = row.where.rpartition(":")[2]
        query_language = row.language("query_language", "language", "lang")
        text = row.text("positive", "passage")
        language = row.language("positive_language", "language", "lang")
        # One passage may answer many questions: it is one document.
        document_id = document_ids.setdefault((language, text), f"d{number}")
        if document_id == f"d{number}":
            positives.append((document_id, text, language))
        group = row.text("group", "group_id", default=f"line {number}")
        queries.append(Query(f"q{number}", row.text("query"), query_language, group))
        qrels[f"q{number}"] = {document_id: 1}
    groups = groups_by_relevance(
        {q.query_id: q.group_id for q in queries},
        ((q, d) for q, judged in qrels.items() for d in judged),
    )
    documents = [Document(i, text, language, groups[i]) for i, text, language in positives]
    return Dataset(path.name, queries, documents, qrels)
