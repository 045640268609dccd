"""mMARCO (Bonifacio et al. 2021): MS MARCO's queries and passages in fourteen languages.

A passage has the same number in every language, and so has a query: they are the translation
groups. ``triples.train.ids.small.tsv`` holds ``query<TAB>relevant<TAB>not relevant`` by these
numbers, each query and relevant passage many times with other passages: the first of them is kept
as a hard negative.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.languages import files_by_language
from hybridret.data.reading import read_lines
from hybridret.data.table import Dataset, Document, Query, select_languages
from hybridret.errors import DataError

COLLECTIONS = "*_collection.tsv"
TRIPLES = "triples.train.ids*.tsv"
LANGUAGES = {
    "arabic": "ar",
    "chinese": "zh",
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "hindi": "hi",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
    "vietnamese": "vi",
}


def read_mmarco(folder: str | Path, *, languages: Sequence[str] | None = None) -> Dataset:
    """Reads the languages of which the folder, or folders in it, have a collection and queries.

    Only the queries and passages of the triples are held: of the small triples about 400,000
    queries and 800,000 passages a language, some gigabytes for nine of them.

    Args:
        languages: only these.

    Raises:
        DataError: no triples, no language with both files, a malformed line, or a number that a
            collection or its queries lack.
    """
    folder = Path(folder)
    files = _by_language(folder, "_collection.tsv")
    asked = _by_language(folder, "_queries.train.tsv")
    spoken = sorted(files.keys() & asked.keys())
    if not spoken:
        raise DataError(
            f"{folder}: no language with <language>_collection.tsv and <language>_queries.train.tsv"
        )
    if languages is not None:
        spoken = sorted(select_languages("mMARCO", spoken, languages))
    triples = sorted(folder.rglob(TRIPLES))
    if not triples:
        raise DataError(f"{folder}: no {TRIPLES} in it")
    relevant = _read_triples(triples[0])
    wanted = {number for pairs in relevant.values() for pair in pairs.items() for number in pair}
    queries: list[Query] = []
    documents: list[Document] = []
    for language in spoken:
        for number, text in _texts(asked[language], relevant.keys()):
            queries.append(Query(f"{language}-{number}", text, language, number))
        for number, text in _texts(files[language], wanted):
            documents.append(Document(f"{language}-{number}", text, language, number))
    own = [(q, q.language, relevant[q.group_id]) for q in queries]
    return Dataset(
        "mmarco",
        queries,
        documents,
        {q.query_id: dict.fromkeys((f"{x}-{p}" for p in found), 1) for q, x, found in own},
        {q.query_id: [f"{x}-{n}" for n in dict.fromkeys(found.values())] for q, x, found in own},
    )


def _by_language(folder: Path, ending: str) -> dict[str, Path]:
    names = ((f.name.removesuffix(ending), f) for f in sorted(folder.rglob(f"*{ending}")))
    return files_by_language((LANGUAGES.get(name, name), file) for name, file in names)


def _read_triples(file: Path) -> dict[str, dict[str, str]]:
    """By query: its relevant passages, each with the first that is not."""
    found: dict[str, dict[str, str]] = {}
    for where, line in read_lines(file):
        fields = line.split("\t")
        if len(fields) != 3 or not all(field.isdigit() for field in fields):
            raise DataError(f"{where}: expected three numbers with tabs between, got {line[:60]!r}")
        query, passage, other = fields
        found.setdefault(query, {}).setdefault(passage, other)
    return found


def _texts(file: Path, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Number and text of the lines that are wanted, in the order of the file."""
    missing = set(wanted)
    for where, line in read_lines(file):
        number, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{where}: expected 'number<TAB>text', got {line[:60]!r}")
        if number in missing:
            missing.discard(number)
            yield number, text
    if missing:
        raise DataError(
            f"{file}: {len(missing):,} numbers of the triples are missing, such as {min(missing)}"
        )


FORMAT = Format(
    "mMARCO",
    "a folder with <language>_collection.tsv",
    lambda path: any(path.rglob(COLLECTIONS)),
    lambda source: read_mmarco(source.path, languages=source.languages),
)
