"""MIRACL (Zhang et al. 2023): topics, judgements and corpora as its authors publish them.

``topics.miracl-v1.0-<language>-<split>.tsv`` holds ``query_id<TAB>query`` without a header,
``qrels.miracl-v1.0-<language>-<split>.tsv`` TREC judgements, 0 included, and the corpus is
``miracl-corpus-v1.0-<language>/docs-*.jsonl.gz`` with ``{"docid", "title", "text"}`` a line. The
official figures are nDCG@10 and recall@100 of each language.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.languages import files_by_language, normalize_language
from hybridret.data.qrels import read_qrels
from hybridret.data.reading import read_lines, read_records
from hybridret.data.table import Dataset, Document, Qrels, Query, StreamedDocuments
from hybridret.errors import DataError

TOPICS = "topics.miracl-v1.0-*.tsv"


def read_miracl(
    folder: str | Path,
    split: str = "dev",
    *,
    corpus: str | Path | None = None,
    languages: Sequence[str] | None = None,
) -> Dataset:
    """Reads the languages of which the folder, or a folder in it, has topics and a corpus.

    Ids are MIRACL's own for one language, and ``<language>-<id>`` for several, whose ids overlap.
    The corpus, 106 million passages in all, is streamed from its files.

    Args:
        corpus: folder of the corpora, where it is another one.
        languages: only these.

    Raises:
        DataError: nothing of the split, no corpus of any of its languages, malformed lines, or a
            judged document that the corpus lacks.
    """
    folder = Path(folder)
    topics = files_by_language(
        (_code(file), file) for file in sorted(folder.rglob(f"topics.miracl-v1.0-*-{split}.tsv"))
    )
    if not topics:
        raise DataError(f"{folder}: no topics.miracl-v1.0-<language>-{split}.tsv in it")
    if languages is not None:
        wanted = {normalize_language(language) for language in languages}
        topics = {language: file for language, file in topics.items() if language in wanted}
        if not topics:
            raise DataError(f"{folder}: no topics of {', '.join(sorted(wanted))}")
    corpora = {
        language: sorted(
            Path(corpus or folder).rglob(f"miracl-corpus-v1.0-{_code(file)}/docs-*.jsonl*")
        )
        for language, file in topics.items()
    }
    found = [language for language, files in corpora.items() if files]
    if not found:
        raise DataError(
            f"{folder}: topics of {', '.join(topics)}, but no corpus of any of them; expected "
            f"miracl-corpus-v1.0-<language>/docs-*.jsonl.gz"
        )
    prefixes = {language: f"{language}-" if len(found) > 1 else "" for language in found}
    queries: list[Query] = []
    qrels: Qrels = {}
    for language, prefix in prefixes.items():
        file = topics[language]
        judgements = _one(folder, f"qrels.miracl-v1.0-{_code(file)}-{split}.tsv")
        judged = read_qrels(judgements)
        for where, line in read_lines(file):
            query_id, tab, text = line.partition("\t")
            if not tab or not query_id or not text.strip():
                raise DataError(f"{where}: expected 'query_id<TAB>query', got {line[:60]!r}")
            name = prefix + query_id
            queries.append(Query(name, text, language, name))
            qrels[name] = {prefix + d: grade for d, grade in judged.pop(query_id, {}).items()}
        if judged:
            raise DataError(f"{judgements}: query {next(iter(judged))!r} is not in {file}")

    def documents() -> Iterator[Document]:
        for language, prefix in prefixes.items():
            for file in corpora[language]:
                for row in read_records(file):
                    name = prefix + row.text("docid")
                    text, title = row.text("text", default=""), row.text("title", default="")
                    yield Document(name, text, language, name, title)

    return Dataset(f"miracl-{split}", queries, StreamedDocuments(documents), qrels)


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"{folder}: no {name} in it")
    return found[0]


def _code(topics: Path) -> str:
    return topics.name.split("-")[2]


FORMAT = Format(
    "MIRACL",
    "a folder with topics.miracl-v1.0-<language>-dev.tsv",
    lambda path: any(path.rglob(TOPICS)),
    lambda source: read_miracl(source.path, corpus=source.second, languages=source.languages),
)
