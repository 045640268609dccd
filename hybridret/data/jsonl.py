"""JSON Lines: documents to index, and query/passage pairs to train on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.reading import Record, read_records
from hybridret.data.table import Dataset, Document, Query, groups_by_relevance

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


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents to index: ``{"id", "text", "title"?, "language"?}`` a line (``.jsonl[.gz]``).

    Ids default to the line number; BEIR's ``_id`` is read, too.

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
        )


def read_pairs(path: str | Path) -> Dataset:
    """Training pairs: ``{"query", "positive", "language"?, "group"?}`` a line (``.jsonl[.gz]``).

    Lines of one ``group`` are translations of each other. ``passage`` is read as ``positive``,
    ``lang`` as ``language``; ``query_language`` and ``positive_language`` may differ. Negatives are
    an error until training uses them; other fields are passed over.

    Raises:
        DataError: naming file, line and field.
    """
    path = Path(path)
    queries: list[Query] = []
    positives: list[tuple[str, str, str]] = []
    document_ids: dict[tuple[str, str], str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row in read_records(path):
        _refuse_negatives(row)
        number = _line(row)
        query_language = row.language(*_QUERY_LANGUAGE)
        text = row.text("positive", "passage")
        language = row.language(*_POSITIVE_LANGUAGE)
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


def _refuse_negatives(row: Record) -> None:
    for name, value in row.fields.items():
        if _NEGATIVES.fullmatch(name) and value is not None:
            raise row.error(f"field {name!r}: mined negatives are not used yet; remove the field")


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
