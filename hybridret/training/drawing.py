"""Drawing rows from one source: pools of rows that exist in the same languages, and their passes.

What a batch of a kind can hold are the rows of some of the pools. It takes those that come next in
the pools that are least far through their rows, so that rows which few kinds can use are used by
these, and all rows about equally often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Floats, Ints
from hybridret.errors import DataError
from hybridret.training.pairs import NONE, Batch, PairTable, TrainingData


class Credit:
    """Deals out whole numbers by shares: over any time each has its share, to about one."""

    def __init__(self, shares: Sequence[float], rng: np.random.Generator) -> None:
        self.shares = np.array(shares, dtype=np.float64)
        self.credit = rng.random(len(shares)) * (self.shares > 0)
        self.credit -= self.credit.sum() * self.shares

    def deal(self, count: int) -> list[int]:
        found = []
        for _ in range(count):
            self.credit += self.shares
            best = int(np.where(self.shares > 0, self.credit, -np.inf).argmax())
            self.credit[best] -= 1
            found.append(best)
        return found


class Pass:
    """The rows of a pool, in the order in which they are drawn; then again, in another order."""

    def __init__(self, pool: Pool) -> None:
        self.number = self.used = self.cursor = 0
        self.order = pool.order(0)
        self.skipped = NONE

    def restart(self, pool: Pool, *, keep: bool = True) -> None:
        """Begins a new pass; with ``keep`` those rows are first that this one has not come to."""
        waiting = np.concatenate([self.skipped, self.order[self.cursor :]]) if keep else NONE
        self.number += 1
        order = pool.order(self.number)
        self.order = np.concatenate([waiting, order[~np.isin(order, waiting)]])
        self.cursor = 0
        self.skipped = NONE

    @property
    def left(self) -> int:
        return len(self.skipped) + len(self.order) - self.cursor

    def __deepcopy__(self, memo: object) -> Pass:
        copy = object.__new__(Pass)
        copy.__dict__.update(self.__dict__)  # arrays are never written to
        return copy

    def upcoming(self, count: int) -> tuple[Ints, Floats]:
        """The next rows, and how far through its passes the pool is at each."""
        at = np.arange(self.cursor, min(self.cursor + count, len(self.order)))
        rows = np.concatenate([self.skipped, self.order[at]])
        place = np.concatenate([np.full(len(self.skipped), self.cursor), at])
        return rows, self.number + place / len(self.order)

    def take(self, considered: int, taken: NDArray[np.bool_]) -> None:
        """Goes on: ``taken`` are those of the rows considered that are drawn, others wait."""
        rows, _ = self.upcoming(considered)
        self.cursor += max(0, considered - len(self.skipped))
        self.skipped = np.concatenate([rows[:considered][~taken], self.skipped[considered:]])
        self.used += int(taken.sum())


class Progress:
    """What changes of a source: its pools, and the languages that are owed."""

    def __init__(self, drawn: Rows) -> None:
        self.passes = [Pass(pool) for pool in drawn.pools]
        rng = np.random.default_rng([drawn.seed, 2, drawn.number])
        self.languages = None if drawn.planned is None else Credit(drawn.planned, rng)


class Pool:
    """Rows that exist in the same languages."""

    def __init__(self, rows: Ints, table: PairTable, seed: list[int]) -> None:
        self.rows = rows
        self.groups = table.groups[rows]
        self.seed = seed
        self.both = table.has_query[rows[0]] & table.has_document[rows[0]]
        pairs = table.has_query[rows[0]].sum() * table.has_document[rows[0]].sum()
        self.crosses = bool(pairs > self.both.sum())

    def order(self, number: int) -> Ints:
        """The rows in the order of a pass: at random, those of one group far from each other."""
        rng = np.random.default_rng([*self.seed, number])
        order = rng.permutation(len(self.rows))
        _, group, counts = np.unique(self.groups[order], return_inverse=True, return_counts=True)
        if counts.max() > 1:
            by_group = np.argsort(group, kind="stable")
            which = np.empty(len(order), dtype=np.int64)  # number of the row in its group
            which[by_group] = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
            place = (which + rng.random(len(counts))[group]) / counts[group]
            order = order[np.argsort(place, kind="stable")]
        return np.asarray(self.rows[order])


class Rows:
    """A source by what can be drawn from it."""

    def __init__(
        self,
        number: int,
        source: TrainingData,
        batch_size: int,
        seed: int,
        temperature: float,
        weights: Mapping[str, float] | None,
    ) -> None:
        self.number, self.seed = number, seed
        self.source, self.table = source, source.table
        table = source.table
        both = table.has_query & table.has_document
        counts = (flags.sum(1, dtype=np.int32) for flags in (table.has_query, table.has_document))
        pairs = np.multiply(*counts) - both.sum(1, dtype=np.int32)
        member = _equal_rows(np.concatenate([both, (pairs > 0)[:, None]], axis=1))
        by_pool = np.argsort(member, kind="stable")
        bounds = np.flatnonzero(np.diff(member[by_pool])) + 1
        self.pools = [
            Pool(rows, table, [seed, 0, number, n])
            for n, rows in enumerate(np.split(by_pool, bounds))
        ]
        self.alike = not table.relevant and _distinct(table.groups) == len(table)
        counts = np.sum([len(p.rows) * p.both for p in self.pools], axis=0)
        self.preference = self._preference(counts, temperature, weights)
        self.planned: list[float] | None = None
        if (temperature != 1 or weights is not None) and self.fills("monolingual", batch_size):
            fits = [
                self._apart_at_most([p for p in self.pools if p.both[c]]) >= batch_size
                for c in range(len(table.languages))
            ]
            shares = counts * self.preference * fits
            if shares.sum() > 0:
                self.planned = (shares / shares.sum()).tolist()

    def _preference(
        self, counts: Ints, temperature: float, weights: Mapping[str, float] | None
    ) -> Floats:
        """How much more often than its rows each language is drawn."""
        known = np.maximum(counts, 1).astype(np.float64)
        if weights is not None:
            given = [weights.get(language, 0.0) for language in self.table.languages]
            if not max(given, default=0) > 0 or min(given) < 0:
                raise DataError(
                    f"{self.source.name}: no language with a weight above 0; it has "
                    f"{', '.join(self.table.languages)}"
                )
            return np.array(given) / known
        return np.asarray(known ** (1 / temperature - 1))

    def eligible(self, kind: str, language: int | None = None) -> list[int]:
        """Numbers of the pools whose rows a batch of the kind can hold."""
        return [
            n
            for n, pool in enumerate(self.pools)
            if (pool.crosses and kind in ("cross-lingual", "any-pair"))
            or (
                (pool.both.any() and kind != "cross-lingual")
                and (language is None or pool.both[language])
            )
        ]

    def _apart_at_most(self, pools: Sequence[Pool]) -> int:
        """How many rows without a common answer there are, at least by their queries and groups."""
        if not pools:
            return 0
        rows = np.concatenate([pool.rows for pool in pools])
        groups = self.table.query_groups[rows], self.table.groups[rows]
        return min(map(_distinct, groups))

    def fills(self, kind: str, batch_size: int) -> bool:
        return self._most(kind) >= batch_size

    def _most(self, kind: str) -> int:
        """Rows without a common answer, of the language that has most for a monolingual batch."""
        if kind != "monolingual":
            return self._apart_at_most([self.pools[n] for n in self.eligible(kind)])
        return max(
            self._apart_at_most([self.pools[n] for n in self.eligible(kind, c)])
            for c in range(len(self.table.languages))
        )

    def check(self, kind: str, sampler: str, batch_size: int) -> None:
        """Raises DataError if no batch of the kind can be filled."""
        what, remedy = _NEEDS[kind]
        name, found = self.source.name, self._most(kind)
        if not self.eligible(kind):
            raise DataError(
                f"{name}: the {sampler} sampler needs translation groups that {what}, but there "
                f"are none: {remedy}"
            )
        if found < batch_size:
            raise DataError(
                f"{name}: batch_size is {batch_size}, but only {found} translation groups {what}; "
                f"use a smaller batch or more data"
            )

    def rows(
        self, kind: str, size: int, part: Progress, rng: np.random.Generator
    ) -> tuple[Ints, int | None] | None:
        """Rows of the next batch, and the language of a monolingual one.

        None if too few are left that have not been drawn in this pass.
        """
        if kind == "monolingual":
            return self._monolingual(size, part, rng)
        rows = self._take(self.eligible(kind), size, part)
        return None if rows is None else (rows, None)

    def batch(self, kind: str, rows: Ints, language: int | None, rng: np.random.Generator) -> Batch:
        """Rows with the languages of their queries and documents, and with hard negatives."""
        if language is None:
            asked, told = self._languages(kind, rows, rng)
        else:
            asked = told = np.full(len(rows), language, dtype=np.int64)
        found = self._negatives(rows, asked, told, rng)
        if found is None:
            return Batch(rows, asked, told, kind, self.number)
        counts = np.array([len(own) for own in found], dtype=np.int64)
        return Batch(rows, asked, told, kind, self.number, np.concatenate(found), counts)

    def _monolingual(
        self, size: int, part: Progress, rng: np.random.Generator
    ) -> tuple[Ints, int] | None:
        if part.languages is not None:
            order: Sequence[int] | Ints = part.languages.deal(1)
        else:  # by the rows that are left
            left = sum(
                p.left * pool.both.astype(np.float64)
                for p, pool in zip(part.passes, self.pools, strict=True)
            )
            order = np.argsort(-(np.log(np.maximum(left, 1e-9)) + rng.gumbel(size=len(left))))
        for language in order:
            rows = self._take(self.eligible("monolingual", int(language)), size, part)
            if rows is not None:
                return rows, int(language)
        return None

    def _take(self, pools: list[int], size: int, part: Progress) -> Ints | None:
        """Rows without a common answer, from the pools that are least far through theirs."""
        passes = [part.passes[n] for n in pools]
        if sum(p.left for p in passes) < size:
            return None
        reach = size
        while True:
            parts = [p.upcoming(reach) for p in passes]
            rows = np.concatenate([rows for rows, _ in parts])
            of = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
            order = np.argsort(np.concatenate([place for _, place in parts]), kind="stable")
            chosen = self._apart(rows[order], size)
            if chosen is not None:
                break
            if all(p.cursor + reach >= len(p.order) for p in passes):
                return None
            reach *= 4
        considered = order[: chosen[-1] + 1]
        taken = np.zeros(len(rows), dtype=bool)
        taken[order[chosen]] = True
        for n, p in enumerate(passes):
            mine = np.sort(considered[of[considered] == n])
            if len(mine):
                p.take(len(mine), taken[mine])
        return np.asarray(rows[order[chosen]])

    def _apart(self, rows: Ints, size: int) -> Ints | None:
        """Positions of the first rows without a common answer; None if they are too few."""
        if self.alike:
            return np.arange(size) if len(rows) >= size else None
        seen: set[int] = set()
        chosen = []
        groups = self.table.groups[rows].tolist()
        for n, (query, group) in enumerate(
            zip(self.table.query_groups[rows].tolist(), groups, strict=True)
        ):
            answers = self.table.relevant.get(query, (group,))
            if seen.isdisjoint(answers):
                seen.update(answers)
                chosen.append(n)
                if len(chosen) == size:
                    return np.array(chosen)
        return None

    def _languages(self, kind: str, rows: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Languages of queries and documents: the (pair of) languages with the largest key."""
        asked, told = self.table.has_query[rows], self.table.has_document[rows]
        with np.errstate(divide="ignore"):
            liked = np.log(self.preference)
        if kind == "mixed":
            language = _largest(asked & told, liked, rng)
            return language, language
        count = len(liked)
        allowed = asked[:, :, None] & told[:, None, :]
        if kind == "cross-lingual":
            allowed &= ~np.eye(count, dtype=bool)
        both = (liked[:, None] + liked[None, :]).reshape(-1)
        best = _largest(allowed.reshape(len(rows), -1), both, rng)
        return best // count, best % count

    def _negatives(
        self, rows: Ints, asked: Ints, told: Ints, rng: np.random.Generator
    ) -> list[Ints] | None:
        """Those of the query in the document's language; if it has none, those of the query.

        None if no row has any.
        """
        known, most = self.table.negatives, self.source.hard_negatives
        if not known or most == 0:
            return None
        found = []
        for row, ql, dl in zip(rows, asked, told, strict=True):
            queries = int(self.table.queries[row, dl]), int(self.table.queries[row, ql])
            own = next((known[query] for query in queries if query in known), NONE)
            if most is not None and most < len(own):
                own = own[np.sort(rng.permutation(len(own))[:most])]
            found.append(own)
        return found if any(map(len, found)) else None


def _distinct(numbers: Ints) -> int:
    """How many different numbers there are, of numbers from 0 that are not much larger than n."""
    found = np.zeros(int(numbers.max(initial=0)) + 1, dtype=bool)
    found[numbers] = True
    return int(found.sum())


def _equal_rows(flags: NDArray[np.bool_]) -> Ints:
    """[n], the same number for equal rows of bool [n, m]."""
    number = np.zeros(len(flags), dtype=np.int64)
    for start in range(0, flags.shape[1], 16):
        part = flags[:, start : start + 16]
        bits = part @ (1 << np.arange(part.shape[1], dtype=np.int32))
        known = np.flatnonzero(np.bincount(bits, minlength=1))
        place = np.zeros(1 << 16, dtype=np.int64)
        place[known] = np.arange(len(known))
        number = number * len(known) + place[bits]
        if start:  # else they are small numbers without gaps already
            number = np.unique(number, return_inverse=True)[1].ravel()
    return number


def _largest(allowed: NDArray[np.bool_], liked: Floats, rng: np.random.Generator) -> Ints:
    """[n], a column for each row, drawn from those allowed in proportion to exp(liked)."""
    keys = np.where(allowed, liked + rng.gumbel(size=allowed.shape), -np.inf)
    return np.asarray(keys.argmax(1))


_NEEDS = {
    "monolingual": (
        "have a query and a document in the same language",
        "in this data queries and documents are always in different languages; use the "
        "cross-lingual sampler",
    ),
    "cross-lingual": (
        "have a query and a document in different languages",
        "give translations of each other the same group, or use the monolingual or mixed sampler, "
        "which need no translations",
    ),
}
_NEEDS["mixed"] = _NEEDS["monolingual"]
_NEEDS["any-pair"] = ("have a query and a document", "give queries their documents")
