"""A study: what is trained, what is claimed, and what came out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridret.errors import ModelError
from hybridret.studies.claims import Answer, Claim, Draws, System, answer
from hybridret.studies.protocol import Arm, Trial, of_seeds, trials
from hybridret.studies.scores import PREFERENCE, RANK_DISTANCE, Scores

if TYPE_CHECKING:
    from hybridret.studies.runs import Runs

UNTRAINED = "untrained"
PLAIN, WITHOUT, SWITCHED = "as it comes", "without directions", "code-switched"
VARIANTS = (PLAIN, WITHOUT, SWITCHED)
"""How a trained encoder is judged: as it is, after its language directions were taken out, and with
queries that change the language in the middle."""
MEASURES = ("AP mono", "AP cross", "AP multi", RANK_DISTANCE, PREFERENCE)

Cells = Mapping[str, Mapping[str, float]]
"""By data set and measure."""


@dataclass(frozen=True)
class Study:
    """What is trained and what is claimed.

    Attributes:
        reported: values that others reported, by their label and by arm.
        curve: arms by alpha, if the study has such a row.
        maps: pairs of arms whose difference is drawn by languages.
        notes: sentences that a reader of the results has to know.
    """

    name: str
    title: str
    arms: Sequence[Arm]
    claims: Sequence[Claim]
    reported: Mapping[str, Mapping[str, Cells]] = field(default_factory=dict)
    curve: Mapping[float, str] = field(default_factory=dict)
    maps: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


@dataclass
class Results:
    """What came out.

    Attributes:
        chosen: the best trial of each arm; its settings are those of all seeds.
        development: the score of each trial on held-out groups, by arm.
        scores: by system and data set, of each seed.
        steps: of the run of each seed, by arm.
        about: data, budget, cost, versions, command.
    """

    study: Study
    datasets: list[str]
    chosen: dict[str, Trial]
    development: dict[str, dict[str, float]]
    scores: dict[System, dict[str, list[Scores]]]
    answers: list[Answer]
    draws: Draws
    steps: dict[str, list[int]]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """Names of the arms, the encoder before training first."""
        return list(dict.fromkeys(name for name, _ in self.scores))

    def values(self, system: System, dataset: str, measure: str) -> list[float]:
        """Of each seed; none if the system was not judged so."""
        runs = self.scores.get(system, {}).get(dataset, [])
        return [run.mean(measure) for run in runs if measure in run.measures]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema": 1,
            "study": self.study.name,
            "title": self.study.title,
            **self.about,
            "arms": [self._arm(arm) for arm in self.study.arms],
            "systems": [
                self._system(system, dataset) for system in self.scores for dataset in self.datasets
            ],
            "claims": [found.to_dict() for found in self.answers],
            "reported": self.study.reported,
            "notes": list(self.study.notes),
        }

    def _arm(self, arm: Arm) -> dict[str, Any]:
        best = self.chosen[arm.name]
        return {
            **vars(arm),
            "steps": self.steps[arm.name],
            "learning_rate": best.learning_rate,
            "temperature": best.temperature,
            "development": {
                trial: score if math.isfinite(score) else None  # its training diverged
                for trial, score in self.development[arm.name].items()
            },
        }

    def _system(self, system: System, dataset: str) -> dict[str, Any]:
        first = self.scores[system][dataset][0]
        found = {}
        for measure in first.measures:
            values = self.values(system, dataset, measure)
            found[measure] = {
                "mean": float(np.mean(values)),
                "seeds": values,
                "ceiling": first.ceiling(measure),
                "n": first.n(measure),
            }
            if measure in MEASURES:
                found[measure]["interval"] = self.draws.interval(system, dataset, measure)
        return {"system": system[0], "variant": system[1], "data set": dataset, "measures": found}


def conduct(study: Study, runs: Runs, say: Callable[[str], None]) -> Results:
    """Runs a study; what has been run already is read.

    The trials come first, arm by arm, then the seeds one after the other, so that after an
    interruption every arm is about as far as the others.
    """
    chosen: dict[str, Trial] = {}
    development: dict[str, dict[str, float]] = {}
    for arm in study.arms:
        found = {trial: runs.developed(trial) for trial in trials(arm, runs.budget)}
        best = max(found, key=lambda trial: found[trial])
        if found[best] == -math.inf:
            raise ModelError(
                f"{arm.name}: the loss of every trial became NaN or infinite; try smaller learning "
                f"rates or larger temperatures"
            )
        chosen[arm.name] = best
        for trial in found.keys() - {best}:
            runs.release(trial)
        development[arm.name] = {trial.name: score for trial, score in found.items()}
        settings = f"learning rate {best.learning_rate:g}, temperature {best.temperature:g}"
        say(f"{arm.name}: {settings} (held-out groups: {found[best]:.4f})")
    scores: dict[System, dict[str, list[Scores]]] = {}
    _add(scores, UNTRAINED, runs.scores_of_start())
    _say(say, UNTRAINED, scores)
    for number in range(len(runs.budget.seeds)):
        for arm in study.arms:
            trial = of_seeds(chosen[arm.name], runs.budget)[number]
            _add(scores, arm.name, runs.scores(trial))
            _say(say, f"{arm.name}, seed {trial.seed}", scores, arm.name)
    draws = Draws(scores)
    datasets = list(runs.data.judged)
    answers = [answer(claim, draws, datasets) for claim in study.claims]
    for found_answer in answers:
        say(f"{found_answer.claim.text} {found_answer.verdict}")
    steps = {
        name: [runs.steps(trial) for trial in of_seeds(best, runs.budget)]
        for name, best in chosen.items()
    }
    return Results(study, datasets, chosen, development, scores, answers, draws, steps)


def _add(
    scores: dict[System, dict[str, list[Scores]]],
    name: str,
    found: Mapping[tuple[str, str], Scores],
) -> None:
    for (dataset, variant), own in found.items():
        scores.setdefault((name, variant), {}).setdefault(dataset, []).append(own)


def _say(
    say: Callable[[str], None],
    label: str,
    scores: dict[System, dict[str, list[Scores]]],
    name: str = UNTRAINED,
) -> None:
    for dataset, found in scores[name, PLAIN].items():
        values = " ".join(f"{found[-1].mean(m):.3f}" for m in MEASURES[:3])
        distance = found[-1].mean(RANK_DISTANCE)
        say(f"  {label} on {dataset}: AP {values}, rank distance {distance:,.0f}")
