"""Judging a retriever in the monolingual, cross-lingual and multilingual settings.

With L languages: *mono*, queries of a language against that language's documents (L settings);
*cross*, queries of X against the documents of Y != X (L (L - 1) settings); *multi*, queries of X
against the documents of all languages, every parallel answer relevant (L settings). In mono and
cross a query without a relevant document in the pool is left out of the mean; n says how many are
in it.

Ranks are exact and follow a total order, as trec_eval's: score descending, then document id
descending by its UTF-8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret import _native
from hybridret._files import write_json
from hybridret.data.table import Dataset
from hybridret.encoder import LONGEST, Similarity, TextEncoder
from hybridret.errors import DataError
from hybridret.metrics import DEFAULT_METRICS, Metric, RankedRelevant, parse_metrics

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

RANK_DISTANCE = "rank_distance"


class Pool:
    """A data set in the scorer's terms: languages as numbers, targets by query.

    Raises:
        DataError: there are no queries, no documents, or no relevant documents.
    """

    def __init__(self, dataset: Dataset) -> None:
        if not dataset.queries or not dataset.documents:
            raise DataError(
                f"{dataset.name}: empty: {len(dataset.queries)} queries and "
                f"{len(dataset.documents)} documents"
            )
        self.dataset = dataset
        self.languages = dataset.languages
        number = {language: n for n, language in enumerate(self.languages)}
        self.query_language = np.array([number[q.language] for q in dataset.queries])
        self.document_language = np.array([number[d.language] for d in dataset.documents])
        ids = np.array([d.document_id.encode() for d in dataset.documents], dtype=object)
        descending = np.argsort(ids, kind="stable")[::-1]
        self.tie_order = np.empty(len(ids), dtype=np.int64)
        self.tie_order[descending] = np.arange(len(ids))

        position = {d.document_id: i for i, d in enumerate(dataset.documents)}
        by_group = {
            group: ([position[d] for d in judged], list(judged.values()))
            for group, judged in dataset.relevant_by_group().items()
        }
        found = [by_group[q.group_id] for q in dataset.queries]
        self.target_begin = np.cumsum([0, *(len(documents) for documents, _ in found)])
        self.targets = np.array([d for documents, _ in found for d in documents], dtype=np.int64)
        self.grades = np.array([g for _, grades in found for g in grades], dtype=np.int64)
        if not len(self.targets):
            raise DataError(f"{dataset.name}: no query has a relevant document")

    @property
    def target_query(self) -> Ints:
        """Query of each target, int64 [T]."""
        return np.repeat(np.arange(len(self.query_language)), np.diff(self.target_begin))


@dataclass(frozen=True)
class Ranks:
    """Ranks of the targets of a :class:`Pool`, int64 [T] each, from 1."""

    in_language: Ints  # among the documents of the target's own language
    in_all: Ints


def rank_embeddings(
    pool: Pool,
    query_embeddings: Floats,
    document_embeddings: Floats,
    *,
    similarity: Similarity = "cosine",
    threads: int = 0,
) -> Ranks:
    """Exact ranks by the native scorer.

    Args:
        query_embeddings: [Q, D] in the order of the data set's queries.
        document_embeddings: [P, D] in the order of its documents.

    Raises:
        DataError: wrong shape; a value that is not finite or, for cosine, a zero vector (the row is
            named).
    """
    queries = _checked(query_embeddings, pool.dataset, "query", similarity)
    documents = _checked(document_embeddings, pool.dataset, "document", similarity)
    if queries.shape[1] != documents.shape[1]:
        raise DataError(
            f"query embeddings have {queries.shape[1]} dimensions, document embeddings "
            f"{documents.shape[1]}"
        )
    order = np.argsort(pool.document_language, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sizes = np.bincount(pool.document_language, minlength=len(pool.languages))
    above = _native.count_above(
        queries,
        documents[order],
        language_begin=np.cumsum([0, *sizes]),
        tie_order=pool.tie_order[order],
        target_begin=pool.target_begin,
        targets=place[pool.targets],
        threads=threads,
    )
    own = pool.document_language[pool.targets]
    return Ranks(above[np.arange(len(own)), own] + 1, above.sum(1) + 1)


def _checked(embeddings: Floats, dataset: Dataset, what: str, similarity: Similarity) -> Floats:
    if what == "query":
        ids = [q.query_id for q in dataset.queries]
    else:
        ids = [d.document_id for d in dataset.documents]
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise DataError(
            f"{what} embeddings have shape {list(embeddings.shape)}; expected "
            f"[{len(ids)}, dimension], one row for each {what} of {dataset.name}"
        )
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise DataError(f"{what} embeddings are {embeddings.dtype}; expected floating point")
    vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(
            f"{what} embedding in row {row} (id {ids[row]!r}) has a value that is not finite "
            f"(NaN or infinity); {int((~finite).sum())} rows do"
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if similarity == "dot":
        if norms.max(initial=0) > LONGEST:
            row = int(np.argmax(norms))
            raise DataError(
                f"{what} embedding in row {row} (id {ids[row]!r}) is longer than {LONGEST:g}: "
                f"inner products overflow"
            )
        return vectors
    if not norms.all():
        row = int(np.argmin(norms))
        raise DataError(
            f"{what} embedding in row {row} (id {ids[row]!r}) is the zero vector, "
            f"which has no cosine"
        )
    return np.asarray(vectors / norms[:, None], dtype=np.float32)


@dataclass(frozen=True)
class Setting:
    """Mean scores of one setting over its n queries; ``document_language`` is None for multi."""

    setting: str
    query_language: str
    document_language: str | None
    n: int
    metrics: dict[str, float]


@dataclass
class Report:
    """Scores of one system: every setting, and the three summaries.

    A summary is the mean over languages (cross: per query language the mean over the other pools,
    then over query languages). ``summary["rank_distance"]`` is, per query, the worst minus the best
    rank of its parallel answers in the pool of all (Huang et al. 2023), mean over queries, then
    over languages; None where no query has two answers.
    """

    name: str
    dataset: str
    languages: list[str]
    settings: list[Setting]
    summary: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)

    def matrix(self, metric: str) -> NDArray[np.float64]:
        """[L, L], query language by document language; NaN where a setting has no queries."""
        place = {language: i for i, language in enumerate(self.languages)}
        values = np.full((len(place), len(place)), np.nan)
        for s in self.settings:
            if s.document_language is not None and s.n:
                values[place[s.query_language], place[s.document_language]] = s.metrics[metric]
        return values

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, ``{"schema": 1, "settings": [...], "summary": {...}}``."""
        return {
            "schema": 1,
            "name": self.name,
            "dataset": self.dataset,
            "languages": self.languages,
            "settings": [vars(s) for s in self.settings],
            "summary": self.summary,
            **self.details,
        }

    def save_json(self, path: str | Path) -> None:
        write_json(path, json.loads(json.dumps(self.to_dict())))


def score(pool: Pool, ranks: Ranks, metrics: Sequence[str], name: str) -> Report:
    """All settings of one system from its ranks."""
    parsed = parse_metrics(tuple(metrics))
    settings: list[Setting] = []
    query = pool.target_query
    target_language = pool.document_language[pool.targets]
    languages = range(len(pool.languages))
    for a in languages:
        for b in languages:
            keep = (pool.query_language[query] == a) & (target_language == b)
            kind = "mono" if a == b else "cross"
            settings.append(_setting(pool, kind, a, b, keep, ranks.in_language, parsed))
    distances = []
    for a in languages:
        keep = pool.query_language[query] == a
        settings.append(_setting(pool, "multi", a, None, keep, ranks.in_all, parsed))
        distances.append(_rank_distance(_relevant(pool, keep, ranks.in_all)))
    settings = [s for s in settings if s.n]
    settings.sort(key=lambda s: ("mono", "cross", "multi").index(s.setting))
    summary: dict[str, Any] = {
        kind: _summary([s for s in settings if s.setting == kind])
        for kind in ("mono", "cross", "multi")
    }
    means = [float(d.mean()) for d in distances if len(d)]
    summary[RANK_DISTANCE] = float(np.mean(means)) if means else None
    summary["n"] = {
        kind: sum(s.n for s in settings if s.setting == kind) for kind in ("mono", "cross", "multi")
    }
    summary["n"][RANK_DISTANCE] = sum(map(len, distances))
    return Report(name, pool.dataset.name, pool.languages, settings, summary)


def _relevant(pool: Pool, keep: NDArray[np.bool_], ranks: Ints) -> RankedRelevant:
    """The kept targets, those of a query together and by rank; queries without any are dropped."""
    query = pool.target_query[keep]
    order = np.lexsort((ranks[keep], query))
    counts = np.unique(query, return_counts=True)[1]
    return RankedRelevant(np.cumsum([0, *counts]), ranks[keep][order], pool.grades[keep][order])


def _setting(
    pool: Pool, kind: str, a: int, b: int | None, keep: NDArray[np.bool_], ranks: Ints,
    metrics: Iterable[Metric],
) -> Setting:  # fmt: skip
    relevant = _relevant(pool, keep, ranks)
    n = len(relevant.counts)
    return Setting(
        kind,
        pool.languages[a],
        None if b is None else pool.languages[b],
        n,
        {str(m): float(m.per_query(relevant).mean()) for m in metrics} if n else {},
    )


def _rank_distance(relevant: RankedRelevant) -> Ints:
    several = relevant.counts > 1
    first, last = relevant.begin[:-1][several], relevant.begin[1:][several] - 1
    return relevant.ranks[last] - relevant.ranks[first]


def _summary(settings: list[Setting]) -> dict[str, float]:
    by_language: dict[str, list[Setting]] = {}
    for s in settings:
        by_language.setdefault(s.query_language, []).append(s)
    names = settings[0].metrics if settings else ()
    return {
        name: float(
            np.mean([np.mean([s.metrics[name] for s in group]) for group in by_language.values()])
        )
        for name in names
    }


def evaluate(
    encoder: TextEncoder,
    dataset: Dataset,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    batch_size: int = 64,
    progress: bool = False,
    name: str = "model",
) -> Report:
    """Embeds a data set and judges the encoder in every setting.

    Raises:
        DataError: empty data set, unknown metric, or an embedding that cannot be ranked.
    """
    parse_metrics(tuple(metrics))
    pool = Pool(dataset)
    queries = encoder.encode_queries(
        [q.text for q in dataset.queries], batch_size=batch_size, progress=progress
    )
    documents = encoder.encode_documents(
        [d.full_text for d in dataset.documents], batch_size=batch_size, progress=progress
    )
    ranks = rank_embeddings(pool, queries, documents, similarity=encoder.config.similarity)
    return score(pool, ranks, metrics, name)


def evaluate_embeddings(
    query_embeddings: Floats,
    document_embeddings: Floats,
    dataset: Dataset,
    *,
    similarity: Similarity = "cosine",
    metrics: Sequence[str] = DEFAULT_METRICS,
    name: str = "embeddings",
) -> Report:
    """Judges embeddings [Q, D] and [P, D] in the order of the data set's queries and documents.

    Raises:
        DataError: see :func:`rank_embeddings`.
    """
    pool = Pool(dataset)
    ranks = rank_embeddings(pool, query_embeddings, document_embeddings, similarity=similarity)
    return score(pool, ranks, metrics, name)
