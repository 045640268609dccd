"""The one table every reader fills: queries, documents and relevance judgements.

A row never stores a pair of languages. ``group_id`` joins translations: queries of one group ask
the same question in several languages, documents of one group say the same thing. Samplers form
monolingual and cross-lingual pairs from the groups, so both kinds of batch come out of one table.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from hybridret.data.languages import matches_language, normalize_language
from hybridret.errors import DataError

Qrels = dict[str, dict[str, int]]
"""``qrels[query_id][document_id]`` is the grade; above zero means relevant."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query in one language; ``group_id`` is shared by its translations."""

    query_id: str
    text: str
    language: str
    group_id: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document in one language; ``group_id`` is shared by its translations.

    Attributes:
        metadata: what else is known of it, as JSON has it; None: nothing.
    """

    document_id: str
    text: str
    language: str = ""
    group_id: str = ""
    title: str = ""
    metadata: Mapping[str, Any] | None = field(default=None, hash=False, kw_only=True)

    @property
    def full_text(self) -> str:
        """What an encoder reads: title, a space, text (the BEIR convention)."""
        return f"{self.title} {self.text}" if self.title else self.text


class StreamedDocuments(Collection[Document]):
    """Documents that need not fit into memory: read anew each time one goes through them.

    Only their ids and languages are held. There is no access by position.

    Args:
        read: begins to read from the start, giving the same documents every time.
    """

    def __init__(self, read: Callable[[], Iterable[Document]]) -> None:
        self._read = read
        names: dict[str, str] = {}  # one string a language
        self.ids: list[str] = []
        self.languages: list[str] = []
        for document in read():
            self.ids.append(document.document_id)
            self.languages.append(names.setdefault(document.language, document.language))

    def __iter__(self) -> Iterator[Document]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, document: object) -> bool:
        return any(document == d for d in self)


@dataclass
class Dataset:
    """Queries, documents and judgements of one data set.

    Attributes:
        documents: a list, or :class:`StreamedDocuments` of a corpus larger than memory.
        negatives: hard negatives to train with: ids of documents by query id.

    Raises:
        DataError: a duplicate id, or a judgement or negative that names an unknown id.
    """

    name: str
    queries: list[Query]
    documents: list[Document] | StreamedDocuments
    qrels: Qrels = field(repr=False)
    negatives: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        query_ids = _unique([q.query_id for q in self.queries], f"{self.name}: query")
        document_ids = _unique(self.document_ids, f"{self.name}: document")
        for query_id, judged in self.qrels.items():
            if query_id not in query_ids:
                raise DataError(f"{self.name}: the judgements name an unknown query {query_id!r}")
            for document_id, grade in judged.items():
                if not -(2**63) <= grade < 2**63:
                    check_grades(judged, f"{self.name}: query {query_id!r}")
                if document_id not in document_ids:
                    raise DataError(
                        f"{self.name}: query {query_id!r} is judged on an unknown document "
                        f"{document_id!r}"
                    )
        for query_id, found in self.negatives.items():
            if query_id not in query_ids or not document_ids.issuperset(found):
                raise DataError(
                    f"{self.name}: the negatives of query {query_id!r} name an unknown query or "
                    f"document"
                )

    @property
    def document_ids(self) -> list[str]:
        """Id of each document, in order."""
        if isinstance(self.documents, StreamedDocuments):
            return self.documents.ids
        return [d.document_id for d in self.documents]

    @property
    def document_languages(self) -> list[str]:
        """Language of each document, in order."""
        if isinstance(self.documents, StreamedDocuments):
            return self.documents.languages
        return [d.language for d in self.documents]

    @property
    def languages(self) -> list[str]:
        """Languages of queries and documents, sorted."""
        return sorted({q.language for q in self.queries} | set(self.document_languages))

    def only_languages(self, languages: Sequence[str]) -> Dataset:
        """The same data set restricted to ``languages``; ``zh`` keeps ``zh-CN``, too.

        Raises:
            DataError: a language is not in the data set.
        """
        keep = select_languages(self.name, self.languages, languages)
        if keep == set(self.languages):
            return self  # a streamed corpus is not read again
        return self._subset(
            [q for q in self.queries if q.language in keep],
            self._documents_where(lambda d: d.language in keep),
        )

    def only_query_groups(self, groups: Iterable[str]) -> Dataset:
        """The queries of ``groups``, the documents that answer them (in every language), and their
        hard negatives."""
        keep = set(groups)
        relevant = self.relevant_by_group()
        queries = [q for q in self.queries if q.group_id in keep]
        wanted = {d for group in keep for d in relevant.get(group, ())}
        wanted.update(d for q in queries for d in self.negatives.get(q.query_id, ()))
        return self._subset(queries, [d for d in self.documents if d.document_id in wanted])

    def without_documents(self, groups: Iterable[str]) -> Dataset:
        """All but the documents of ``groups``."""
        out = set(groups)
        return self._subset(self.queries, self._documents_where(lambda d: d.group_id not in out))

    def relevant_by_group(self, *, judged: bool = False) -> dict[str, dict[str, int]]:
        """Relevant documents of each query group with their grades.

        What answers a question answers its translations: the judgements of all queries of a group
        count for each of them (the highest grade where they differ). Sources therefore judge each
        query on its own language alone.

        Args:
            judged: those judged not relevant as well, with grade 0; a negative grade is none.
        """
        relevant: dict[str, dict[str, int]] = defaultdict(dict)
        for query in self.queries:
            merged = relevant[query.group_id]
            for document_id, grade in self.qrels.get(query.query_id, {}).items():
                if grade > 0 or (judged and grade == 0):
                    merged[document_id] = max(grade, merged.get(document_id, 0))
        return dict(relevant)

    def _documents_where(
        self, keep: Callable[[Document], bool]
    ) -> list[Document] | StreamedDocuments:
        documents = self.documents
        if isinstance(documents, StreamedDocuments):
            return StreamedDocuments(lambda: filter(keep, documents))
        return [d for d in documents if keep(d)]

    def _subset(
        self, queries: list[Query], documents: list[Document] | StreamedDocuments
    ) -> Dataset:
        found = Dataset(self.name, queries, documents, {})
        kept = set(found.document_ids)
        found.qrels = {
            q.query_id: {d: g for d, g in self.qrels[q.query_id].items() if d in kept}
            for q in queries
            if q.query_id in self.qrels
        }
        found.negatives = {
            q.query_id: [d for d in self.negatives[q.query_id] if d in kept]
            for q in queries
            if q.query_id in self.negatives
        }
        return found


def languages_of_groups(documents: Iterable[Document]) -> dict[str, list[str]]:
    """Languages that each translation group of documents exists in, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        found[document.group_id].add(document.language)
    return {group: sorted(languages) for group, languages in found.items()}


def check_grades(judged: Mapping[str, int], where: str) -> None:
    """Raises DataError unless all grades fit 64 bits."""
    if judged and not (-(2**63) <= min(judged.values()) <= max(judged.values()) < 2**63):
        raise DataError(f"{where}: a grade is not a whole number of 64 bits")


def select_languages(name: str, known: Sequence[str], asked: Sequence[str]) -> set[str]:
    """Those of the languages of data set ``name`` that are asked for; ``zh`` is ``zh-CN``, too.

    Raises:
        DataError: one is not there.
    """
    tags = {normalize_language(language) for language in asked}
    keep = {x for x in known if any(matches_language(x, y) for y in tags)}
    unknown = sorted(y for y in tags if not any(matches_language(x, y) for x in keep))
    if unknown:
        raise DataError(f"{name} has no language {', '.join(unknown)}; it has {', '.join(known)}")
    return keep


def groups_by_relevance(
    query_groups: dict[str, str], relevant: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Document groups for sources that name none: documents that answer one query group are joined.

    Args:
        query_groups: group of each query id.
        relevant: (query id, document id) pairs.

    Returns:
        A group name for each document id: the smallest query group among those it is joined to.
    """
    parent: dict[str, str] = {}

    def find(group: str) -> str:
        while parent.setdefault(group, group) != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    answers = defaultdict(list)
    for query_id, document_id in relevant:
        answers[document_id].append(query_groups[query_id])
    for groups in answers.values():
        for other in groups[1:]:
            low, high = sorted((find(groups[0]), find(other)))
            parent[high] = low
    return {document_id: find(groups[0]) for document_id, groups in answers.items()}


def _unique(ids: Sequence[str], what: str) -> set[str]:
    once = set(ids)
    if len(once) < len(ids):
        duplicate, count = Counter(ids).most_common(1)[0]
        raise DataError(f"{what} id {duplicate!r} is a duplicate: {count} have it")
    return once


def hold_out(dataset: Dataset, fraction: float, *, pool: int = 0) -> tuple[Dataset, Dataset]:
    """(training, development): a share of the document groups is kept for choosing settings.

    The groups are chosen by a hash of their names: the same ones on every machine and for every
    seed. The development set has one question of each held-out document group, the first: other
    questions on the same document would find near copies of their answer in the pool.

    Args:
        pool: documents that the development set has at least: where held-out ones are fewer, some
            of the training set stand beside them.

    Raises:
        DataError: ``fraction`` is not between 0 and 1, or leaves one side empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share to hold out must lie between 0 and 1, got {fraction}")
    group_of = {d.document_id: d.group_id for d in dataset.documents}
    first: dict[str, str] = {}
    for group, documents in dataset.relevant_by_group().items():
        for document_id in documents:
            first.setdefault(group_of[document_id], group)
    names = sorted(first, key=lambda name: sha256(name.encode()).digest())
    held = set(names[: round(fraction * len(names))])
    if not held or len(held) == len(names):
        raise DataError(
            f"{dataset.name}: holding out {fraction} of {len(names)} document groups leaves "
            f"{len(names) - len(held)} to train on and {len(held)} to choose settings by"
        )
    training = dataset._subset(
        [
            q
            for q in dataset.queries
            if held.isdisjoint(map(group_of.get, dataset.qrels[q.query_id]))
        ],
        dataset._documents_where(lambda d: d.group_id not in held),
    )
    development = dataset.only_query_groups({first[name] for name in held})
    members = Counter(d.group_id for d in dataset.documents)
    beside: set[str] = set()
    there = sum(1 for _ in development.documents)
    for name in names[len(held) :]:
        if there >= pool:
            break
        beside.add(name)
        there += members[name]
    if beside:
        own = {d.document_id for d in development.documents}
        development = replace(
            development,
            documents=dataset._documents_where(
                lambda d: d.document_id in own or d.group_id in beside
            ),
        )
    return training, development
