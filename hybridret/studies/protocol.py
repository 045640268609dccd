"""What a study runs: arms, trials, budgets; the same for every study.

An *arm* is one way to train. All arms of a study draw the same rows, in the same order, for as many
steps, and their settings are chosen by as many trials on held-out groups of the training data; an
arm is what it is and nothing else. A *trial* is one training run: an arm with a learning rate, a
temperature and a seed. The trials of the first seed choose the settings of the arm; the best of
them is its run of that seed, and the other seeds follow with the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product

import numpy as np

from hybridret.data.languages import matches_language
from hybridret.data.table import Dataset, Document
from hybridret.errors import DataError
from hybridret.training.batches import Sampler
from hybridret.training.config import TrainingConfig
from hybridret.training.pairs import PairTable, TrainingData

STOPS = 20
"""Evaluations of the loss that ends a training early, where there is one."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: as it is printed.
        sampler, alpha: of the batches.
        data: names of the data sets it is trained on, in equal shares of the batches.
        before: whether the language directions are taken out of the encoder before the training.
    """

    name: str
    sampler: str
    data: tuple[str, ...]
    alpha: float = 0.5
    before: bool = False


@dataclass(frozen=True)
class Budget:
    """What every arm gets.

    Attributes:
        steps, batch_size: of each training run.
        learning_rates, temperatures: every pair of them is tried, by every arm.
        seeds: the first is that of the trials that settings are chosen by.
    """

    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    temperatures: tuple[float, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("learning_rates", "temperatures", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise DataError(f"{name} must be different values, at least one, got {values}")
        if self.steps < 1:
            raise DataError(f"steps must be at least 1, got {self.steps}")

    @property
    def pairs(self) -> int:
        """Pairs that a training run sees."""
        return self.steps * self.batch_size

    @property
    def trials(self) -> int:
        """Training runs that choose the settings of an arm."""
        return len(self.learning_rates) * len(self.temperatures)

    @property
    def runs(self) -> int:
        """Training runs of an arm, all in all."""
        return self.trials + len(self.seeds) - 1


@dataclass(frozen=True)
class Trial:
    """One training run of an arm."""

    arm: Arm
    learning_rate: float
    temperature: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        settings = f"lr{self.learning_rate:g}-t{self.temperature:g}-s{self.seed}"
        return f"{self.arm.name.replace(',', '').replace(' ', '-')}-{settings}"

    def config(self, budget: Budget, *, checkpoint_every: int = 0) -> TrainingConfig:
        """The settings of its training."""
        return TrainingConfig(
            sampler=self.arm.sampler,
            alpha=self.arm.alpha,
            steps=budget.steps,
            batch_size=budget.batch_size,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            seed=self.seed,
            checkpoint_every=checkpoint_every,
        )


def trials(arm: Arm, budget: Budget) -> list[Trial]:
    """Those that choose the settings of an arm."""
    grid = product(budget.learning_rates, budget.temperatures)
    return [Trial(arm, rate, temperature, budget.seeds[0]) for rate, temperature in grid]


def of_seeds(best: Trial, budget: Budget) -> list[Trial]:
    """The runs of an arm with the settings of its best trial."""
    return [replace(best, seed=seed) for seed in budget.seeds]


def complete_rows(dataset: Dataset, languages: Sequence[str]) -> Dataset:
    """The queries and documents in the languages, of groups that have one in each of them.

    Raises:
        DataError: a language that the data set lacks, or no such group.
    """
    dataset = dataset.only_languages(languages)
    count = len(languages)
    spoken: dict[str, set[str]] = {}
    for q in dataset.queries:
        spoken.setdefault(q.group_id, set()).add(q.language)
    relevant = dataset.relevant_by_group()
    language_of = {d.document_id: d.language for d in dataset.documents}
    kept = [
        group
        for group, asked in spoken.items()
        if len(asked) == count and len({language_of[d] for d in relevant[group]}) == count
    ]
    if not kept:
        raise DataError(
            f"{dataset.name}: no group has a query and an answer in each of {', '.join(languages)}"
        )
    return dataset.only_query_groups(kept)


def held_out_texts(
    dataset: Dataset, development: Dataset, languages: Sequence[str], *, most: int = 160
) -> list[Document]:
    """Documents that are not trained on, in all of the languages that the data set has.

    Of the groups that answer the held-out queries, those first that exist in the most languages.
    """
    held = {d for judged in development.relevant_by_group().values() for d in judged}
    group_of = {d.document_id: d.group_id for d in dataset.documents}
    wanted = {group_of[d] for d in held}
    texts: dict[str, dict[str, Document]] = {}
    for d in dataset.documents:
        if d.group_id in wanted and any(related(d.language, x) for x in languages):
            texts.setdefault(d.group_id, {}).setdefault(d.language, d)
    largest = max(map(len, texts.values()), default=0)
    complete = [found for found in texts.values() if len(found) == largest]
    return [d for found in complete[:most] for d in found.values()]


def sources(
    tables: dict[str, PairTable], arm: Arm, weights: Mapping[str, float] | None = None
) -> list[TrainingData]:
    """The data sets of an arm, each with the same share of the batches, or by weights.

    By weights, cross-lingual batches draw no data set that is in one language alone.
    """
    if weights is None:
        return [TrainingData(name, tables[name], weight=1.0) for name in arm.data]
    cross = arm.sampler == "cross-lingual"
    kept = [name for name in arm.data if not cross or has_pairs_of_languages(tables[name])]
    return [TrainingData(name, tables[name], weight=weights[name]) for name in kept]


def check_batches(
    tables: dict[str, PairTable], arms: Sequence[Arm], budget: Budget, weights: Mapping[str, float]
) -> None:
    """Raises DataError unless every arm can draw its batches."""
    for arm in arms:
        drawn = sources(tables, arm, weights)
        if not drawn:
            raise DataError(f"{arm.name}: no data set has rows in more than one language")
        try:
            Sampler.from_config(drawn, trials(arm, budget)[0].config(budget))
        except DataError as error:
            raise DataError(f"{arm.name}: {error}") from None


def has_pairs_of_languages(table: PairTable) -> bool:
    """Whether a row has a query and a document in different languages."""
    both = (table.has_query & table.has_document).sum(1)
    return bool((table.has_query.sum(1) * table.has_document.sum(1) > both).any())


def without_repeats(budget: Budget, tables: dict[str, PairTable], arm: Arm) -> Budget:
    """The budget of an arm's training runs: fewer steps where its data would not last.

    A run ends before a data set has no monolingual rows left, of which there are fewest: distinct
    groups in each language. It is the same for all arms of the same data.
    """
    rows = [int((tables[n].has_query & tables[n].has_document).sum()) for n in arm.data]
    most = min(rows) // budget.batch_size * len(rows)
    return replace(budget, steps=max(1, min(budget.steps, most)))


def check_same_rows(tables: dict[str, PairTable], arms: Sequence[Arm], budget: Budget) -> None:
    """Raises DataError unless all arms of the same data draw the same rows at every step."""
    drawn: dict[tuple[str, ...], tuple[str, str]] = {}
    for arm in arms:
        found = rows_drawn(tables, arm, budget)
        name, first = drawn.setdefault(arm.data, (arm.name, found))
        if found != first:
            raise DataError(f"the arms {name!r} and {arm.name!r} do not draw the same rows")


def rows_drawn(tables: dict[str, PairTable], arm: Arm, budget: Budget) -> str:
    """A hash of the sources and rows of all batches of an arm's first seed."""
    budget = without_repeats(budget, tables, arm)
    config = trials(arm, budget)[0].config(budget)
    digest = sha256()
    for _, batch in Sampler.from_config(sources(tables, arm), config).steps(budget.steps):
        digest.update(np.array([batch.source, *batch.rows], dtype=np.int64).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Size:
    """How much data an arm has, and how often its budget goes through it.

    A row is distinct by its group, the language of its query and that of its document.

    Attributes:
        groups: translation groups of queries.
        distinct: rows of the arm's kind of batches: with one language, with two, or both.
        seen: of these, those that a run comes to.
        pairs: that a run sees.
    """

    groups: int
    distinct: int
    seen: int
    pairs: int


def size(
    tables: dict[str, PairTable],
    arm: Arm,
    budget: Budget,
    weights: Mapping[str, float] | None = None,
) -> Size:
    """The size of an arm's data."""
    budget = budget if weights else without_repeats(budget, tables, arm)
    data = sources(tables, arm, weights)
    drawn = [source.table for source in data]
    distinct = 0
    for table in drawn:
        every = table.has_query.sum(1) * table.has_document.sum(1)
        same = (table.has_query & table.has_document).sum(1)
        alike = arm.sampler in ("monolingual", "mixed")
        distinct += int((same if alike else every).sum())
        distinct -= int(same.sum()) if arm.sampler == "cross-lingual" else 0
    config = trials(arm, budget)[0].config(budget)
    seen = set()
    for _, batch in Sampler.from_config(data, config).steps(budget.steps):
        columns = batch.rows, batch.query_languages, batch.document_languages
        seen |= {(batch.source, *row) for row in zip(*(c.tolist() for c in columns), strict=True)}
    return Size(sum(map(len, drawn)), distinct, len(seen), budget.pairs)


def related(language: str, other: str) -> bool:
    """Whether they are the same, or one is a variety of the other."""
    return matches_language(language, other) or matches_language(other, language)


def covers(languages: Sequence[str], asked: str) -> bool:
    """Whether a language, or a variety of it, is among others."""
    return any(matches_language(language, asked) for language in languages)
