"""MIRACL (Zhang et al. 2023): topics, judgements and corpora as its authors publish them.

``topics.miracl-v1.0-<language>-<split>.tsv`` holds ``query_id<TAB>query`` without a header,
``qrels.miracl-v1.0-<language>-<split>.tsv`` TREC judgements, 0 included, and the corpus is
``miracl-corpus-v1.0-<language>/docs-*.jsonl.gz`` with ``{"docid", "title", "text"}`` a line. The
official figures are nDCG@10 and recall@100 of each language.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hybridret.data.jsonl import read_lines, read_rows
from hybridret.data.languages import normalize_language
from hybridret.data.qrels import read_qrels
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
    topics = {
        path.name.split("-")[2]: path
        for path in sorted(folder.rglob(f"topics.miracl-v1.0-*-{split}.tsv"))
    }
    if not topics:
        raise DataError(f"{folder}: no topics.miracl-v1.0-<language>-{split}.tsv in it")
    if languages is not None:
        wanted = {normalize_language(language) for language in languages}
        topics = {c: path for c, path in topics.items() if normalize_language(c) in wanted}
        if not topics:
            raise DataError(f"{folder}: no topics of {', '.join(sorted(wanted))}")
    corpus = Path(corpus or folder)
    corpora = {
        code: sorted(corpus.rglob(f"miracl-corpus-v1.0-{code}/docs-*.jsonl*")) for code in topics
    }
    codes = [code for code, files in corpora.items() if files]
    if not codes:
        raise DataError(
            f"{folder}: topics of {', '.join(topics)}, but no corpus of any of them; expected "
            f"miracl-corpus-v1.0-<language>/docs-*.jsonl.gz"
        )
    queries: list[Query] = []
    qrels: Qrels = {}
    prefixes = {code: f"{normalize_language(code)}-" if len(codes) > 1 else "" for code in codes}
    for code, prefix in prefixes.items():
        language = normalize_language(code)
        judged = read_qrels(_one(folder, f"qrels.miracl-v1.0-{code}-{split}.tsv"))
        for where, line in read_lines(topics[code]):
            query_id, tab, text = line.partition("\t")
            if not tab or not query_id or not text.strip():
                raise DataError(f"{where}: expected 'query_id<TAB>query', got {line[:60]!r}")
            name = prefix + query_id
            queries.append(Query(name, text, language, name))
            qrels[name] = {prefix + d: grade for d, grade in judged.get(query_id, {}).items()}

    def documents() -> Iterator[Document]:
        for code, prefix in prefixes.items():
            for file in corpora[code]:
                for row in read_rows(file):
                    name = prefix + row.text("docid")
                    text, title = row.text("text", default=""), row.text("title", default="")
                    yield Document(name, text, normalize_language(code), name, title)

    return Dataset(f"miracl-{split}", queries, StreamedDocuments(documents), qrels)


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"{folder}: no {name} in it")
    return found[0]
