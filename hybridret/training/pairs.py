"""Pairs: the rows of a data set that batches are drawn from, and what a batch is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hybridret._types import Ints
from hybridret.data.table import Dataset
from hybridret.errors import DataError

ABSENT = -1
NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class PairTable:
    """R rows; a row is one (query, document) pair with its translations.

    Integers are int64, or int32 in a table whose texts are on disk.

    Attributes:
        languages: L language tags, sorted.
        query_texts, document_texts: Q and D texts; documents are positives and hard negatives.
        queries, documents: [R, L], position of row r's text in language l, -1 if there is
            none.
        query_groups: [R], translation group of the row's query.
        document_groups: [D], translation group of each document. Rows that share one are not
            used as negatives of each other.
        relevant: groups of documents that answer a query group, where these are several.
        negatives: hard negatives by position of the query in ``query_texts``: positions in
            ``document_texts``.
    """

    languages: list[str]
    query_texts: Sequence[str]
    document_texts: Sequence[str]
    queries: Ints
    documents: Ints
    query_groups: Ints
    document_groups: Ints
    relevant: Mapping[int, frozenset[int]] = field(default_factory=dict, repr=False)
    negatives: Mapping[int, Ints] = field(default_factory=dict, repr=False)

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
        used = {d for judged in relevant.values() for d in judged}
        used.update(d for found in dataset.negatives.values() for d in found)
        documents = [d for d in dataset.documents if d.document_id in used]
        position = {d.document_id: i for i, d in enumerate(documents)}
        names = {name: n for n, name in enumerate(dict.fromkeys(d.group_id for d in documents))}
        document_groups = np.array([names[d.group_id] for d in documents], dtype=np.int64)
        members: dict[str, list[int]] = defaultdict(list)
        for i, query in enumerate(dataset.queries):
            members[query.group_id].append(i)

        query_rows, document_rows, query_groups = [], [], []
        several: dict[int, frozenset[int]] = {}
        for number, (group, indices) in enumerate(members.items()):
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
                by_language[column[documents[d].language]].append(d)
            for n in range(max(map(len, by_language.values()), default=0)):
                row = [ABSENT] * len(languages)
                for c, found in by_language.items():
                    if n < len(found):
                        row[c] = found[n]
                query_rows.append(query_row)
                document_rows.append(row)
                query_groups.append(number)
            answers = frozenset(int(document_groups[d]) for f in by_language.values() for d in f)
            if len(answers) > 1:
                several[number] = answers
        if not query_rows:
            raise DataError(f"{dataset.name}: empty: no query has a relevant document")
        return cls(
            languages,
            [q.text for q in dataset.queries],
            [d.full_text for d in documents],
            np.array(query_rows, dtype=np.int64),
            np.array(document_rows, dtype=np.int64),
            np.array(query_groups, dtype=np.int64),
            document_groups,
            several,
            {
                i: np.array([position[d] for d in dataset.negatives[q.query_id]], dtype=np.int64)
                for i, q in enumerate(dataset.queries)
                if dataset.negatives.get(q.query_id)
            },
        )

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def groups(self) -> Ints:
        """int64 [R], translation group of the row's document."""
        return np.asarray(self.document_groups[self.documents.max(1)])

    @cached_property
    def has_query(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """bool [R, L]"""
        return np.asarray(self.queries != ABSENT)

    @cached_property
    def has_document(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """bool [R, L]"""
        return np.asarray(self.documents != ABSENT)


@dataclass(frozen=True)
class TrainingData:
    """A data set of a run, and how its batches are made.

    Attributes:
        name: as it is logged.
        weight: share of the batches, relative to the other sources; None: by the number of rows,
            if no source has a weight.
        alpha: share of its batches that are monolingual, with the hybrid sampler; None: what is
            left of the run's alpha, the same for all such sources.
        hard_negatives: of a row, at most; None: all that it has. Those that are used change with
            every epoch.
        in_batch_negatives: whether the documents of other rows are negatives of a query, too; else
            its own hard negatives alone.
        temperature: of the loss; None: that of the run.
        query_prompt, document_prompt: put before the texts; None: the encoder's own.
    """

    name: str
    table: PairTable
    weight: float | None = None
    alpha: float | None = None
    hard_negatives: int | None = None
    in_batch_negatives: bool = True
    temperature: float | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


@dataclass(frozen=True)
class Batch:
    """B rows of a source's table and the languages of their texts (int64 [B]).

    Attributes:
        rows: positions in the table.
        query_languages, document_languages: positions in the table's ``languages``.
        kind: ``monolingual``, ``cross-lingual``, ``mixed`` or ``any-pair``.
        source: number of the source.
        negatives: int64 [K], positions in the table's ``document_texts``: the hard negatives of all
            rows, row by row.
        negative_counts: int64 [B], how many of them each row has; None: K is 0.
    """

    rows: Ints
    query_languages: Ints
    document_languages: Ints
    kind: str
    source: int = 0
    negatives: Ints = field(default_factory=lambda: NONE)
    negative_counts: Ints | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, number: int, count: int) -> Ints:
        """Positions in :meth:`documents` of those of part ``number`` of ``count`` equal ones."""
        size = len(self) // count
        rows = np.arange(number * size, (number + 1) * size)
        if self.negative_counts is None:
            return rows
        ends = np.concatenate([[0], self.negative_counts.cumsum()]) + len(self)
        return np.concatenate([rows, np.arange(ends[rows[0]], ends[rows[-1] + 1])])

    def part(self, number: int, count: int) -> Batch:
        """Part ``number`` of ``count`` equal parts, for one of as many processes."""
        size = len(self) // count
        rows = slice(number * size, (number + 1) * size)
        negatives = self.columns(number, count)[size:] - len(self)
        return Batch(
            self.rows[rows],
            self.query_languages[rows],
            self.document_languages[rows],
            self.kind,
            self.source,
            self.negatives[negatives],
            None if self.negative_counts is None else self.negative_counts[rows],
        )

    def queries(self, table: PairTable) -> Ints:
        """int64 [B], positions in the table's ``query_texts``."""
        return np.asarray(table.queries[self.rows, self.query_languages])

    def documents(self, table: PairTable) -> Ints:
        """int64 [B + K], positions in ``document_texts``: the rows' documents, then negatives."""
        positives = table.documents[self.rows, self.document_languages]
        return np.concatenate([positives, self.negatives])

    def groups(self, table: PairTable) -> Ints:
        """int64 [B + K], group of each document: those of one group are no negatives of each other.

        The first B are the groups of the queries' answers. All documents that answer one query get
        the same group.
        """
        groups = table.document_groups[self.documents(table)].astype(np.int64)
        if len(self.negatives) and table.relevant:
            for row, group in zip(self.rows, groups[: len(self.rows)].copy(), strict=True):
                answers = table.relevant.get(int(table.query_groups[row]))
                if answers:
                    groups[np.isin(groups, list(answers))] = group
        return np.asarray(groups)

    def query_texts(self, table: PairTable) -> list[str]:
        return [table.query_texts[i] for i in self.queries(table)]

    def document_texts(self, table: PairTable) -> list[str]:
        return [table.document_texts[i] for i in self.documents(table)]
