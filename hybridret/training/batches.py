"""Batches: which rows are in a batch, and the languages of their queries and documents.

The samplers (arXiv 2408.10536, section 3; LAReQA, arXiv 2004.05484; MTD, arXiv 2405.00977):

============== ===================================================================================
monolingual    all queries and documents of a batch in one language (X-X-mono)
cross-lingual  in every row the query's language differs from the document's; a batch has many
               language pairs (X-Y)
mixed          in every row query and document have the same language; a batch has many languages
               (X-X)
any-pair       in every row query and document have any languages, the same or not, drawn apart
               from each other
hybrid         a share alpha of the batches is monolingual, the others are cross-lingual
============== ===================================================================================

A batch is of one source and of one kind, and no two of its rows have an answer in common, so that
no row's document is a false negative of another. An epoch ends before a row would be drawn a second
time; what it did not come to is drawn first in the next. The shares of sources, kinds and languages
are exact over a run, to one batch. Batches depend on the seed, the epoch and the step alone. On a
table whose rows exist in every language all samplers draw the same rows and differ only in the
languages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hybridret._types import Ints
from hybridret.errors import DataError
from hybridret.training.drawing import Credit, Progress, Rows
from hybridret.training.pairs import Batch, PairTable, TrainingData

if TYPE_CHECKING:
    from hybridret.training.config import TrainingConfig

SAMPLERS = ("monolingual", "cross-lingual", "mixed", "any-pair", "hybrid")


class Sampler:
    """Draws the batches of a run.

    Args:
        sources: at least one.
        batch_size: rows of a batch.
        sampler: one of :data:`SAMPLERS`.
        alpha: share of monolingual batches, with ``hybrid``.
        temperature: of the languages of monolingual batches, and of the pairs of cross-lingual
            rows: a language that can be drawn for n rows is drawn in proportion to
            n^(1 / temperature). 1: in proportion to the rows; infinite: all languages alike.
        weights: of the languages, instead; languages that are not named are not drawn.

    Raises:
        DataError: unknown sampler, a source that cannot fill a batch of the kinds it is asked for,
            or an alpha that cannot be had.
    """

    def __init__(
        self,
        sources: Sequence[TrainingData],
        batch_size: int,
        *,
        sampler: str = "hybrid",
        alpha: float = 0.5,
        seed: int = 0,
        temperature: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise DataError(f"unknown sampler {sampler!r}; expected one of {', '.join(SAMPLERS)}")
        if batch_size < 2:
            raise DataError(f"batch_size must be at least 2, got {batch_size}")
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        if not temperature > 0:
            raise DataError(f"the temperature of the languages must be above 0, got {temperature}")
        if sampler == "hybrid" and not 0 < alpha < 1:
            raise DataError(f"alpha must be above 0 and below 1, got {alpha}")
        known = {language for source in sources for language in source.table.languages}
        if unknown := sorted(set(weights or ()) - known):
            raise DataError(
                f"a weight for {unknown[0]!r}, but no data set has that language; they have "
                f"{', '.join(sorted(known))}"
            )
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"two data sets have the name {twice!r}")
        self.sources = list(sources)
        self.batch_size = batch_size
        self.seed = seed
        self.name = sampler
        self._drawn = [
            Rows(number, source, batch_size, seed, temperature, weights)
            for number, source in enumerate(sources)
        ]
        self._shares = _source_shares(sources, batch_size)
        self._kinds = self._kind_shares(alpha)  # for each source: share of each kind
        for drawn, kinds in zip(self._drawn, self._kinds, strict=True):
            for kind, share in kinds.items():
                if share > 0:
                    drawn.check(kind, sampler, batch_size)
        self._starts = [_State(self)]  # at the beginning of each epoch that has been asked for

    @classmethod
    def from_config(cls, sources: Sequence[TrainingData], config: TrainingConfig) -> Sampler:
        """The sampler of a run."""
        return cls(
            sources,
            config.batch_size,
            sampler=config.sampler,
            alpha=config.alpha,
            seed=config.seed,
            temperature=config.language_temperature,
            weights=config.language_weights,
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        return self._run(epoch, deepcopy(self._start(epoch)))

    def epoch_length(self, epoch: int) -> int:
        """Number of batches of one epoch."""
        return self._start(epoch).length

    def steps(self, stop: int, *, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Pairs (step, batch) for the steps ``start`` to ``stop - 1``, counted across epochs."""
        step = epoch = 0
        while step < stop:
            length = self.epoch_length(epoch)
            if step + length > start:
                first = max(0, start - step)
                for batch in islice(self.epoch(epoch), first, stop - step):
                    yield step + first, batch
                    first += 1
            step += length
            epoch += 1

    def _kind_shares(self, alpha: float) -> list[dict[str, float]]:
        if self.name != "hybrid":
            return [{self.name: 1.0} for _ in self.sources]
        given: list[float | None] = []
        for source, drawn in zip(self.sources, self._drawn, strict=True):
            can_cross, can_mono = (
                drawn.fills(kind, self.batch_size) for kind in ("cross-lingual", "monolingual")
            )
            if len(self.sources) == 1 or not (can_cross or can_mono):
                given.append(alpha if source.alpha is None else source.alpha)
            elif not can_cross:  # a single language: it stays out of cross-lingual batches
                given.append(1.0 if source.alpha is None else source.alpha)
            elif not can_mono:
                given.append(0.0 if source.alpha is None else source.alpha)
            else:
                given.append(source.alpha)
        fixed = sum(w * a for w, a in zip(self._shares, given, strict=True) if a is not None)
        free = sum(w for w, a in zip(self._shares, given, strict=True) if a is None)
        if free:
            rest = (alpha - fixed) / free
            if not 0 <= rest <= 1:
                raise DataError(
                    f"alpha {alpha:g} cannot be had: by the weights of the data sets the share of "
                    f"monolingual batches can be {fixed:.3f} to {fixed + free:.3f}"
                )
        elif len(given) > 1 and all(source.alpha is None for source in self.sources):
            raise DataError(
                f"alpha {alpha:g} cannot be had: by the weights of the data sets the share of "
                f"monolingual batches is {fixed:.3f}"
            )
        shares = [rest if a is None else a for a in given]
        return [{"monolingual": a, "cross-lingual": 1 - a} for a in shares]

    def _start(self, epoch: int) -> _State:
        while len(self._starts) <= epoch:
            after = deepcopy(self._starts[-1].after)
            assert after is not None
            self._starts.append(after.next_epoch(self, len(self._starts)))
        return self._starts[epoch]

    def _run(self, epoch: int, state: _State) -> Iterator[Batch]:
        rows = self._rows(epoch, state)
        for (source, kind), (found, language, rng) in zip(state.plan, rows, strict=False):
            yield self._drawn[source].batch(kind, found, language, rng)

    def _rows(
        self, epoch: int, state: _State
    ) -> Iterator[tuple[Ints, int | None, np.random.Generator]]:
        """Rows and language of the batches of an epoch, up to the first that cannot be filled."""
        for step, (source, kind) in enumerate(state.plan):
            rng = np.random.default_rng([self.seed, 1, epoch, step])
            drawn, part = self._drawn[source], state.parts[source]
            found = drawn.rows(kind, self.batch_size, part, rng)
            if found is None:
                return
            yield *found, rng


def make_sampler(
    name: str, table: PairTable, batch_size: int, *, alpha: float = 0.5, seed: int = 0
) -> Sampler:
    """A sampler of one table, by its name in :data:`SAMPLERS`; ``alpha`` is for ``hybrid`` only.

    Raises:
        DataError: see :class:`Sampler`.
    """
    return Sampler([TrainingData("data", table)], batch_size, sampler=name, alpha=alpha, seed=seed)


def _source_shares(sources: Sequence[TrainingData], batch_size: int) -> list[float]:
    given = [source.weight for source in sources]
    if not sources:
        raise DataError("a sampler needs at least one data set")
    if all(weight is None for weight in given):
        sizes = [max(1, len(source.table) // batch_size) for source in sources]
        return [size / sum(sizes) for size in sizes]
    for source in sources:
        if source.weight is None or not (source.weight > 0 and math.isfinite(source.weight)):
            raise DataError(
                f"{source.name}: weight must be above 0 for every data set or given for none, got "
                f"{source.weight}"
            )
    total = sum(float(weight) for weight in given if weight is not None)
    return [float(weight) / total for weight in given if weight is not None]


class _State:
    """Everything that changes, at the beginning of an epoch, and the plan of that epoch.

    Attributes:
        plan: source and kind of each batch.
        after: the state when all of it has been drawn.
    """

    after: _State | None = None

    def __init__(self, sampler: Sampler) -> None:
        rng = np.random.default_rng([sampler.seed, 3])
        self.parts = [Progress(drawn) for drawn in sampler._drawn]
        self.sources = Credit(sampler._shares, rng)
        self.kinds = [Credit(list(kinds.values()), rng) for kinds in sampler._kinds]
        self.plan: list[tuple[int, str]] = []
        self._make_plan(sampler, 0)

    @property
    def length(self) -> int:
        return len(self.plan)

    def next_epoch(self, sampler: Sampler, epoch: int) -> _State:
        for drawn, part in zip(sampler._drawn, self.parts, strict=True):
            for pool, passing in zip(drawn.pools, part.passes, strict=True):
                if passing.left < max(1, passing.used):  # it would not last another epoch
                    passing.restart(pool)
                passing.used = 0
        self._make_plan(sampler, epoch)
        return self

    def _make_plan(self, sampler: Sampler, epoch: int) -> None:
        """The longest plan that draws no row twice."""
        self.after = None
        rows = sum(len(source.table) for source in sampler.sources)
        length = max(1, rows // sampler.batch_size)
        tries = 0
        order = np.random.default_rng([sampler.seed, 4, epoch])
        sources, kinds = self.sources, self.kinds
        while True:
            self.sources, self.kinds = deepcopy(sources), deepcopy(kinds)
            plan = []
            for source in self.sources.deal(length):
                names = list(sampler._kinds[source])
                plan.append((source, names[self.kinds[source].deal(1)[0]]))
            self.plan = [plan[i] for i in order.permutation(length)]
            after = deepcopy(self)
            possible = sum(1 for _ in sampler._rows(epoch, after))
            if possible == length:
                self.after = after
                return
            if possible:
                length = possible
            elif length > 1:
                length = 1
            elif (tries := tries + 1) < 100:  # what is left, in this order, fills no batch
                for drawn, part in zip(sampler._drawn, self.parts, strict=True):
                    for pool, passing in zip(drawn.pools, part.passes, strict=True):
                        passing.restart(pool, keep=False)
            else:
                raise DataError(
                    f"batch_size is {sampler.batch_size}: no batch can be filled with rows that "
                    f"have no answer in common; use a smaller batch or more data"
                )
