"""TREC files: lines of fields, and of these judgements: ``query_id iteration document_id grade``.

They are read as trec_eval 10 reads them (its get_qrels.c and get_trec_results.c):

- a line ends at ``\\n`` alone, which the last one may lack;
- fields are separated by blanks, and may be preceded and followed by them: space, tab, vertical
  tab, form feed, carriage return, and no other;
- a line whose first field begins with ``#`` is a comment.

Blank lines, and any number of comments, may be anywhere; trec_eval has its limits there in
judgements. More fields than there should be are an error, though trec_eval passes over what comes
after the tag of a run: lines that run together would be lost without a word. So is a NUL, at which
trec_eval stops reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hybridret.data.reading import read_lines
from hybridret.data.table import Qrels
from hybridret.errors import DataError

# The blanks of C's isspace, which trec_eval asks: an id may hold a no-break space.
_FIELD = re.compile(r"[^ \t\v\f\r]+")
_GRADE = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")


def read_qrels(path: str | Path) -> Qrels:
    """Judgements by query; a negative grade counts as unjudged, as in trec_eval.

    Raises:
        DataError: malformed line, a grade that is not a whole number, a duplicate judgement (the
            line is named).
    """
    qrels: Qrels = {}
    for where, fields in read_fields(path, 4, "query_id iteration document_id grade"):
        query_id, _, document_id, text = fields
        grade = parse_grade(text, where)
        judged = qrels.setdefault(query_id, {})
        if document_id in judged:
            raise DataError(
                f"{where}: duplicate judgement of document {document_id!r} for query "
                f"{query_id!r}: {judged[document_id]} and {grade}"
            )
        judged[document_id] = grade
    return qrels


def parse_grade(text: str, where: str) -> int:
    """A grade: an integer of 64 bits, which may be written ``1.0``.

    trec_eval's ``atol`` reads as much of a field as is an integer, so 0.5 as 0 and 1e3 as 1, and
    what is none as 0: all that is an error here.

    Raises:
        DataError: ``text`` is not such a number.
    """
    if _GRADE.fullmatch(text):
        grade = int(text.partition(".")[0])
        if -(2**63) <= grade < 2**63:
            return grade
    raise DataError(f"{where}: the grade must be a whole number of 64 bits, got {text[:40]!r}")


def read_fields(path: str | Path, count: int, form: str) -> Iterator[tuple[str, list[str]]]:
    """(``file:line``, its ``count`` fields) of every line that is no comment and not blank.

    Raises:
        DataError: another number of fields, a NUL, or no line at all.
    """
    empty = True
    for where, line in read_lines(Path(path)):
        fields = _FIELD.findall(line)
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != count:
            raise DataError(f"{where}: {len(fields)} fields, expected {count}: {form}")
        if "\0" in line:
            raise DataError(f"{where}: a NUL character, which a TREC file cannot hold")
        empty = False
        yield where, fields
    if empty:
        raise DataError(f"{path}: empty; expected lines of {form}")
