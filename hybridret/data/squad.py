"""SQuAD JSON by language (``en.json``, ``de.json``, ...): XQuAD-R, MLQA-R, and plain SQuAD sets.

In the retrieval form of LAReQA (Roy et al. 2020, arXiv 2004.05484) every paragraph also has its
``sentences`` and ``sentence_breaks`` [start, end): each sentence is a candidate, and the one whose
break holds the start of the answer is relevant. Where there are no sentences, the candidate is the
paragraph. Questions with the same ``id`` in several files are translations of each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from hybridret.data.languages import normalize_language
from hybridret.data.table import Dataset, Document, Query, groups_by_relevance
from hybridret.errors import DataError

Candidates = Literal["sentence", "sentence-with-context"]


def read_squad(folder: str | Path, candidates: Candidates = "sentence") -> Dataset:
    """Reads every ``<language>.json`` of a folder, or one such file.

    Document ids are ``{language}-{row:06d}``, rows counted within the language; queries and
    documents stand in the order of the files sorted by name, then in file order.

    Args:
        candidates: what a document's text is: the sentence, or the sentence followed by its
            paragraph without a separator (as XTREME-R encodes LAReQA).

    Raises:
        DataError: naming the file, and the question or paragraph.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not files:
        raise DataError(f"{folder}: no <language>.json in it")
    queries: list[Query] = []
    unjoined: list[Document] = []
    qrels: dict[str, dict[str, int]] = {}
    for file in files:
        _read_language(file, candidates, queries, unjoined, qrels)
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


def _read_language(
    file: Path,
    candidates: Candidates,
    queries: list[Query],
    documents: list[Document],
    qrels: dict[str, dict[str, int]],
) -> None:
    language = normalize_language(file.stem)
    row = 0
    for number, paragraph in enumerate(_paragraphs(file)):
        where = f"{file}: paragraph {number}"
        context = _field(paragraph, "context", where)
        sentences = paragraph.get("sentences", [context])
        breaks = paragraph.get("sentence_breaks", [[0, len(context) + 1]])
        if len(sentences) != len(breaks):
            raise DataError(f"{where}: {len(sentences)} sentences but {len(breaks)} breaks")
        for sentence in sentences:
            text = sentence + context if candidates == "sentence-with-context" else sentence
            documents.append(Document(f"{language}-{row:06d}", text, language, ""))
            row += 1
        first = row - len(sentences)
        for qa in _field(paragraph, "qas", where):
            question_id = str(_field(qa, "id", where))
            answers = _field(qa, "answers", f"{file}: question {question_id}")
            if not answers:
                continue  # unanswerable (SQuAD 2.0): nothing in the pool is relevant
            start = int(answers[0]["answer_start"])
            inside = [i for i, (begin, end) in enumerate(breaks) if begin <= start < end]
            if not inside:
                raise DataError(
                    f"{file}: question {question_id}: the answer starts at {start}, "
                    f"which no sentence break holds"
                )
            query_id = f"{language}-{question_id}"
            queries.append(Query(query_id, _field(qa, "question", where), language, question_id))
            qrels[query_id] = {f"{language}-{first + inside[0]:06d}": 1}


def _paragraphs(file: Path) -> list[dict[str, Any]]:
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        return [p for article in articles for p in article["paragraphs"]]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not a whole JSON file: {error}") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: not SQuAD JSON (data[].paragraphs[]): {error!r}") from None


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise DataError(f"{where}: no field {name!r}")
    return record[name]
