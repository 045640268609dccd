"""Claims and what the runs say of them: supported, not supported, or underpowered.

A claim compares pairs of systems, in some measures, on every data set. Two kinds:

======== ======================================================= ==============================
kind     a comparison supports it if                             and speaks against it if
======== ======================================================= ==============================
better   the difference is above 0 (p < .05, Holm)               the whole interval is below the
                                                                 margin: too small to matter
level    the whole interval is above minus the margin            the difference is below 0
                                                                 (p < .05, Holm), if not level
======== ======================================================= ==============================

All comparisons must support a claim; one against it is enough; otherwise it is *underpowered*: the
data cannot tell. Of a rank distance and of a preference for the query's language less is better.
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
Verdict = Literal["supported", "not supported", "underpowered"]

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
        runs = self.scores[system].get(dataset, ())
        return bool(runs) and measure in runs[0].measures

    def of(self, system: System, dataset: str, measure: str) -> Floats:
        """float64 [seeds, DRAWS]"""
        key = system, dataset, measure
        if key not in self._made:
            runs = self.scores[system][dataset]
            self._made[key] = np.stack([run.draws(measure) for run in runs])
        return self._made[key]

    def seeds(self, count: int) -> Any:
        """int64 [count, DRAWS]: which seeds are drawn, the same for all systems."""
        return np.random.default_rng(1).integers(0, count, (count, DRAWS))

    def interval(self, system: System, dataset: str, measure: str) -> tuple[float, float]:
        """Of a system's mean over seeds."""
        return _interval(self._mean(self.of(system, dataset, measure)))

    def difference(
        self, system: System, reference: System, dataset: str, measure: str
    ) -> tuple[Floats, list[float], list[float]]:
        """Draws [DRAWS] of the difference as in :class:`Comparison`, and the values by seed.

        Seeds are paired where both have the same number of them; a reference that was not trained
        has one.
        """
        sign = -1.0 if measure in LESS_IS_BETTER else 1.0
        parts = [self.of(s, dataset, measure) for s in (system, reference)]
        means = [self._mean(part) for part in parts]
        values = [
            [run.mean(measure) for run in self.scores[s][dataset]] for s in (system, reference)
        ]
        return sign * (means[0] - means[1]), values[0], values[1]

    def _mean(self, draws: Floats) -> Floats:
        chosen = self.seeds(len(draws))
        return np.asarray(np.take_along_axis(draws, chosen, axis=0).mean(0))


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
    comparisons = []
    for (dataset, measure, system, reference), (drawn, own, other), raw, corrected in zip(
        cases, found, p, holm(p), strict=True
    ):
        sign = -1.0 if measure in LESS_IS_BETTER else 1.0
        difference = sign * float(np.mean(own) - np.mean(other))
        low, high = _interval(drawn)
        verdict = _verdict(claim.kind, measure, difference, low, high, float(corrected))
        comparisons.append(
            Comparison(
                dataset,
                measure,
                system,
                reference,
                own,
                other,
                difference,
                low,
                high,
                float(raw),
                float(corrected),
                verdict,
            )
        )
    verdicts = {c.verdict for c in comparisons}
    order: tuple[Verdict, ...] = ("not supported", "underpowered", "supported")
    whole: Verdict = next((verdict for verdict in order if verdict in verdicts), "underpowered")
    return Answer(claim, comparisons, whole)


def margin(measure: str) -> float:
    """The difference that is too small to matter."""
    return MARGINS[measure if measure in MARGINS else measure.partition(" ")[0]]


def _verdict(
    kind: str, measure: str, difference: float, low: float, high: float, p: float
) -> Verdict:
    if kind == "better":
        if difference > 0 and p < 1 - LEVEL:
            return "supported"
        return "not supported" if high < margin(measure) else "underpowered"
    if low > -margin(measure):
        return "supported"
    return "not supported" if difference < 0 and p < 1 - LEVEL else "underpowered"


def _interval(draws: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _p(draws: Floats) -> float:
    below, above = (draws <= 0).sum(), (draws >= 0).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(draws))))
