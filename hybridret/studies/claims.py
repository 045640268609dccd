"""Claims and what the runs say of them: supported, not supported, or underpowered.

A claim compares pairs of systems, in some measures, on every data set. Two kinds:

======== ================================ =========================================
kind     a comparison supports it if      and speaks against it if
======== ================================ =========================================
better   the difference is above 0        it is below the margin: too small to matter
level    it is above minus the margin     it is below minus the margin
======== ================================ =========================================

each at 2.5 %, one-sided, after Holm's correction (1979) over the claim's comparisons. All of them
must support a claim; one against it is enough; otherwise it is *underpowered*: the data cannot
tell, as they never can from a single seed; or *not measured*, where no data set has the measures.
Of a rank distance and of a preference for the query's language less is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hybridret._types import Floats
from hybridret.evaluation.significance import holm
from hybridret.studies.scores import DRAWS, LEVEL, PREFERENCE, RANK_DISTANCE, Scores

System = tuple[str, str]
"""Name of an arm, and variant of what it was judged on."""
Verdict = Literal["supported", "not supported", "underpowered", "not measured"]

MARGINS = {"AP": 0.005, RANK_DISTANCE: 10.0, PREFERENCE: 0.01}
"""Differences that are too small to matter."""
LESS_IS_BETTER = {RANK_DISTANCE, PREFERENCE}


@dataclass(frozen=True)
class Claim:
    """What is claimed.

    Attributes:
        question: that it belongs to.
        text: in one sentence.
        pairs: (system, reference).
        measures: such as ``AP multi``.
    """

    question: str
    text: str
    kind: Literal["better", "level"]
    pairs: Sequence[tuple[System, System]]
    measures: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """System minus reference; positive means better, whatever the measure.

    Attributes:
        values, reference_values: of each seed.
        low, high: interval of the difference.
        p: of no difference, two-sided, from the same draws; ``p_holm`` corrected for all
            comparisons of the claim.
    """

    dataset: str
    measure: str
    system: System
    reference: System
    values: list[float]
    reference_values: list[float]
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True)
class Answer:
    """A claim with its comparisons and verdict."""

    claim: Claim
    comparisons: list[Comparison]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        return {
            "question": self.claim.question,
            "claim": self.claim.text,
            "kind": self.claim.kind,
            "verdict": self.verdict,
            "comparisons": [dict(vars(c)) for c in self.comparisons],
        }


class Draws:
    """Bootstrap draws of every system, made when they are first asked for.

    Args:
        scores: of each system, by seed, and for each data set.
    """

    def __init__(self, scores: Mapping[System, Mapping[str, Sequence[Scores]]]) -> None:
        self.scores = scores
        self._made: dict[tuple[System, str, str], Floats] = {}

    def has(self, system: System, dataset: str, measure: str) -> bool:
        """Whether a system has a value of the measure on a data set."""
        runs = self.scores.get(system, {}).get(dataset, ())
        return bool(runs) and measure in runs[0].measures

    def of(self, system: System, dataset: str, measure: str) -> Floats:
        """float64 [seeds, DRAWS]"""
        key = system, dataset, measure
        if key not in self._made:
            runs = self.scores[system][dataset]
            self._made[key] = np.stack([run.draws(measure) for run in runs])
        return self._made[key]

    def interval(self, system: System, dataset: str, measure: str) -> tuple[float, float]:
        """Of a system's mean over seeds."""
        values = self.values(system, dataset, measure)
        return _interval(self.of(system, dataset, measure).mean(0) + _of_seeds(values))

    def values(self, system: System, dataset: str, measure: str) -> list[float]:
        """The value of each seed."""
        return [run.mean(measure) for run in self.scores[system][dataset]]

    def difference(
        self, system: System, reference: System, dataset: str, measure: str
    ) -> tuple[Floats, list[float], list[float]]:
        """Draws [DRAWS] of the difference as in :class:`Comparison`, and the values by seed.

        The same questions are drawn for both. Runs of the same seed are paired; a reference that
        was not trained has one run.
        """
        own, other = (self.of(s, dataset, measure).mean(0) for s in (system, reference))
        values = [self.values(s, dataset, measure) for s in (system, reference)]
        if len({len(v) for v in values} - {1}) <= 1:  # paired, or against one run
            seeds = _of_seeds(np.subtract(values[0], values[1]).tolist())
        else:
            seeds = _of_seeds(values[0]) - _of_seeds(values[1], 1)
        return _sign(measure) * (own - other + seeds), values[0], values[1]


def _sign(measure: str) -> float:
    return -1.0 if measure in LESS_IS_BETTER else 1.0


def _of_seeds(values: Sequence[float], number: int = 0) -> Floats:
    """Draws [DRAWS] of how far the mean over seeds is from that over all seeds.

    Student's t of the seeds that there are; 0 for a single one, of which nothing is known.
    """
    count = len(values)
    if count < 2:
        return np.zeros(DRAWS)
    drawn = np.random.default_rng([1, number]).standard_t(count - 1, DRAWS)
    return np.asarray(drawn * (np.std(values, ddof=1) / np.sqrt(count)))


def answer(claim: Claim, draws: Draws, datasets: Sequence[str]) -> Answer:
    """What the runs say of a claim."""
    cases = [
        (dataset, measure, system, reference)
        for dataset in datasets
        for measure in claim.measures
        for system, reference in claim.pairs
        if all(draws.has(s, dataset, measure) for s in (system, reference))
    ]
    found = [draws.difference(s, r, dataset, measure) for dataset, measure, s, r in cases]
    p = np.array([_p(drawn) for drawn, _, _ in found])
    corrected = holm(p)
    sides = _sides(claim, [drawn for drawn, _, _ in found], [case[1] for case in cases])
    comparisons = []
    for n, ((dataset, measure, system, reference), (drawn, own, other)) in enumerate(
        zip(cases, found, strict=True)
    ):
        alone = max(len(own), len(other)) < 2
        comparisons.append(
            Comparison(
                dataset,
                measure,
                system,
                reference,
                own,
                other,
                _sign(measure) * float(np.mean(own) - np.mean(other)),
                *_interval(drawn),
                float(p[n]),
                float(corrected[n]),
                "underpowered" if alone else sides[n],
            )
        )
    verdicts = {c.verdict for c in comparisons}
    order: tuple[Verdict, ...] = ("not supported", "underpowered", "supported")
    whole: Verdict = next((verdict for verdict in order if verdict in verdicts), "not measured")
    return Answer(claim, comparisons, whole)


def margin(measure: str) -> float:
    """The difference that is too small to matter."""
    return MARGINS[measure if measure in MARGINS else measure.partition(" ")[0]]


def _sides(claim: Claim, draws: Sequence[Floats], measures: Sequence[str]) -> list[Verdict]:
    """Of each comparison: what is sure of it after Holm's correction."""
    if not draws:
        return []
    margins = [margin(measure) for measure in measures]
    if claim.kind == "better":
        bounds = [(0.0, most) for most in margins]
    else:
        bounds = [(-most, -most) for most in margins]
    ones = np.array(
        [
            [_one_sided(drawn <= low), _one_sided(drawn >= high)]
            for drawn, (low, high) in zip(draws, bounds, strict=True)
        ]
    )
    supports, against = holm(ones[:, 0]), holm(ones[:, 1])
    sure = (1 - LEVEL) / 2
    return [
        "supported" if a <= sure else "not supported" if b <= sure else "underpowered"
        for a, b in zip(supports, against, strict=True)
    ]


def _one_sided(beyond: Any) -> float:
    return float((1 + beyond.sum()) / (1 + len(beyond)))


def _interval(draws: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _p(draws: Floats) -> float:
    below, above = (draws <= 0).sum(), (draws >= 0).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(draws))))
