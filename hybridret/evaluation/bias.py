"""Language bias of the ranking in the pool of all languages.

A fair multilingual ranking puts the parallel answers of a question, which say the same in different
languages, side by side; a biased one sorts by language.

======================== =========================================================================
rank distance            worst minus best rank of a query's parallel answers (Huang et al. 2023, as
                         arXiv 2408.10536 uses it); of L answers side by side L - 1. Normalised: in
                         units of the pool's size less one
Max@R                    worst rank of a query's answers: how deep one has to read to have them all
preference rate          share of the queries whose best-ranked answer is in their own language,
                         among those that have one there and one elsewhere (arXiv 2605.07249)
same language first      share of the queries whose very first document is in their own language
mix of the top k         share of each language among the first k documents, beside its share of
                         the pool
mean rank                of the answers in each language, for the queries of each
outranks                 for each language of queries and of answers, how many documents of each
                         language stand before the answer, in the mean
======================== =========================================================================

Means are over queries, then over the languages of queries. A query with fewer than two answers has
no rank distance; every figure comes with the number of queries behind it.
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
    """A figure's mean for each language of queries, NaN where it has none, float64 [L]."""

    values: Floats
    counts: Ints

    @property
    def mean(self) -> float | None:
        """Over the languages that have one; None if none has."""
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
    """The figures of the module's table; None where a system does not tell (no list, no counts).

    Attributes:
        mean_rank: float64 [L, L], of the answers in a language (column) for the queries of a
            language (row); NaN where there are none.
        mix: float64 [L, L], share of language (column) in the first ``mix_at`` documents of the
            queries of a language (row).
        pool_share: float64 [L], of each language among the documents.
        outranks: float64 [L, L, L], language of the query, of the answer, of the documents before
            it; NaN where there is no such answer.
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
    """Every figure that the ranks tell."""
    size, languages = len(pool.document_language), len(pool.languages)
    there = ranks.in_all < NEVER
    query, in_all = pool.target_query[there], ranks.in_all[there]
    counts = np.bincount(query, minlength=len(pool.query_language))
    answered, several = counts > 0, counts > 1
    worst, best = np.zeros(len(counts), dtype=np.int64), np.full(len(counts), NEVER)
    np.maximum.at(worst, query, in_all)
    np.minimum.at(best, query, in_all)
    distance = np.where(several, worst - best, 0)

    def by_language(values: Floats | Ints, known: NDArray[np.bool_]) -> ByLanguage:
        return _by_language(pool, values, known)

    own, prefers = _preference(pool, ranks)
    share = np.bincount(pool.document_language, minlength=languages) / size
    bias = LanguageBias(
        languages=pool.languages,
        rank_distance=by_language(distance, several),
        normalized_rank_distance=by_language(distance / max(size - 1, 1), several),
        max_rank=by_language(worst, answered),
        preference_rate=by_language(prefers, own),
        pool_share=share,
        mean_rank=_by_pair(pool, ranks.in_all[:, None], there)[..., 0],
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
        extra["outranks"] = _by_pair(pool, ranks.above, there)
    return LanguageBias(**(vars(bias) | extra))


def _by_language(pool: Pool, values: Floats | Ints, known: NDArray[np.bool_]) -> ByLanguage:
    language, size = pool.query_language[known], len(pool.languages)
    counts = np.bincount(language, minlength=size)
    sums = np.bincount(language, weights=values[known], minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return ByLanguage(means, counts)


def _preference(pool: Pool, ranks: Ranks) -> tuple[NDArray[np.bool_], Floats]:
    """Queries with an answer in their own language and one in another; whether theirs is best."""
    query = pool.target_query
    own = pool.target_language == pool.query_language[query]
    far = NEVER
    best = {}
    for which in (True, False):
        best[which] = np.full(len(pool.query_language), far)
        np.minimum.at(best[which], query[own == which], ranks.in_all[own == which])
    known = (best[True] < far) & (best[False] < far)
    return known, (best[True] < best[False]).astype(np.float64)


def _mix(pool: Pool, language: Ints) -> Floats:
    size = len(pool.languages)
    there = language >= 0
    pair = (pool.query_language[:, None] * size + language)[there]
    counts = np.bincount(pair, minlength=size * size).reshape(size, size).astype(np.float64)
    totals = counts.sum(1, keepdims=True)
    shares = np.full_like(counts, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def _by_pair(pool: Pool, values: Ints, there: NDArray[np.bool_]) -> Floats:
    """Means of a target's values [T, N] by languages of query and target, [L, L, N]."""
    size = len(pool.languages)
    pair = (pool.query_language[pool.target_query] * size + pool.target_language)[there]
    values = values[there]
    counts = np.bincount(pair, minlength=size * size)[:, None]
    columns = [np.bincount(pair, weights=column, minlength=size * size) for column in values.T]
    sums = np.stack(columns, axis=1)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return np.asarray(means.reshape(size, size, -1), dtype=np.float64)
