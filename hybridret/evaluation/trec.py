"""TREC files: relevance judgements and runs, read, written and scored as trec_eval does.

A line of a qrels file is ``query_id iteration document_id grade``, of a run file
``query_id Q0 document_id rank score tag``. The rank is not read: the order is score descending,
then document id descending by its bytes.

What a file may look like is said in :mod:`hybridret.data.qrels`. A score is a decimal number, as
``-1``, ``.5`` or ``25e-2``; where trec_eval's ``atof`` reads no more than the beginning of a field
(1,5 as 1), or an infinity, a NaN or a hexadecimal number, there is an error.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._files import atomic_file, write_json
from hybridret.data.qrels import read_fields, read_qrels
from hybridret.data.table import Qrels, check_grades
from hybridret.errors import DataError
from hybridret.evaluation.metrics import (
    DEFAULT_METRICS,
    NEVER,
    RankedRelevant,
    find_convention,
    parse_metrics,
)
from hybridret.evaluation.ranking import Pool, Ranks

__all__ = ["Run", "RunReport", "evaluate_run", "read_qrels", "read_run", "write_qrels", "write_run"]

Run = dict[str, dict[str, float]]
"""``run[query_id][document_id]`` is the score."""

_SCORE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_run(path: str | Path) -> Run:
    """Scores by query.

    Raises:
        DataError: malformed line, a score that is not a finite decimal number, a duplicate document
            in the list of a query (the line is named).
    """
    run: Run = {}
    for where, fields in read_fields(path, 6, "query_id Q0 document_id rank score tag"):
        query_id, _, document_id, _, text, _ = fields
        score = float(text) if _SCORE.fullmatch(text) else math.nan
        if not math.isfinite(score):
            raise DataError(
                f"{where}: the score must be a finite decimal number, got {text[:40]!r}"
            )
        listed = run.setdefault(query_id, {})
        if document_id in listed:
            raise DataError(
                f"{where}: duplicate document {document_id!r} in the list of query {query_id!r}"
            )
        listed[document_id] = score
    return run


@dataclass(frozen=True)
class RunReport:
    """Scores of one run.

    Attributes:
        metrics: means over the ``n`` queries of ``queries``.
        missing: judged queries that are not in the run.
        unanswerable: judged queries without a relevant document.
        unjudged: queries of the run without judgements, which count nowhere.
    """

    name: str
    n: int
    metrics: dict[str, float]
    queries: dict[str, dict[str, float]]
    missing: int
    unanswerable: int
    unjudged: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, ``{"schema": 1, "metrics": {...}, "queries": {id: {name: value}}}``."""
        return {"schema": 1, **vars(self)}

    def save_json(self, path: str | Path) -> None:
        write_json(path, self.to_dict())


def evaluate_run(
    qrels: Qrels,
    run: Mapping[str, Mapping[str, float]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    convention: str = "trec_eval",
    missing: Literal["drop", "zero"] = "drop",
    unanswerable: Literal["drop", "zero"] | None = None,
    score_type: Literal["double", "float"] = "double",
    name: str = "run",
    tool: str | None = None,
) -> RunReport:
    """Scores a run as trec_eval does.

    Args:
        convention: whose conventions the metrics follow, see
            :data:`hybridret.evaluation.metrics.CONVENTIONS`.
        missing: what becomes of a judged query that the run lacks: left out of the mean
            (trec_eval), or 0 (trec_eval -c).
        unanswerable: what becomes of a query without a relevant document: 0 (trec_eval), or left
            out; by default what the convention says.
        score_type: ``double`` as trec_eval 10, ``float`` as trec_eval 9 and pytrec_eval, for which
            scores 1e-9 apart are equal.
        tool: the former name of ``convention``.

    Raises:
        DataError: unknown metric or convention, or no query is left to score.
    """
    if tool is not None:
        warnings.warn("evaluate_run(tool=...) is now convention=...", DeprecationWarning, 2)
        convention = tool
    parsed = parse_metrics(metrics)
    rules = find_convention(convention)
    unanswerable = unanswerable or rules.unanswerable
    query_ids, ranks, grades, counts, others = [], [], [], [], []
    absent = without = 0
    for query_id, judged in qrels.items():
        check_grades(judged, f"{name}: query {query_id!r}")
        relevant = {d: grade for d, grade in judged.items() if grade > 0}
        listed = run.get(query_id)
        absent += listed is None
        without += not relevant
        if (listed is None and missing == "drop") or (not relevant and unanswerable == "drop"):
            continue
        scored = dict(listed or {})
        if rules.ignore_identical_ids:
            scored.pop(query_id, None)
        known = {d: grade for d, grade in judged.items() if grade >= 0}
        found, own = _ranks(scored, known, rules.tie_order, score_type)
        query_ids.append(query_id)
        ranks.append(found[own > 0])
        grades.append(own[own > 0])
        counts.append(len(relevant))
        others.append(found[own == 0])
    if not query_ids:
        raise DataError(
            f"{name}: no query to score: {len(qrels)} judged, {absent} of them not in the run, "
            f"{without} without a relevant document"
        )
    begin = np.cumsum([0, *counts])
    table = RankedRelevant(
        begin,
        np.concatenate(ranks),
        np.concatenate(grades),
        np.cumsum([0, *map(len, others)]),
        np.concatenate(others),
    )
    values = {str(m): m.per_query(table, rules) for m in parsed}
    queries = {
        query_id: {metric: float(v[i]) for metric, v in values.items()}
        for i, query_id in enumerate(query_ids)
    }
    means = {metric: float(v.mean()) for metric, v in values.items()}
    unjudged = sum(query_id not in qrels for query_id in run)
    return RunReport(name, len(query_ids), means, queries, absent, without, unjudged)


def _ranks(
    scored: Mapping[str, float], judged: Mapping[str, int], ties: str, score_type: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks and grades of the judged documents, by rank; one not retrieved is last of all."""
    ids = list(scored)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as in C
        scores = np.array(
            [scored[d] for d in ids], dtype=np.float32 if score_type == "float" else float
        )
    by_id = sorted(range(len(ids)), key=lambda i: ids[i].encode(), reverse=ties == "descending")
    order = np.array(by_id, dtype=np.int64)[np.argsort(-scores[by_id], kind="stable")]
    place = {ids[i]: rank for rank, i in enumerate(order.tolist(), 1)}
    pairs = sorted((place.get(d, NEVER), -grade) for d, grade in judged.items())
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], -found[:, 1]


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """``query_id 0 document_id grade`` a line.

    Raises:
        DataError: an id that a TREC file cannot hold.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, judged in qrels.items():
            for document_id, grade in judged.items():
                file.write(f"{_query_id(query_id)} 0 {_id(document_id)} {grade}\n")


def write_run(
    path: str | Path, pool: Pool, ranks: Ranks, *, depth: int = 1000, tag: str = "hybridret"
) -> None:
    """The best documents of every query, at most ``depth``, scores with all their digits.

    Raises:
        DataError: the ranks hold no best documents, or an id that a TREC file cannot hold.
    """
    if ranks.best is None or ranks.best_scores is None or ranks.best.shape[1] == 0:
        raise DataError("the ranks hold no best documents: rank_embeddings(..., best=1000)")
    documents = pool.dataset.document_ids
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, rows, scores in zip(
            pool.dataset.queries, ranks.best.tolist(), ranks.best_scores.tolist(), strict=True
        ):
            for rank, (row, score) in enumerate(zip(rows[:depth], scores, strict=False), 1):
                if row >= 0:
                    query_id, document_id = _query_id(query.query_id), _id(documents[row])
                    file.write(f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n")


def _query_id(text: str) -> str:
    if text.startswith("#"):
        raise DataError(f"a TREC file cannot hold the query id {text!r}: # begins a comment")
    return _id(text)


def _id(text: str) -> str:
    if not text or re.search("[ \t\n\v\f\r\0\ud800-\udfff]", text):
        raise DataError(
            f"a TREC file cannot hold the id {text!r}: it is empty, or holds a blank, a NUL or a "
            f"lone surrogate"
        )
    return text
