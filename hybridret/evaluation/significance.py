"""Is one system better than another, or was it luck? Paired tests on the same queries.

Translations of one question are not independent: 13,090 queries of XQuAD-R are 1,190 questions.
Queries of one group therefore form a cluster, and clusters are what is drawn: signs of whole
clusters are flipped for the p-value (randomisation test; two-sided, never 0), whole clusters are
drawn again for the interval (percentile bootstrap). Over several seeds of a system a cluster holds
the scores of all its seeds. Holm's correction is over the settings of one metric.

Sources: Smucker, Allan, Carterette 2007 (randomisation); Field and Welsh 2007 (cluster bootstrap);
Holm 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridret._types import Floats
from hybridret.errors import DataError
from hybridret.evaluation.report import KINDS, Report

_BATCH = 250  # draws held at once: 250 x 1,190 clusters are 2 MB
_BLOCK = 256  # settings looked at at once


@dataclass(frozen=True)
class Difference:
    """System minus reference in one setting, or over one kind of settings.

    Attributes:
        low, high: interval of the difference at the comparison's level.
        p: of a difference as large by chance; p_holm: corrected for the number of settings, None
            for the means over a kind.
    """

    setting: str
    query_language: str | None
    document_language: str | None
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems: the three means, and every setting."""

    system: str
    reference: str
    metric: str
    level: float
    clusters: int
    means: list[Difference]
    settings: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "means": [dict(vars(d)) for d in self.means],
            "settings": [dict(vars(d)) for d in self.settings],
        }


def compare(
    system: Report | Sequence[Report],
    reference: Report | Sequence[Report],
    metric: str,
    *,
    level: float = 0.95,
    draws: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares two systems, or several seeds of each, on one data set.

    Over several seeds, p and interval are of these very seeds: that others would have come out
    alike they do not say. Holm's correction is within one comparison.

    Args:
        metric: as it stands in the reports.
        level: of the intervals.
        draws: of the randomisation and of the bootstrap each; p is at least 1 / (draws + 1), which
            Holm's correction multiplies by the number of settings. By default 10,000, and 40 for
            each setting where that is more.

    Raises:
        DataError: no reports, other queries or settings, no such metric, fewer than two questions,
            or a level or number of draws that makes no sense.
    """
    systems = [system] if isinstance(system, Report) else list(system)
    references = [reference] if isinstance(reference, Report) else list(reference)
    if not systems or not references:
        raise DataError("a comparison needs a report of each system")
    first = systems[0]
    for other in (*systems, *references):
        _check_same(first, other, metric)
    draws = max(10_000, 40 * len(first.settings)) if draws is None else draws
    if draws < 1 or not 0 < level < 1:
        raise DataError(f"draws must be at least 1 and level between 0 and 1: {draws}, {level}")
    table = _Clusters(first, _mean_scores(systems, metric) - _mean_scores(references, metric))
    if len(table.sums) < 2:
        raise DataError(f"{first.dataset}: a comparison needs at least two questions, got 1")
    weights = _weights(first)
    observed = table.sums.sum(0) / table.counts.sum(0)
    observed = np.concatenate([observed, weights @ observed])
    p = table.randomisation(weights, observed, draws, seed)
    low, high = table.bootstrap(weights, draws, level, seed)
    settings = len(first.settings)
    corrected = holm(p[:settings])
    found = [
        Difference(
            s.setting,
            s.query_language,
            s.document_language,
            s.n,
            float(observed[i]),
            float(low[i]),
            float(high[i]),
            float(p[i]),
            float(corrected[i]),
        )
        for i, s in enumerate(first.settings)
    ]
    kinds = [kind for kind in KINDS if any(s.setting == kind for s in first.settings)]
    means = [
        Difference(
            kind,
            None,
            None,
            sum(s.n for s in first.settings if s.setting == kind),
            float(observed[i]),
            float(low[i]),
            float(high[i]),
            float(p[i]),
            None,
        )
        for i, kind in enumerate(kinds, settings)
    ]
    return Comparison(first.name, references[0].name, metric, level, len(table.sums), means, found)


def _mean_scores(seeds: Sequence[Report], metric: str) -> Floats:
    return np.asarray(np.mean([report.queries.values[metric] for report in seeds], axis=0))


def _check_same(first: Report, other: Report, metric: str) -> None:
    if metric not in other.queries.values:
        raise DataError(
            f"{other.name}: no scores by {metric!r}; there are {', '.join(other.queries.values)}"
        )
    same = (
        first.query_ids == other.query_ids
        and np.array_equal(first.queries.query, other.queries.query)
        and np.array_equal(first.queries.setting, other.queries.setting)
    )
    if not same:
        raise DataError(
            f"{first.name} and {other.name} were not judged on the same queries: "
            f"{first.dataset} with {len(first.queries.query)} and {other.dataset} with "
            f"{len(other.queries.query)} queries in all settings"
        )


def _weights(report: Report) -> Floats:
    """[kinds, S]: a kind's mean over its settings, first over pools, then over query languages."""
    rows = []
    for kind in KINDS:
        languages = [s.query_language if s.setting == kind else None for s in report.settings]
        asked = {language: languages.count(language) for language in languages if language}
        if asked:
            rows.append([1 / (len(asked) * asked[x]) if x else 0.0 for x in languages])
    return np.array(rows)


class _Clusters:
    """Sums of differences and counts of queries by cluster and setting, [C, S] each."""

    def __init__(self, report: Report, differences: Floats) -> None:
        size = len(report.settings)
        found, cluster = np.unique(report.clusters[report.queries.query], return_inverse=True)
        cell = cluster * size + report.queries.setting
        shape = (len(found), size)
        self.sums = np.bincount(cell, differences, minlength=shape[0] * size).reshape(shape)
        self.counts = np.bincount(cell, minlength=shape[0] * size).reshape(shape)

    # Draws are made again, the same ones, for each block of settings: all at once they would need
    # gigabytes for a hundred languages. Behind the settings stand the kinds' means, of weights @.

    def randomisation(self, weights: Floats, observed: Floats, draws: int, seed: int) -> Floats:
        added = self.sums / self.counts.sum(0)  # what each cluster adds to each figure
        # Rounding must not make a draw that equals the observed figure fall short of it.
        bound = np.abs(observed) - 1e-12
        as_large = np.zeros(len(observed))
        for columns, kinds in self._blocks(added, weights):
            rng = np.random.default_rng(seed)
            for batch in _batches(draws):
                signs = rng.integers(0, 2, (batch, len(added)), dtype=np.int8) * 2.0 - 1
                as_large[columns] += (np.abs(signs @ kinds) >= bound[columns]).sum(0)
        return (1 + as_large) / (draws + 1)

    def _blocks(self, added: Floats, weights: Floats) -> Iterator[tuple[slice, Floats]]:
        size = added.shape[1]
        for first in range(0, size, _BLOCK):
            yield slice(first, min(first + _BLOCK, size)), added[:, first : first + _BLOCK]
        yield slice(size, size + len(weights)), added @ weights.T

    def bootstrap(
        self, weights: Floats, draws: int, level: float, seed: int
    ) -> tuple[Floats, Floats]:
        clusters, size = self.sums.shape
        equal = np.full(clusters, 1 / clusters)
        observed = self.sums.sum(0) / self.counts.sum(0)
        kinds = np.zeros((draws, len(weights)))
        tail = (1 - level) / 2
        found = []
        for first in range(0, size, _BLOCK):
            block = slice(first, first + _BLOCK)
            rng = np.random.default_rng(seed + 1)
            means = np.empty((draws, len(observed[block])))
            done = 0
            for batch in _batches(draws):
                times = rng.multinomial(clusters, equal, batch).astype(np.float64)
                counts = times @ self.counts[:, block]
                # A setting whose queries were not drawn at all keeps its observed mean.
                drawn = np.tile(observed[block], (batch, 1))
                np.divide(times @ self.sums[:, block], counts, out=drawn, where=counts > 0)
                means[done : done + batch] = drawn
                done += batch
            kinds += means @ weights[:, block].T
            found.append(np.quantile(means, [tail, 1 - tail], axis=0))
        found.append(np.quantile(kinds, [tail, 1 - tail], axis=0))
        low, high = np.concatenate(found, axis=1)
        return low, high


def _batches(draws: int) -> list[int]:
    return [min(_BATCH, draws - done) for done in range(0, draws, _BATCH)]


def holm(p: Floats) -> Floats:
    """Holm's step-down correction of p-values, at most 1."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1) and single values of one figure over seeds."""

    mean: float
    deviation: float | None
    values: list[float]


def over_seeds(reports: Sequence[Report]) -> dict[str, dict[str, Spread]]:
    """Every figure of the summaries over several seeds of one system, by kind and metric.

    Raises:
        DataError: no reports, or reports of other queries.
    """
    if not reports:
        raise DataError("no reports to summarise")
    found: dict[str, dict[str, Spread]] = {}
    for kind in KINDS:
        for metric in reports[0].summary[kind]:
            for report in reports:
                _check_same(reports[0], report, metric)
            values = [float(report.summary[kind][metric]) for report in reports]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found.setdefault(kind, {})[metric] = Spread(float(np.mean(values)), deviation, values)
    return found
