"""The Tatoeba test sets of LASER and XTREME: sentences and their English translations by line.

Queries are the English sentences, documents those of the other language; each language has its own
thousand. The published figure, accuracy, is ``success@1`` of the cross-lingual setting.
"""

from __future__ import annotations

from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.languages import files_by_language
from hybridret.data.reading import read_lines
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError

PAIR_FILES = "tatoeba.*-eng.eng"


def read_tatoeba(folder: str | Path) -> Dataset:
    """Reads every ``tatoeba.<language>-eng.<language>`` beside its ``tatoeba.<language>-eng.eng``.

    Raises:
        DataError: a file is missing, or the two differ in their number of lines.
    """
    folder = Path(folder)
    queries: list[Query] = []
    documents: list[Document] = []
    qrels: dict[str, dict[str, int]] = {}
    files = files_by_language((_code(file), file) for file in sorted(folder.glob(PAIR_FILES)))
    for language, english in files.items():
        other = english.with_suffix(f".{_code(english)}")
        sides = [[line for _, line in read_lines(file)] for file in (english, other)]
        if len(sides[0]) != len(sides[1]):
            raise DataError(f"{other}: {len(sides[1])} lines, but {english} has {len(sides[0])}")
        for n, (question, sentence) in enumerate(zip(*sides, strict=True)):
            pair = f"{language}-{n:04d}"
            queries.append(Query(f"en-{pair}", question, "en", pair))
            documents.append(Document(pair, sentence, language, pair))
            qrels[f"en-{pair}"] = {pair: 1}
    if not queries:
        raise DataError(f"{folder}: no sentence in any {PAIR_FILES}")
    return Dataset("tatoeba", queries, documents, qrels)


def _code(english: Path) -> str:
    return english.name.split(".")[1].removesuffix("-eng")


FORMAT = Format(
    "Tatoeba",
    "a folder with tatoeba.<language>-eng.eng",
    lambda path: any(path.glob(PAIR_FILES)),
    lambda source: read_tatoeba(source.path),
)
