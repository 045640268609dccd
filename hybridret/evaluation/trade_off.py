"""What taking the language directions out costs and gains: own-language against other answers.

In a real collection most documents exist in one language only. Here, therefore, each translation
group of documents is kept in one language, drawn at random, and every query is searched in the pool
of all languages. Its answers are then in its *own* language or in *another* one, and the two are
scored apart: without language directions the second are found more often, and the first a little
less often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridret._types import Floats, Similarity
from hybridret.data.table import Dataset
from hybridret.encoder.debias import LanguageDirections
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation

METRICS = ("recall@10", "RR")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class TradeOff:
    """Mean scores over queries by strength.

    Attributes:
        strengths: from 0 upwards; S of them.
        own, other: by metric, float64 [S], of queries whose answers are in their language, and of
            those whose answers are in another one.
        own_by_language: by language and metric, float64 [S].
        n_own, n_other: queries behind them, summed over the draws.
    """

    strengths: list[float]
    own: dict[str, Floats]
    other: dict[str, Floats]
    own_by_language: dict[str, dict[str, Floats]]
    n_own: int
    n_other: int

    def break_even(self, metric: str = "RR", at: int = -1) -> float:
        """Share of queries with their answer in their own language above which it does not pay.

        Below it the mean of a metric is better at strength number ``at`` than at strength 0. 1 if
        nothing is lost, 0 if nothing is gained.
        """
        lost = float(self.own[metric][0] - self.own[metric][at])
        gained = float(self.other[metric][at] - self.other[metric][0])
        if gained <= 0:
            return 0.0
        return 1.0 if lost <= 0 else gained / (gained + lost)

    def to_dict(self) -> dict[str, Any]:
        return {
            "strengths": self.strengths,
            "own": {name: values.tolist() for name, values in self.own.items()},
            "other": {name: values.tolist() for name, values in self.other.items()},
            "own_by_language": {
                language: {name: values.tolist() for name, values in scores.items()}
                for language, scores in self.own_by_language.items()
            },
            "queries": {"own": self.n_own, "other": self.n_other},
            "break_even": {metric: self.break_even(metric) for metric in METRICS},
        }


def trade_off(
    query_embeddings: Any,
    document_embeddings: Any,
    dataset: Dataset,
    directions: LanguageDirections,
    *,
    similarity: Similarity = "cosine",
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 3,
    seed: int = 0,
) -> TradeOff:
    """Scores of own-language and other-language answers at each strength.

    Args:
        query_embeddings, document_embeddings: [Q, D] and [P, D], rows in the data set's order, as
            the encoder gives them.
        draws: how often a language is drawn for each group of documents.

    Raises:
        DataError: the data set has no query with an answer in its own and in another language.
    """
    queries, documents = np.asarray(query_embeddings), np.asarray(document_embeddings)
    pools = [_one_language_each(dataset, np.random.default_rng([seed, n])) for n in range(draws)]
    language = np.array([q.language for q in dataset.queries])
    totals: dict[str, list[Floats]] = {"own": [], "other": []}
    by_language: dict[str, list[Floats]] = {}
    counts = [0, 0]
    for strength in strengths:
        q, d = directions.remove(queries, strength), directions.remove(documents, strength)
        scores, own, asked = [], [], []
        for pool, rows in pools:
            evaluation = Evaluation(pool, metrics=METRICS)
            report = evaluation.judge(evaluation.rank(q, d[rows], similarity), "")
            multi = [n for n, s in enumerate(report.settings) if s.setting == "multi"]
            found = np.isin(report.queries.setting, multi)
            which = report.queries.query[found]
            scores.append(np.stack([report.queries.values[m][found] for m in METRICS], axis=1))
            own.append(_answered_at_home(pool)[which])
            asked.append(language[which])
        values, home, spoken = (np.concatenate(x) for x in (scores, own, asked))
        if home.all() or not home.any():
            raise DataError(
                f"{dataset.name}: no query has answers in its own and in another language; the "
                f"trade-off needs translated documents"
            )
        totals["own"].append(values[home].mean(0))
        totals["other"].append(values[~home].mean(0))
        for name in dataset.languages:
            here = home & (spoken == name)
            if here.any():
                by_language.setdefault(name, []).append(values[here].mean(0))
        counts = [int(home.sum()), int((~home).sum())]

    def by_metric(rows: list[Floats]) -> dict[str, Floats]:
        return dict(zip(METRICS, np.stack(rows, axis=1), strict=True))

    return TradeOff(
        list(strengths),
        by_metric(totals["own"]),
        by_metric(totals["other"]),
        {name: by_metric(rows) for name, rows in by_language.items()},
        *counts,
    )


def _one_language_each(dataset: Dataset, rng: np.random.Generator) -> tuple[Dataset, list[int]]:
    """The data set with every group of documents in one language, and the rows that are left."""
    languages: dict[str, set[str]] = {}
    for document in dataset.documents:
        languages.setdefault(document.group_id, set()).add(document.language)
    kept = {group: str(rng.choice(sorted(found))) for group, found in languages.items()}
    rows = [
        row
        for row, document in enumerate(dataset.documents)
        if kept[document.group_id] == document.language
    ]
    documents = list(dataset.documents)
    left = [documents[row] for row in rows]
    ids = {document.document_id for document in left}
    qrels = {
        query: {document: grade for document, grade in judged.items() if document in ids}
        for query, judged in dataset.qrels.items()
    }
    return Dataset(dataset.name, dataset.queries, left, qrels), rows


def _answered_at_home(dataset: Dataset) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [Q]: whether an answer is in the query's language."""
    language = {d.document_id: d.language for d in dataset.documents}
    relevant = dataset.relevant_by_group()
    return np.array(
        [
            any(language[d] == query.language for d in relevant.get(query.group_id, ()))
            for query in dataset.queries
        ]
    )
