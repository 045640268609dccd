"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` (arXiv 2104.08663)."""

from __future__ import annotations

from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.data.qrels import parse_grade
from hybridret.data.reading import Record, read_lines, read_records
from hybridret.data.table import Dataset, Document, Qrels, Query
from hybridret.errors import DataError


def read_beir(
    folder: str | Path,
    split: str = "test",
    language: str = "en",
    *,
    qrels: str | Path | None = None,
) -> Dataset:
    """Reads one BEIR data set; only queries that the split judges are kept.

    ``corpus.jsonl`` and ``queries.jsonl`` may be gzipped, as they are on the hub.

    Args:
        qrels: folder of ``<split>.tsv``, ``qrels`` in the data set's own unless given.
        language: language of lines without a ``language`` field.

    Raises:
        DataError: naming file, line and field.
    """
    folder = Path(folder)
    default = normalize_language(language)

    def language_of(row: Record) -> str:
        found = row.language("language")
        return default if found == UNDETERMINED else found

    judgements = _read_judgements(Path(qrels or folder / "qrels") / f"{split}.tsv")
    documents = [
        Document(
            row.text("_id"),
            row.text("text", default=""),
            language_of(row),
            row.text("_id"),
            row.text("title", default=""),
        )
        for row in read_records(_file(folder, "corpus.jsonl"))
    ]
    queries = [
        Query(row.text("_id"), row.text("text"), language_of(row), row.text("_id"))
        for row in read_records(_file(folder, "queries.jsonl"))
        if row.text("_id") in judgements
    ]
    return Dataset(folder.name, queries, documents, judgements)


def _read_judgements(file: Path) -> Qrels:
    judgements: Qrels = {}
    for number, (where, line) in enumerate(read_lines(file)):
        if number == 0 and line.startswith("query-id"):
            continue
        fields = line.split("\t")  # never quoted: ids and texts may begin with a quote
        if len(fields) != 3:
            raise DataError(
                f"{where}: expected 'query-id<TAB>corpus-id<TAB>score', got {line[:60]!r}"
            )
        query_id, document_id, grade = fields[0], fields[1], parse_grade(fields[2], where)
        judged = judgements.setdefault(query_id, {})
        if judged.setdefault(document_id, grade) != grade:
            raise DataError(
                f"{where}: query {query_id!r} has two grades for document {document_id!r}: "
                f"{judged[document_id]} and {grade}"
            )
    if not judgements:
        raise DataError(f"{file}: no judgement in it")
    return judgements


def _file(folder: Path, name: str) -> Path:
    zipped = folder / f"{name}.gz"
    return zipped if zipped.is_file() else folder / name


FORMAT = Format(
    "BEIR",
    "a folder with corpus.jsonl",
    lambda path: _file(path, "corpus.jsonl").is_file(),
    lambda source: read_beir(source.path, qrels=source.second),
)
