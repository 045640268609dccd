"""Batches: samplers choose the rows of a batch and the languages of its queries and documents.

The four kinds (arXiv 2408.10536, section 3, and LAReQA, arXiv 2004.05484):

============== ===================================================================================
monolingual    all queries and documents of a batch in one language, drawn uniformly (X-X-mono)
cross-lingual  in every row the query's language differs from the document's; a batch has many
               language pairs (X-Y)
mixed          in every row query and document have the same language; a batch has many languages
               (X-X)
hybrid(alpha)  a monolingual batch with probability alpha, otherwise a cross-lingual one
============== ===================================================================================

Every sampler is a pure function of (seed, epoch): any epoch can be requested at any time, on any
machine, and gives the same batches. The order of the rows depends only on seed and epoch: on a
table whose rows exist in every language all samplers draw the same rows and differ only in the
languages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Ints
from hybridret.data.table import Dataset
from hybridret.errors import DataError

ABSENT = -1


@dataclass(frozen=True)
class PairTable:
    """R rows; a row is one (query, document) pair with its translations.

    Attributes:
        languages: L language tags, sorted.
        query_texts, document_texts: the texts.
        queries, documents: int64 [R, L], position of row r's text in language l, -1 if there is
            none.
        groups: int64 [R], translation group of the row's document. Rows of the same group are not
            used as negatives of each other.
    """

    languages: list[str]
    query_texts: list[str]
    document_texts: list[str]
    queries: Ints
    documents: Ints
    groups: Ints

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> PairTable:
        """One row for each query group and n: its queries, and its n-th relevant document in each
        language.

        Raises:
            DataError: no query has a relevant document, or a group has two queries in one language.
        """
        languages = dataset.languages
        column = {language: c for c, language in enumerate(languages)}
        relevant = dataset.relevant_by_group()
        relevant_ids = {d for judged in relevant.values() for d in judged}
        answers = [d for d in dataset.documents if d.document_id in relevant_ids]
        position = {d.document_id: i for i, d in enumerate(answers)}
        members: dict[str, list[int]] = defaultdict(list)
        for i, query in enumerate(dataset.queries):
            members[query.group_id].append(i)

        query_rows, document_rows, group_names = [], [], []
        for group, indices in members.items():
            query_row = [ABSENT] * len(languages)
            for i in indices:
                query = dataset.queries[i]
                if query_row[column[query.language]] != ABSENT:
                    raise DataError(
                        f"{dataset.name}: group {group!r} has two queries in {query.language}: "
                        f"{dataset.queries[query_row[column[query.language]]].query_id!r} and "
                        f"{query.query_id!r}"
                    )
                query_row[column[query.language]] = i
            by_language: dict[int, list[int]] = defaultdict(list)
            for document_id in relevant.get(group, ()):
                d = position[document_id]
                by_language[column[answers[d].language]].append(d)
            for n in range(max(map(len, by_language.values()), default=0)):
                row = [ABSENT] * len(languages)
                for c, found in by_language.items():
                    if n < len(found):
                        row[c] = found[n]
                query_rows.append(query_row)
                document_rows.append(row)
                group_names.append(answers[max(row)].group_id)
        if not query_rows:
            raise DataError(f"{dataset.name}: empty: no query has a relevant document")
        numbers = {name: i for i, name in enumerate(dict.fromkeys(group_names))}
        return cls(
            languages,
            [q.text for q in dataset.queries],
            [d.full_text for d in answers],
            np.array(query_rows, dtype=np.int64),
            np.array(document_rows, dtype=np.int64),
            np.array([numbers[name] for name in group_names], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Batch:
    """B rows of a :class:`PairTable` and the languages of their texts (all int64 [B]).

    Attributes:
        rows: positions in the table.
        query_languages, document_languages: positions in the table's ``languages``.
        kind: ``monolingual``, ``cross-lingual`` or ``mixed``.
    """

    rows: Ints
    query_languages: Ints
    document_languages: Ints
    kind: str

    def query_texts(self, table: PairTable) -> list[str]:
        return [table.query_texts[i] for i in table.queries[self.rows, self.query_languages]]

    def document_texts(self, table: PairTable) -> list[str]:
        positions = table.documents[self.rows, self.document_languages]
        return [table.document_texts[i] for i in positions]


class BatchSampler(ABC):
    """Draws batches of ``batch_size`` rows, each row at most once per epoch.

    Raises:
        DataError: the table has fewer suitable rows than ``batch_size``.
    """

    name: str

    def __init__(self, table: PairTable, batch_size: int, *, seed: int = 0) -> None:
        if batch_size < 2:
            raise DataError(f"batch_size must be at least 2, got {batch_size}")
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        self.table = table
        self.batch_size = batch_size
        self.seed = seed
        self.has_query = table.queries != ABSENT  # [R, L]
        self.has_document = table.documents != ABSENT
        self.has_both = self.has_query & self.has_document
        # Pairs (query language, document language) of each row that differ in language.
        pairs = self.has_query.sum(1) * self.has_document.sum(1) - self.has_both.sum(1)
        self.can_cross = pairs > 0
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raises DataError if the table cannot fill a batch of this sampler."""

    @abstractmethod
    def _draw(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        """The next batch from the ``pending`` rows; None if they do not fill a batch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; remaining rows that do not fill a batch are dropped."""
        pending = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.table))
        step = 0
        while len(pending) >= self.batch_size:
            batch = self._draw(pending, np.random.default_rng([self.seed, epoch, 1, step]))
            if batch is None:
                return
            yield batch
            if np.array_equal(batch.rows, pending[: self.batch_size]):
                pending = pending[self.batch_size :]
            else:
                pending = pending[~np.isin(pending, batch.rows)]
            step += 1

    def steps(self, stop: int, *, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Pairs (step, batch) for the steps ``start`` to ``stop - 1``.

        Steps are counted from 0 across epochs. The batches before ``start`` are drawn and skipped:
        the batch of a step does not depend on ``start``.
        """
        step = epoch = 0
        while step < stop:
            for batch in self.epoch(epoch):
                if step >= stop:
                    return
                if step >= start:
                    yield step, batch
                step += 1
            epoch += 1

    def _take(self, pending: Ints, eligible: NDArray[np.bool_]) -> Ints | None:
        rows = pending[eligible[pending]][: self.batch_size]
        return rows if len(rows) == self.batch_size else None

    def _require(self, eligible: NDArray[np.bool_], what: str, remedy: str) -> None:
        # Rows with the same queries (several relevant documents) count once.
        distinct = len(np.unique(self.table.queries[eligible].max(1, initial=ABSENT)))
        if distinct == 0:
            raise DataError(
                f"the {self.name} sampler needs translation groups that {what}, but there are "
                f"none: {remedy}"
            )
        if distinct < self.batch_size:
            raise DataError(
                f"batch_size is {self.batch_size}, but only {distinct} translation groups {what}; "
                f"use a smaller batch or more data"
            )
        if len(np.unique(self.table.groups[eligible])) < 2:
            raise DataError(
                "all documents are in one translation group: no query would have a negative"
            )

    def _monolingual(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        # If a language can no longer fill a batch, the next one in random order is tried.
        for language in rng.permutation(len(self.table.languages)):
            rows = self._take(pending, self.has_both[:, language])
            if rows is not None:
                column = np.full(self.batch_size, language, dtype=np.int64)
                return Batch(rows, column, column, "monolingual")
        return None

    def _cross_lingual(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        rows = self._take(pending, self.can_cross)
        if rows is None:
            return None
        # Uniform over the row's pairs of different languages: the pair with the largest random key.
        count = len(self.table.languages)
        allowed = self.has_query[rows][:, :, None] & self.has_document[rows][:, None, :]
        allowed &= ~np.eye(count, dtype=bool)
        keys = np.where(allowed, rng.random(allowed.shape), -1.0).reshape(len(rows), -1)
        best = keys.argmax(1)
        return Batch(rows, best // count, best % count, "cross-lingual")

    def _mixed(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        rows = self._take(pending, self.has_both.any(1))
        if rows is None:
            return None
        both = self.has_both[rows]
        language = np.where(both, rng.random(both.shape), -1.0).argmax(1)
        return Batch(rows, language, language, "mixed")

    def _check_monolingual(self) -> None:
        fullest = int(self.has_both.sum(0).argmax())
        self._require(self.has_both[:, fullest], *_ONE_LANGUAGE)

    def _check_cross_lingual(self) -> None:
        self._require(self.can_cross, *_TWO_LANGUAGES)


_ONE_LANGUAGE = (
    "have a query and a document in the same language",
    "in this data queries and documents are always in different languages; use the cross-lingual "
    "sampler",
)
_TWO_LANGUAGES = (
    "have a query and a document in different languages",
    "give translations of each other the same group, or use the monolingual or mixed sampler, "
    "which need no translations",
)


class MonolingualSampler(BatchSampler):
    """All queries and documents of a batch are in one language, drawn uniformly."""

    name = "monolingual"

    def _check(self) -> None:
        self._check_monolingual()

    def _draw(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        return self._monolingual(pending, rng)


class CrossLingualSampler(BatchSampler):
    """In every row query and document are in different languages."""

    name = "cross-lingual"

    def _check(self) -> None:
        self._check_cross_lingual()

    def _draw(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        return self._cross_lingual(pending, rng)


class MixedSampler(BatchSampler):
    """In every row query and document are in the same language; a batch has many languages."""

    name = "mixed"

    def _check(self) -> None:
        self._require(self.has_both.any(1), *_ONE_LANGUAGE)

    def _draw(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        return self._mixed(pending, rng)


class HybridSampler(BatchSampler):
    """A monolingual batch with probability ``alpha``, otherwise a cross-lingual one.

    Raises:
        DataError: ``alpha`` is not strictly between 0 (cross-lingual) and 1 (monolingual).
    """

    name = "hybrid"

    def __init__(
        self, table: PairTable, batch_size: int, *, alpha: float = 0.5, seed: int = 0
    ) -> None:
        if not 0 < alpha < 1:
            raise DataError(f"alpha must be above 0 and below 1, got {alpha}")
        self.alpha = alpha
        super().__init__(table, batch_size, seed=seed)

    def _check(self) -> None:
        self._check_monolingual()
        self._check_cross_lingual()

    def _draw(self, pending: Ints, rng: np.random.Generator) -> Batch | None:
        kinds = [self._monolingual, self._cross_lingual]
        if rng.random() >= self.alpha:
            kinds.reverse()
        batch = kinds[0](pending, rng)
        return batch if batch is not None else kinds[1](pending, rng)


_CLASSES = {
    cls.name: cls for cls in (MonolingualSampler, CrossLingualSampler, MixedSampler, HybridSampler)
}
SAMPLERS = tuple(_CLASSES)


def make_sampler(
    name: str, table: PairTable, batch_size: int, *, alpha: float = 0.5, seed: int = 0
) -> BatchSampler:
    """A sampler by its name in :data:`SAMPLERS`; ``alpha`` is used by ``hybrid`` only.

    Raises:
        DataError: unknown name, or the table cannot fill a batch.
    """
    if name not in _CLASSES:
        raise DataError(f"unknown sampler {name!r}; expected one of {', '.join(SAMPLERS)}")
    if name == HybridSampler.name:
        return HybridSampler(table, batch_size, alpha=alpha, seed=seed)
    return _CLASSES[name](table, batch_size, seed=seed)
