"""JSON Lines: documents to index, and query/passage pairs to train on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hybridret.data.formats import Format
from hybridret.data.reading import Record, read_records
from hybridret.data.table import Dataset, Document, Query, groups_by_relevance

_DOCUMENT_FIELDS = frozenset(
    (
        "id",
        "_id",
        "document_id",
        "text",
        "language",
        "lang",
        "group",
        "group_id",
        "title",
        "metadata",
    )
)
_NEGATIVES = re.compile(r"neg|(hard_)?negatives?(_[0-9]+)?")
_QUERY_LANGUAGE = ("query_language", "query_lang", "language", "lang")
_POSITIVE_LANGUAGE = (
    "positive_language",
    "positive_lang",
    "passage_language",
    "passage_lang",
    "language",
    "lang",
)
_NEGATIVE_LANGUAGE = ("negative_language", "negatives_language", "negative_lang")


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents to index: ``{"id", "text", "title"?, "language"?}`` a line (``.jsonl[.gz]``).

    Ids default to the line number; BEIR's ``_id`` is read, too. Other fields, and those of an
    object ``metadata``, are the document's metadata.

    Raises:
        DataError: naming file, line and field.
    """
    seen: set[str] = set()
    for row in read_records(Path(path)):
        document_id = row.text("id", "_id", "document_id", default=_line(row))
        if document_id in seen:
            raise row.error(f"duplicate document id {document_id!r}")
        seen.add(document_id)
        yield Document(
            document_id,
            row.text("text"),
            row.language("language", "lang"),
            row.text("group", "group_id", default=document_id),
            row.text("title", default=""),
            metadata=_metadata(row),
        )


def _metadata(row: Record) -> dict[str, Any] | None:
    own = {name: value for name, value in row.fields.items() if name not in _DOCUMENT_FIELDS}
    inner = row.fields.get("metadata")
    if inner is not None and not isinstance(inner, dict):
        raise row.error(f"field 'metadata' must be an object, got {type(inner).__name__}")
    return {**own, **(inner or {})} or None


def read_pairs(path: str | Path) -> Dataset:
    """Training pairs: ``{"query", "positive", "language"?, "group"?}`` a line (``.jsonl[.gz]``).

    Lines of one ``group`` are translations of each other. ``passage`` is read as ``positive``,
    ``lang`` as ``language``; ``query_language`` and ``positive_language`` may differ. Hard
    negatives are ``"negatives": [text, ...]``, any number, or ``negative``, ``negative_1`` and so
    on; they are in the positive's language, or ``negative_language``. Other fields are passed over.

    Raises:
        DataError: naming file, line and field.
    """
    path = Path(path)
    queries: list[Query] = []
    texts: list[tuple[str, str, str]] = []  # id, text, language
    document_ids: dict[tuple[str, str], str] = {}
    qrels: dict[str, dict[str, int]] = {}
    negatives: dict[str, list[str]] = {}

    def document(text: str, language: str, name: str) -> str:
        # One passage may answer many questions: it is one document.
        document_id = document_ids.setdefault((language, text), name)
        if document_id == name:
            texts.append((document_id, text, language))
        return document_id

    for pair in read_pair_lines(path):
        number = pair.line
        document_id = document(pair.positive, pair.positive_language, f"d{number}")
        if pair.negatives:
            negatives[f"q{number}"] = [
                document(negative, pair.negative_language, f"d{number}.{n}")
                for n, negative in enumerate(pair.negatives)
            ]
        queries.append(Query(f"q{number}", pair.query, pair.query_language, pair.group))
        qrels[f"q{number}"] = {document_id: 1}
    groups = groups_by_relevance(
        {q.query_id: q.group_id for q in queries},
        ((q, d) for q, judged in qrels.items() for d in judged),
    )
    documents = [
        Document(i, text, language, groups.get(i, f"negative {i}")) for i, text, language in texts
    ]
    return Dataset(path.name, queries, documents, qrels, negatives)


class PairLine(NamedTuple):
    """A line of a file of pairs; languages are normalised."""

    line: str
    query: str
    query_language: str
    positive: str
    positive_language: str
    group: str
    negatives: list[str]
    negative_language: str


def read_pair_lines(path: Path) -> Iterator[PairLine]:
    """The lines of a file of pairs, see :func:`read_pairs`.

    Raises:
        DataError: naming file, line and field.
    """
    for row in read_records(path):
        line = _line(row)
        query_language = row.language(*_QUERY_LANGUAGE)
        positive = row.text("positive", "passage")
        language = row.language(*_POSITIVE_LANGUAGE)
        negatives = _negatives(row, positive)
        spoken = language
        if negatives:
            spoken = row.language(*_NEGATIVE_LANGUAGE, *_POSITIVE_LANGUAGE)
        group = row.text("group", "group_id", default=f"line {line}")
        query = row.text("query")
        yield PairLine(line, query, query_language, positive, language, group, negatives, spoken)


def _negatives(row: Record, positive: str) -> list[str]:
    """Texts of all fields of negatives, each once; null is none."""
    found: dict[str, None] = {}
    for name, value in row.fields.items():
        if not _NEGATIVES.fullmatch(name) or value is None:
            continue
        texts = row.strings(name) if isinstance(value, list) else [row.string(name)]
        for n, text in enumerate(texts, 1):
            if not text.strip():
                raise row.error(f"field {name!r}: negative {n} is an empty text")
            if text == positive:
                raise row.error(f"field {name!r}: negative {n} is the positive itself")
            found[text] = None
    return list(found)


def _line(row: Record) -> str:
    return row.where.rpartition(":")[2]


def _read(path: Path) -> Dataset:
    """Pairs or documents, by the fields of the first line."""
    first = next(read_records(path), None)
    if first is not None and "text" in first.fields and "query" not in first.fields:
        return Dataset(path.name, [], list(read_documents(path)), {})
    return read_pairs(path)


FORMAT = Format(
    "JSON Lines",
    "a .jsonl or .jsonl.gz file of query/positive pairs, or of texts alone",
    lambda path: path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")),
    lambda source: _read(source.path),
)
