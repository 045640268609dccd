"""What taking the language directions out costs and gains: own-language against other answers.

In a real collection most documents exist in one language only. Here, therefore, each translation
group of documents is kept in one language, drawn at random, and every query is searched in the pool
of all languages. Its answers are then in its *own* language or in *another* one, and the two are
scored apart: without language directions the second are found more often, and the first a little
less often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridret._types import Floats, Ints, Similarity
from hybridret.data.table import Dataset, languages_of_groups
from hybridret.encoder.debias import LanguageDirections
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation

METRICS = ("recall@10", "RR")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Side:
    """Scores of the queries whose answers are in their own language, or of the others.

    Attributes:
        values: by metric, float64 [n, S]: of each query and draw, at each strength.
        language: [n], language of the query.
        cluster: int64 [n], translation group of the query.
    """

    values: dict[str, Floats]
    language: np.ndarray[Any, np.dtype[np.str_]]
    cluster: Ints

    def __len__(self) -> int:
        return len(self.cluster)

    def mean(self, metric: str, language: str | None = None) -> Floats:
        """float64 [S], by strength: the mean over queries, or over those of a language.

        NaN if there is none.
        """
        rows = self.values[metric]
        rows = rows if language is None else rows[self.language == language]
        return np.asarray(rows.mean(0)) if len(rows) else np.full(rows.shape[1], np.nan)


@dataclass(frozen=True)
class TradeOff:
    """Scores by strength, of own-language and of other answers.

    Attributes:
        strengths: from 0 upwards; S of them.
        own, other: ``other`` is empty if no document has a translation and no judgement crosses
            languages.
    """

    dataset: str
    strengths: list[float]
    own: Side
    other: Side

    @property
    def languages(self) -> list[str]:
        """Languages of the queries, sorted."""
        return sorted({*self.own.language.tolist(), *self.other.language.tolist()})

    def lost(self, metric: str, at: int, language: str | None = None) -> float:
        """How much own-language answers lose at strength number ``at``."""
        own = self.own.mean(metric, language)
        return float(own[0] - own[at])

    def gained(self, metric: str, at: int, language: str | None = None) -> float:
        """How much answers in other languages gain at strength number ``at``; NaN if none are."""
        other = self.other.mean(metric, language)
        return float(other[at] - other[0])

    def break_even(self, metric: str = "RR", at: int = -1, language: str | None = None) -> float:
        """Share of queries with their answer in their own language above which it does not pay.

        Below it the mean of a metric is better at strength number ``at`` than at strength 0. 1 if
        nothing is lost, 0 if nothing is gained, NaN if one of the two was not measured.
        """
        lost, gained = self.lost(metric, at, language), self.gained(metric, at, language)
        if np.isnan(lost) or np.isnan(gained):
            return float("nan")
        if gained <= 0:
            return 0.0
        return 1.0 if lost <= 0 else gained / (gained + lost)

    def to_dict(self) -> dict[str, Any]:
        def scores(side: Side, language: str | None = None) -> dict[str, Any] | None:
            count = len(side) if language is None else int((side.language == language).sum())
            if not count:
                return None
            found = {metric: side.mean(metric, language).tolist() for metric in METRICS}
            return {"queries": count, **found}

        def both(language: str | None = None) -> dict[str, Any]:
            shares = {m: self.break_even(m, language=language) for m in METRICS}
            return {
                "own": scores(self.own, language),
                "other": scores(self.other, language),
                "break_even": {m: None if np.isnan(x) else x for m, x in shares.items()},
            }

        return {
            "dataset": self.dataset,
            "strengths": self.strengths,
            **both(),
            "by_language": {language: both(language) for language in self.languages},
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
    weights: Mapping[str, float] | None = None,
) -> TradeOff:
    """Scores of own-language and other-language answers at each strength.

    Args:
        query_embeddings, document_embeddings: [Q, D] and [P, D], rows in the data set's order, as
            the encoder gives them.
        draws: how often a language is drawn for each group of documents; once is enough for a data
            set without translations.
        weights: how often each language is drawn; documents without translations are left out in
            proportion. By default all languages alike.

    Raises:
        DataError: no query has an answer, or a language has no weight.
    """
    queries, documents = np.asarray(query_embeddings), np.asarray(document_embeddings)
    groups = languages_of_groups(dataset.documents)
    if weights is None and all(len(found) == 1 for found in groups.values()):
        draws = 1
    if weights is not None:
        for language in sorted(set(dataset.document_languages)):
            if not weights.get(language, 0) > 0:
                raise DataError(f"no weight above 0 for the documents in {language}")
    pools = [
        one_language_each(dataset, np.random.default_rng([seed, n]), weights) for n in range(draws)
    ]
    evaluations = [Evaluation(pool, metrics=METRICS) for pool, _ in pools]
    at_home = [_answered_at_home(pool) for pool, _ in pools]
    values: list[Floats] = []  # [metrics, n] by strength
    for strength in strengths:
        q, d = directions.remove(queries, strength), directions.remove(documents, strength)
        scores, which, own = [], [], []
        for (_, rows), evaluation, home in zip(pools, evaluations, at_home, strict=True):
            report = evaluation.judge(evaluation.rank(q, d[rows], similarity), "")
            multi = [n for n, s in enumerate(report.settings) if s.setting == "multi"]
            found = np.isin(report.queries.setting, multi)
            scores.append(np.stack([report.queries.values[m][found] for m in METRICS]))
            which.append(report.queries.query[found])
            own.append(home[which[-1]])
        values.append(np.concatenate(scores, axis=1))
    asked, is_own = np.concatenate(which), np.concatenate(own)
    spoken = np.array([q.language for q in dataset.queries])[asked]
    numbers = {g: n for n, g in enumerate(dict.fromkeys(q.group_id for q in dataset.queries))}
    cluster = np.array([numbers[q.group_id] for q in dataset.queries])[asked]
    table = np.stack(values, axis=2)  # [metrics, n, S]

    def side(rows: np.ndarray[Any, np.dtype[np.bool_]]) -> Side:
        by_metric = {metric: table[m, rows] for m, metric in enumerate(METRICS)}
        return Side(by_metric, spoken[rows], cluster[rows])

    return TradeOff(dataset.name, list(strengths), side(is_own), side(~is_own))


def one_language_each(
    dataset: Dataset, rng: np.random.Generator, weights: Mapping[str, float] | None = None
) -> tuple[Dataset, list[int]]:
    """The data set with every group of documents in one language, and the rows that are left.

    Args:
        weights: see :func:`trade_off`.
    """
    weights = weights or dict.fromkeys(dataset.document_languages, 1.0)
    most = max(weights.values())
    kept: dict[str, str] = {}
    for group, found in languages_of_groups(dataset.documents).items():
        shares = np.array([weights[language] for language in found])
        if len(found) > 1:
            kept[group] = str(rng.choice(found, p=shares / shares.sum()))
        elif rng.random() < shares[0] / most:
            kept[group] = found[0]
    rows = [
        row
        for row, document in enumerate(dataset.documents)
        if kept.get(document.group_id) == document.language
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
