"""Language bias of the ranking in the pool of all languages.

A relevant document of a query is called an answer here; its translations are parallel answers. An
unbiased multilingual ranking puts parallel answers side by side; a biased one sorts by language.

======================== =========================================================================
rank distance            worst minus best rank of a query's parallel answers (Huang et al. 2023, as
                         used by arXiv 2408.10536); at best L - 1 for L answers. Normalised: divided
                         by the pool's size minus one
Max@R                    worst rank of a query's answers: the depth at which all have been found
preference rate          share of the queries whose best-ranked answer is in the query's language,
                         among queries with an answer in it and one in another (arXiv 2605.07249)
same language first      share of the queries whose top document is in the query's language
mix of the top k         share of each language among the first k documents, shown with its share
                         of the pool
mean rank                mean rank of the answers, for each query language and answer language
outranks                 mean number of documents of each language ranked before an answer, for each
                         query language and answer language
======================== =========================================================================

Means are over queries, then over query languages. A query with fewer than two answers has no rank
distance; every value comes with the number of queries in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Floats, Ints
from hybridret.evaluation.metrics import NEVER
from hybridret.evaluation.ranking import Pool, Ranks


@dataclass(frozen=True)
class ByLanguage:
    """Mean of one bias metric for each query language.

    Attributes:
        values: float64 [L], NaN for a language without queries.
        counts: int64 [L], queries in each mean.
    """

    values: Floats
    counts: Ints

    @property
    def mean(self) -> float | None:
        """Mean over the languages that have queries; None if there are none."""
        known = self.counts > 0
        return float(self.values[known].mean()) if known.any() else None

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    def to_dict(self, languages: list[str]) -> dict[str, Any]:
        values = {
            name: float(value)
            for name, value, count in zip(languages, self.values, self.counts, strict=True)
            if count
        }
        return {"mean": self.mean, "n": self.n, "by_query_language": values}


@dataclass(frozen=True)
class LanguageBias:
    """The bias metrics of the module's table; None if a system's ranks lack what they need.

    Attributes:
        mean_rank: float64 [L, L], [query language, answer language]; NaN if there are no answers.
        mix: float64 [L, L], [query language, document language]: share of the document language
            among the first ``mix_at`` documents; needs the best documents.
        pool_share: float64 [L], share of each language among all documents.
        outranks: float64 [L, L, L], [query language, answer language, language of the documents
            before the answer]; NaN if there is no such answer; needs the counts by language.
    """

    languages: list[str]
    rank_distance: ByLanguage
    normalized_rank_distance: ByLanguage
    max_rank: ByLanguage
    preference_rate: ByLanguage
    pool_share: Floats
    mean_rank: Floats
    same_language_first: ByLanguage | None = None
    mix: Floats | None = None
    mix_at: int = 0
    outranks: Floats | None = None

    def to_dict(self) -> dict[str, Any]:
        figures = (
            "rank_distance",
            "normalized_rank_distance",
            "max_rank",
            "preference_rate",
            "same_language_first",
        )
        found: dict[str, Any] = {
            name: figure.to_dict(self.languages)
            for name in figures
            if (figure := getattr(self, name)) is not None
        }
        found["pool_share"] = self._named(self.pool_share)
        found["mean_rank"] = {
            name: {x: v for x, v in self._named(row).items() if not np.isnan(v)}
            for name, row in zip(self.languages, self.mean_rank, strict=True)
        }
        if self.mix is not None:
            rows = zip(self.languages, self.mix, strict=True)
            found["mix"] = {
                "k": self.mix_at,
                "share": {name: self._named(row) for name, row in rows if not np.isnan(row).any()},
            }
        if self.outranks is not None:
            found["outranks"] = {
                query: {
                    answer: self._named(counts)
                    for answer, counts in zip(self.languages, rows, strict=True)
                    if not np.isnan(counts).any()
                }
                for query, rows in zip(self.languages, self.outranks, strict=True)
            }
        return found

    def _named(self, values: Floats) -> dict[str, float]:
        return {name: float(v) for name, v in zip(self.languages, values, strict=True)}


def language_bias(pool: Pool, ranks: Ranks, *, mix_at: int = 10) -> LanguageBias:
    """Every bias metric that can be computed from these ranks."""
    size, languages = len(pool.document_language), len(pool.languages)
    retrieved = ranks.in_all < NEVER
    worst, _, counts = _extremes(pool, ranks)
    answered = counts > 0
    distance, several = rank_distances(pool, ranks)

    def by_language(values: Floats | Ints, known: NDArray[np.bool_]) -> ByLanguage:
        return _by_language(pool, values, known)

    prefers, has_both = preferences(pool, ranks)
    share = np.bincount(pool.document_language, minlength=languages) / size
    bias = LanguageBias(
        languages=pool.languages,
        rank_distance=by_language(distance, several),
        normalized_rank_distance=by_language(distance / max(size - 1, 1), several),
        max_rank=by_language(worst, answered),
        preference_rate=by_language(prefers, has_both),
        pool_share=share,
        mean_rank=_by_pair(pool, ranks.in_all[:, None], retrieved)[..., 0],
    )
    extra: dict[str, Any] = {}
    if ranks.best is not None and ranks.best.shape[1]:
        found = ranks.best[:, :mix_at]
        language = np.where(found >= 0, pool.document_language[found], -1)
        same = (language[:, 0] == pool.query_language).astype(np.float64)
        extra["same_language_first"] = by_language(same, language[:, 0] >= 0)
        extra["mix_at"] = mix_at
        extra["mix"] = _mix(pool, language)
    if ranks.above is not None:
        extra["outranks"] = _by_pair(pool, ranks.above, retrieved)
    return LanguageBias(**(vars(bias) | extra))


def rank_distances(pool: Pool, ranks: Ranks) -> tuple[Floats, NDArray[np.bool_]]:
    """Rank distance of each query [Q], and which queries have one: those with two answers."""
    worst, best, counts = _extremes(pool, ranks)
    return np.where(counts > 1, worst - best, 0).astype(np.float64), counts > 1


def preferences(pool: Pool, ranks: Ranks) -> tuple[Floats, NDArray[np.bool_]]:
    """1 for a query [Q] whose best-ranked answer is in its own language, else 0, and which queries
    have an answer in their language and one in another."""
    query = pool.target_query
    own = pool.target_language == pool.query_language[query]
    best = {}
    for which in (True, False):
        best[which] = np.full(len(pool.query_language), NEVER)
        np.minimum.at(best[which], query[own == which], ranks.in_all[own == which])
    has_both = (best[True] < NEVER) & (best[False] < NEVER)
    return (best[True] < best[False]).astype(np.float64), has_both


def _extremes(pool: Pool, ranks: Ranks) -> tuple[Ints, Ints, Ints]:
    """Worst and best rank of each query's answers [Q], and how many there are."""
    retrieved = ranks.in_all < NEVER
    query, in_all = pool.target_query[retrieved], ranks.in_all[retrieved]
    size = len(pool.query_language)
    worst, best = np.zeros(size, dtype=np.int64), np.full(size, NEVER)
    np.maximum.at(worst, query, in_all)
    np.minimum.at(best, query, in_all)
    return worst, best, np.bincount(query, minlength=size)


def _by_language(pool: Pool, values: Floats | Ints, known: NDArray[np.bool_]) -> ByLanguage:
    language, size = pool.query_language[known], len(pool.languages)
    counts = np.bincount(language, minlength=size)
    sums = np.bincount(language, weights=values[known], minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return ByLanguage(means, counts)


def _mix(pool: Pool, language: Ints) -> Floats:
    size = len(pool.languages)
    is_document = language >= 0
    pair = (pool.query_language[:, None] * size + language)[is_document]
    counts = np.bincount(pair, minlength=size * size).reshape(size, size).astype(np.float64)
    totals = counts.sum(1, keepdims=True)
    shares = np.full_like(counts, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def _by_pair(pool: Pool, values: Ints, retrieved: NDArray[np.bool_]) -> Floats:
    """Means of the targets' values [T, N] by query language and target language, [L, L, N]."""
    size = len(pool.languages)
    pair = (pool.query_language[pool.target_query] * size + pool.target_language)[retrieved]
    values = values[retrieved]
    counts = np.bincount(pair, minlength=size * size)[:, None]
    columns = [np.bincount(pair, weights=column, minlength=size * size) for column in values.T]
    sums = np.stack(columns, axis=1)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return np.asarray(means.reshape(size, size, -1), dtype=np.float64)
