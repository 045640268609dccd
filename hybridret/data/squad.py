"""SQuAD JSON by language (``en.json``, ``de.json``, ...): XQuAD-R, MLQA-R, and plain SQuAD sets.

In the retrieval form of LAReQA (Roy et al. 2020, arXiv 2004.05484) every paragraph also has its
``sentences`` and ``sentence_breaks`` [start, end): each sentence is a candidate, and the one whose
break holds the start of the answer is relevant. Where there are no sentences, the candidate is the
paragraph. Questions with the same ``id`` in several files are translations of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from hybridret.data.formats import Candidates, Format
from hybridret.data.languages import files_by_language, is_language
from hybridret.data.reading import Record, read_object
from hybridret.data.table import Dataset, Document, Query, groups_by_relevance
from hybridret.errors import DataError


def read_squad(folder: str | Path, candidates: Candidates = "sentence") -> Dataset:
    """Reads every ``<language>.json`` of a folder, or one such file.

    Document ids are ``{language}-{row:06d}``, rows counted within the language; queries and
    documents are in the order of the files sorted by name, then in file order. Of several answers
    to a question the first one counts.

    Args:
        candidates: what a document's text is: the sentence, or the sentence followed by its
            paragraph without a separator (as XTREME-R encodes LAReQA).

    Raises:
        DataError: naming the file, and the question or paragraph.
    """
    if candidates not in get_args(Candidates):
        raise DataError(
            f"candidates must be one of {', '.join(get_args(Candidates))}, got {candidates!r}"
        )
    folder = Path(folder)
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not files:
        raise DataError(f"{folder}: no <language>.json in it")
    queries: list[Query] = []
    unjoined: list[Document] = []
    qrels: dict[str, dict[str, int]] = {}
    for language, file in files_by_language((file.stem, file) for file in files).items():
        row = 0
        for paragraph in _paragraphs(file):
            context = paragraph.string("context")
            sentences, breaks = _sentences(paragraph, context)
            for i, sentence in enumerate(sentences, row):
                text = sentence + context if candidates == "sentence-with-context" else sentence
                unjoined.append(Document(f"{language}-{i:06d}", text, language, ""))
            for question in paragraph.records("qas"):
                question_id, answers = question.text("id"), list(question.records("answers"))
                if not answers:
                    continue  # unanswerable (SQuAD 2.0): nothing in the pool is relevant
                relevant = row + _place(answers[0], breaks)
                query_id = f"{language}-{question_id}"
                queries.append(Query(query_id, question.string("question"), language, question_id))
                qrels[query_id] = {f"{language}-{relevant:06d}": 1}
            row += len(sentences)
    if not queries:
        raise DataError(f"{folder}: no question in it")
    groups = groups_by_relevance(
        {q.query_id: q.group_id for q in queries},
        ((q, d) for q, judged in qrels.items() for d in judged),
    )
    documents = [
        Document(d.document_id, d.text, d.language, groups.get(d.document_id, d.document_id))
        for d in unjoined
    ]
    return Dataset(folder.name, queries, documents, qrels)


def _paragraphs(file: Path) -> Iterator[Record]:
    for article in read_object(file).records("data"):
        yield from article.records("paragraphs")


def _sentences(paragraph: Record, context: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The candidates of a paragraph and the characters [start, end) of each."""
    if "sentences" not in paragraph.fields and "sentence_breaks" not in paragraph.fields:
        return [context], [(0, len(context) + 1)]
    sentences = paragraph.strings("sentences")
    breaks = []
    for i, pair in enumerate(paragraph.values("sentence_breaks")):
        match pair:
            case [int(start), int(end)] if type(start) is type(end) is int and 0 <= start <= end:
                breaks.append((start, end))
            case _:
                raise paragraph.error(
                    f"field 'sentence_breaks[{i}]' must be [start, end], two whole numbers with "
                    f"0 <= start <= end"
                )
    if len(sentences) != len(breaks):
        raise paragraph.error(f"{len(sentences)} sentences but {len(breaks)} breaks")
    return sentences, breaks


def _place(answer: Record, breaks: list[tuple[int, int]]) -> int:
    """Number of the sentence in which an answer starts."""
    at = answer.integer("answer_start")
    for i, (start, end) in enumerate(breaks):
        if start <= at < end:
            return i
    raise answer.error(f"the answer starts at {str(at)[:20]}, which no sentence break holds")


FORMAT = Format(
    "SQuAD",
    "<language>.json or a folder of such files: XQuAD-R, MLQA-R",
    lambda path: any(
        file.suffix == ".json" and is_language(file.stem)
        for file in (path.glob("*.json") if path.is_dir() else [path])
    ),
    lambda source: read_squad(source.path, source.candidates),
)
