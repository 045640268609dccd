"""TREC judgements: ``query_id iteration document_id grade`` a line, separated by blanks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hybridret.data.jsonl import read_lines
from hybridret.data.table import Qrels
from hybridret.errors import DataError


def read_qrels(path: str | Path) -> Qrels:
    """Judgements by query; a negative grade counts as unjudged, as in trec_eval.

    Raises:
        DataError: malformed line, a grade that is not a whole number, a document judged twice for
            one query (the line is named).
    """
    qrels: Qrels = {}
    for where, fields in read_fields(path, 4, "query_id iteration document_id grade"):
        query_id, _, document_id, grade = fields
        if not re.fullmatch(r"[+-]?\d+", grade):
            raise DataError(f"{where}: the grade must be a whole number, got {grade!r}")
        judged = qrels.setdefault(query_id, {})
        if document_id in judged:
            raise DataError(
                f"{where}: query {query_id!r} judges document {document_id!r} twice, "
                f"{judged[document_id]} and {grade}"
            )
        judged[document_id] = int(grade)
    return qrels


def read_fields(path: str | Path, count: int, form: str) -> Iterator[tuple[str, list[str]]]:
    """(``file:line``, its ``count`` fields) of every line that is not blank."""
    empty = True
    for where, line in read_lines(Path(path)):
        fields = re.split(r"[ \t]+", line.strip(" \t\r"))
        if fields == [""]:
            continue
        if len(fields) != count:
            raise DataError(f"{where}: {len(fields)} fields, expected {count}: {form}")
        empty = False
        yield where, fields
    if empty:
        raise DataError(f"{path}: empty; expected lines of {form}")
