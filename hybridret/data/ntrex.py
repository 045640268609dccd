"""NTREX-128 (Federmann et al. 2022): newstest2019 in many languages, aligned by line.

As retrieval pairs: the query is a sentence, the document the rest of the article it was taken from.
Sentences of one article have nearly the same rest: their documents share the article as group, so
that none of them is another's negative.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from hybridret.data.formats import Format
from hybridret.data.languages import files_by_language
from hybridret.data.reading import read_lines
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError

ARTICLES_FILE = "DOCUMENT_IDS.tsv"


def read_ntrex(folder: str | Path) -> Dataset:
    """Reads ``newstest2019-{src,ref}.<language>.txt[.gz]`` and ``DOCUMENT_IDS.tsv`` of a folder.

    Raises:
        DataError: a file is missing, or files differ in their number of lines.
    """
    folder = Path(folder)
    articles = [line.split("\t")[0] for _, line in read_lines(folder / ARTICLES_FILE)]
    members: dict[str, list[int]] = defaultdict(list)
    for line, article in enumerate(articles):
        members[article].append(line)
    queries: list[Query] = []
    documents: list[Document] = []
    qrels: dict[str, dict[str, int]] = {}
    files = sorted(
        [*folder.glob("newstest2019-src.*.txt*"), *folder.glob("newstest2019-ref.*.txt*")]
    )
    if not files:
        raise DataError(f"{folder}: no newstest2019-ref.<language>.txt in it")
    for language, file in files_by_language((f.name.split(".")[1], f) for f in files).items():
        sentences = [line for _, line in read_lines(file)]
        if len(sentences) != len(articles):
            raise DataError(
                f"{file}: {len(sentences)} lines, but {ARTICLES_FILE} has {len(articles)}"
            )
        for line, article in enumerate(articles):
            rest = " ".join(sentences[i] for i in members[article] if i != line)
            if not rest:
                continue  # an article of one sentence has no rest
            queries.append(Query(f"{language}-{line}", sentences[line], language, f"line {line}"))
            documents.append(Document(f"{language}-{line}-rest", rest, language, article))
            qrels[f"{language}-{line}"] = {f"{language}-{line}-rest": 1}
    if not queries:
        raise DataError(f"{folder}: no article of several sentences in it")
    return Dataset("ntrex", queries, documents, qrels)


FORMAT = Format(
    "NTREX",
    f"a folder with {ARTICLES_FILE}",
    lambda path: (path / ARTICLES_FILE).is_file(),
    lambda source: read_ntrex(source.path),
)
