"""BEIR folders: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` (arXiv 2104.08663)."""

from __future__ import annotations

from pathlib import Path

from hybridret.data.jsonl import read_lines, read_rows
from hybridret.data.languages import normalize_language
from hybridret.data.table import Dataset, Document, Qrels, Query
from hybridret.errors import DataError

CORPUS_FILE = "corpus.jsonl*"


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

    def tag(found: str) -> str:
        return default if found == "und" else found

    judgements: Qrels = {}
    file = Path(qrels or folder / "qrels") / f"{split}.tsv"
    for number, (where, line) in enumerate(read_lines(file)):
        if number == 0 and line.startswith("query-id"):
            continue
        fields = line.split("\t")  # never quoted: ids and texts may begin with a quote
        if len(fields) != 3 or not fields[2].lstrip("-").isdigit():
            raise DataError(f"{where}: expected 'query-id<TAB>corpus-id<TAB>score', got {line!r}")
        judged = judgements.setdefault(fields[0], {})
        if judged.setdefault(fields[1], int(fields[2])) != int(fields[2]):
            raise DataError(
                f"{where}: query {fields[0]!r} judges document {fields[1]!r} twice, "
                f"{judged[fields[1]]} and {fields[2]}"
            )
    documents = [
        Document(
            row.text("_id"), row.text("text", default=""), tag(row.language("language")),
            row.text("_id"), row.text("title", default=""),
        )
        for row in read_rows(_file(folder, "corpus.jsonl"))
    ]  # fmt: skip
    queries = [
        Query(row.text("_id"), row.text("text"), tag(row.language("language")), row.text("_id"))
        for row in read_rows(_file(folder, "queries.jsonl"))
        if row.text("_id") in judgements
    ]
    return Dataset(folder.name, queries, documents, judgements)


def _file(folder: Path, name: str) -> Path:
    zipped = folder / f"{name}.gz"
    return zipped if zipped.is_file() else folder / name
