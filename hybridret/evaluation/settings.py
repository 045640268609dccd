"""Scores in the monolingual, cross-lingual and multilingual settings, from ranks.

With L languages: *mono*, queries of a language against that language's documents (L settings);
*cross*, queries of X against the documents of Y != X (L (L - 1) settings); *multi*, queries of X
against the documents of all languages, every parallel answer relevant (L settings). A query without
a relevant document in the pool is left out of the mean unless asked; n says how many are in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybridret._types import Floats, Ints, Unanswerable
from hybridret.errors import DataError
from hybridret.evaluation.bias import language_bias
from hybridret.evaluation.metrics import Convention, Metric, RankedRelevant
from hybridret.evaluation.ranking import Pool, Ranks
from hybridret.evaluation.report import (
    KINDS,
    RANK_DISTANCE,
    QueryScores,
    Report,
    Setting,
    summarize,
)


def score(
    pool: Pool,
    ranks: Ranks,
    metrics: Sequence[Metric],
    *,
    convention: Convention,
    unanswerable: Unanswerable,
    mix_at: int,
    name: str,
) -> Report:
    """All settings of one system from its ranks; see :func:`hybridret.evaluate`.

    Raises:
        DataError: a metric needs the documents judged not relevant, and the pool has none of them.
    """
    lacking = [str(metric) for metric in metrics if metric.needs_judged and not pool.judged]
    if lacking:
        raise DataError(
            f"{', '.join(lacking)} needs the documents judged not relevant: "
            "Pool(dataset, judged=True)"
        )
    table = _SettingTable(pool, ranks, metrics, convention, unanswerable)
    bias = language_bias(*pool.relevant(ranks), mix_at=mix_at)
    summary: dict[str, object] = {kind: summarize(table.settings, kind) for kind in KINDS}
    summary[RANK_DISTANCE] = bias.rank_distance.mean
    counts = {kind: sum(s.n for s in table.settings if s.setting == kind) for kind in KINDS}
    summary["n"] = counts | {RANK_DISTANCE: bias.rank_distance.n}
    groups = {group: n for n, group in enumerate({q.group_id: 0 for q in pool.dataset.queries})}
    return Report(
        name=name,
        dataset=pool.dataset.name,
        languages=pool.languages,
        settings=table.settings,
        summary=summary,
        bias=bias,
        queries=table.scores,
        query_ids=[q.query_id for q in pool.dataset.queries],
        clusters=np.array([groups[q.group_id] for q in pool.dataset.queries]),
    )


class _SettingTable:
    """Every query of every setting at once: one group of relevant documents each."""

    def __init__(
        self,
        pool: Pool,
        ranks: Ranks,
        metrics: Sequence[Metric],
        convention: Convention,
        unanswerable: Unanswerable,
    ) -> None:
        self.pool = pool
        self.metrics = metrics
        self.convention = convention
        languages = len(pool.languages)
        size = np.bincount(pool.document_language, minlength=languages)
        query, language = pool.target_query, pool.target_language
        # Language `languages` stands for the pool of all.
        by_pool = (
            (language, ranks.in_language),
            (np.full_like(language, languages), ranks.in_all),
        )
        parts = [
            self._scored(query * (languages + 1) + target, group_ranks)
            for target, group_ranks in by_pool
        ]
        keys = np.concatenate([part[0] for part in parts])
        relevant = np.concatenate([part[1] for part in parts])
        values = {str(m): np.concatenate([p[2][str(m)] for p in parts]) for m in self.metrics}
        if unanswerable == "zero":
            pools = [*np.flatnonzero(size), languages]
            every = np.add.outer(np.arange(len(pool.query_language)) * (languages + 1), pools)
            missing = np.setdiff1d(every, keys)
            keys = np.concatenate([keys, missing])
            relevant = np.concatenate([relevant, np.zeros_like(missing)])
            values = {m: np.r_[v, np.zeros(len(missing))] for m, v in values.items()}
        query, language = np.divmod(keys, languages + 1)
        asked = pool.query_language[query]
        kind = np.where(language == languages, 2, np.where(language == asked, 0, 1))
        order = np.lexsort((query, language, asked, kind))
        code = ((kind * languages + asked) * (languages + 1) + language)[order]
        found, number, counts = np.unique(code, return_inverse=True, return_counts=True)
        values = {name: v[order] for name, v in values.items()}
        means = {name: np.bincount(number, weights=v) / counts for name, v in values.items()}
        best = self._ceilings(relevant[order], number, counts)
        self.settings = [
            self._setting(
                int(c),
                int(counts[i]),
                {name: float(m[i]) for name, m in means.items()},
                {name: float(m[i]) for name, m in best.items()},
            )
            for i, c in enumerate(found)
        ]
        self.scores = QueryScores(number, query[order], values)

    def _scored(self, group: Ints, ranks: Ints) -> tuple[Ints, Ints, dict[str, Floats]]:
        """The groups, how many relevant documents each has, and what it scores."""
        order = np.lexsort((ranks, group))
        group, ranks, grades = group[order], ranks[order], self.pool.grades[order]
        good = grades > 0
        keys, counts = np.unique(group[good], return_counts=True)
        begin = np.cumsum(np.r_[0, counts])
        # A group may have documents judged not relevant and no relevant one: it has no score.
        other = ~good & np.isin(group, keys)
        others: Ints = np.searchsorted(group[other], keys)
        others = np.r_[others, np.count_nonzero(other)]
        relevant = RankedRelevant(begin, ranks[good], grades[good], others, ranks[other])
        return keys, counts, {str(m): m.per_query(relevant, self.convention) for m in self.metrics}

    def _ceilings(self, relevant: Ints, number: Ints, n: Ints) -> dict[str, Floats]:
        """Means by setting of what the best ranking scores, which the counts decide."""
        counts, which = np.unique(relevant, return_inverse=True)
        best = RankedRelevant.perfect(counts)
        return {
            str(m): np.bincount(number, weights=m.per_query(best, self.convention)[which]) / n
            for m in self.metrics
        }

    def _setting(
        self, code: int, n: int, metrics: dict[str, float], ceilings: dict[str, float]
    ) -> Setting:
        languages = self.pool.languages
        rest, pool = divmod(code, len(languages) + 1)
        kind, asked = divmod(rest, len(languages))
        document_language = languages[pool] if pool < len(languages) else None
        return Setting(KINDS[kind], languages[asked], document_language, n, metrics, ceilings)
