"""Judging a retriever in the monolingual, cross-lingual and multilingual settings.

With L languages: *mono*, queries of a language against that language's documents (L settings);
*cross*, queries of X against the documents of Y != X (L (L - 1) settings); *multi*, queries of X
against the documents of all languages, every parallel answer relevant (L settings). A query without
a relevant document in the pool is left out of the mean unless asked; n says how many are in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._files import atomic_file, write_json
from hybridret.bias import LanguageBias, language_bias
from hybridret.data.table import Dataset
from hybridret.encoder import TextEncoder
from hybridret.metrics import DEFAULT_METRICS, RankedRelevant, parse_metrics
from hybridret.metrics import convention as convention_named
from hybridret.ranking import Ints, Pool, Ranks, Similarity, Ties, rank_embeddings

Floats = NDArray[np.float64]

KINDS = ("mono", "cross", "multi")
RANK_DISTANCE = "rank_distance"
EMBEDDING_FILES = ("queries.npy", "documents.npy")
Unanswerable = Literal["drop", "zero"]


@dataclass(frozen=True)
class Setting:
    """Mean scores of one setting over its n queries; ``document_language`` is None for multi.

    Attributes:
        ceilings: what the best possible ranking scores: a query with 11 answers has no more than
            1/11 of them first.
    """

    setting: str
    query_language: str
    document_language: str | None
    n: int
    metrics: dict[str, float]
    ceilings: dict[str, float]


@dataclass(frozen=True)
class QueryScores:
    """Scores of single queries, one row for each query of each setting.

    Attributes:
        setting: int64 [G], number of the setting in the report.
        query: int64 [G], row of the query in the data set.
        values: by metric, float64 [G].
    """

    setting: Ints
    query: Ints
    values: dict[str, Floats]


@dataclass
class Report:
    """Scores of one system: every setting, the three summaries, and the language bias.

    A summary is the mean over languages (cross: per query language the mean over the other pools,
    then over query languages). ``summary["rank_distance"]`` is that of :mod:`hybridret.bias`, None
    where no query has two answers.
    """

    name: str
    dataset: str
    languages: list[str]
    settings: list[Setting]
    summary: dict[str, Any]
    bias: LanguageBias
    queries: QueryScores = field(repr=False)
    query_ids: list[str] = field(repr=False)
    clusters: Ints = field(repr=False)  # [Q], queries of one group are translations
    details: dict[str, Any] = field(default_factory=dict)

    def matrix(self, metric: str) -> Floats:
        """[L, L], query language by document language; NaN where a setting has no queries."""
        place = {language: i for i, language in enumerate(self.languages)}
        values = np.full((len(place), len(place)), np.nan)
        for s in self.settings:
            if s.document_language is not None:
                values[place[s.query_language], place[s.document_language]] = s.metrics[metric]
        return values

    @property
    def ceilings(self) -> dict[str, dict[str, float]]:
        """The summaries of the best possible ranking, by kind and metric."""
        return {kind: _summary(self.settings, kind, "ceilings") for kind in KINDS}

    def to_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """The JSON form, ``{"schema": 1, "settings": [...], "summary": {...}, ...}``.

        Args:
            per_query: with ``"scores"`` in every setting, by metric a value for each query id.
        """
        fields = ("setting", "query_language", "document_language", "n", "metrics")
        settings: list[dict[str, Any]] = [
            {name: getattr(s, name) for name in fields} for s in self.settings
        ]
        if per_query:
            for number, setting in enumerate(settings):
                rows = self.queries.setting == number
                ids = [self.query_ids[q] for q in self.queries.query[rows]]
                setting["scores"] = {
                    name: dict(zip(ids, values[rows].tolist(), strict=True))
                    for name, values in self.queries.values.items()
                }
        return {
            "schema": 1,
            "name": self.name,
            "dataset": self.dataset,
            "languages": self.languages,
            "settings": settings,
            "summary": self.summary,
            "ceilings": self.ceilings,
            "bias": self.bias.to_dict(),
            **self.details,
        }

    def save_json(self, path: str | Path, *, per_query: bool = False) -> None:
        write_json(path, json.loads(json.dumps(self.to_dict(per_query=per_query))))


def pool_for(dataset: Dataset, metrics: Sequence[str], convention: str = "trec_eval") -> Pool:
    """The pool that these metrics need, by a tool's conventions."""
    judged = any(metric.needs_judged for metric in parse_metrics(tuple(metrics)))
    return Pool(dataset, tie_order=convention_named(convention).tie_order, judged=judged)


def score(
    pool: Pool,
    ranks: Ranks,
    metrics: Sequence[str] = DEFAULT_METRICS,
    name: str = "system",
    *,
    convention: str = "trec_eval",
    unanswerable: Unanswerable = "drop",
    mix_at: int = 10,
) -> Report:
    """All settings of one system from its ranks; see :func:`evaluate` for the arguments."""
    table = _SettingTable(pool, ranks, metrics, convention, unanswerable)
    bias = language_bias(*pool.relevant(ranks), mix_at=mix_at)
    summary: dict[str, Any] = {kind: _summary(table.settings, kind) for kind in KINDS}
    summary[RANK_DISTANCE] = bias.rank_distance.mean
    summary["n"] = {kind: sum(s.n for s in table.settings if s.setting == kind) for kind in KINDS}
    summary["n"][RANK_DISTANCE] = bias.rank_distance.n
    groups = {group: n for n, group in enumerate({q.group_id: 0 for q in pool.dataset.queries})}
    return Report(
        name=name,
        dataset=pool.dataset.name,
        languages=pool.languages,
        settings=table.settings,
        summary=summary,
        bias=bias,
        queries=table.scores,
        query_ids=[q.query_id for q in pool.dataset.queries],
        clusters=np.array([groups[q.group_id] for q in pool.dataset.queries]),
    )


class _SettingTable:
    """Every query of every setting at once: one group of relevant documents each."""

    def __init__(
        self, pool: Pool, ranks: Ranks, metrics: Sequence[str], tool: str, unanswerable: str
    ) -> None:
        self.pool = pool
        self.metrics = parse_metrics(tuple(metrics))
        self.convention = convention_named(tool)
        languages = len(pool.languages)
        size = np.bincount(pool.document_language, minlength=languages)
        query, language = pool.target_query, pool.target_language
        # Language `languages` stands for the pool of all.
        by_pool = (
            (language, ranks.in_language),
            (np.full_like(language, languages), ranks.in_all),
        )
        parts = [
            self._scored(query * (languages + 1) + target, group_ranks)
            for target, group_ranks in by_pool
        ]
        keys = np.concatenate([part[0] for part in parts])
        relevant = np.concatenate([part[1] for part in parts])
        values = {str(m): np.concatenate([p[2][str(m)] for p in parts]) for m in self.metrics}
        if unanswerable == "zero":
            pools = [*np.flatnonzero(size), languages]
            every = np.add.outer(np.arange(len(pool.query_language)) * (languages + 1), pools)
            missing = np.setdiff1d(every, keys)
            keys = np.concatenate([keys, missing])
            relevant = np.concatenate([relevant, np.zeros_like(missing)])
            values = {m: np.r_[v, np.zeros(len(missing))] for m, v in values.items()}
        query, language = np.divmod(keys, languages + 1)
        asked = pool.query_language[query]
        kind = np.where(language == languages, 2, np.where(language == asked, 0, 1))
        order = np.lexsort((query, language, asked, kind))
        code = ((kind * languages + asked) * (languages + 1) + language)[order]
        found, number, counts = np.unique(code, return_inverse=True, return_counts=True)
        values = {name: v[order] for name, v in values.items()}
        means = {name: np.bincount(number, weights=v) / counts for name, v in values.items()}
        best = self._ceilings(relevant[order], number, counts)
        self.settings = [
            self._setting(
                int(c),
                int(counts[i]),
                {name: float(m[i]) for name, m in means.items()},
                {name: float(m[i]) for name, m in best.items()},
            )
            for i, c in enumerate(found)
        ]
        self.scores = QueryScores(number, query[order], values)

    def _scored(self, group: Ints, ranks: Ints) -> tuple[Ints, Ints, dict[str, Floats]]:
        """The groups, how many relevant documents each has, and what it scores."""
        order = np.lexsort((ranks, group))
        group, ranks, grades = group[order], ranks[order], self.pool.grades[order]
        good = grades > 0
        keys, counts = np.unique(group[good], return_counts=True)
        begin = np.cumsum(np.r_[0, counts])
        others: Ints = np.searchsorted(group[~good], keys)
        others = np.r_[others, np.count_nonzero(~good)]
        relevant = RankedRelevant(begin, ranks[good], grades[good], others, ranks[~good])
        return keys, counts, {str(m): m.per_query(relevant, self.convention) for m in self.metrics}

    def _ceilings(self, relevant: Ints, number: Ints, n: Ints) -> dict[str, Floats]:
        """Means by setting of what the best ranking scores, which the counts decide."""
        counts, which = np.unique(relevant, return_inverse=True)
        best = RankedRelevant.perfect(counts)
        return {
            str(m): np.bincount(number, weights=m.per_query(best, self.convention)[which]) / n
            for m in self.metrics
        }

    def _setting(
        self, code: int, n: int, metrics: dict[str, float], ceilings: dict[str, float]
    ) -> Setting:
        languages = self.pool.languages
        rest, pool = divmod(code, len(languages) + 1)
        kind, asked = divmod(rest, len(languages))
        document_language = languages[pool] if pool < len(languages) else None
        return Setting(KINDS[kind], languages[asked], document_language, n, metrics, ceilings)


def _summary(settings: list[Setting], kind: str, what: str = "metrics") -> dict[str, float]:
    by_language: dict[str, list[dict[str, float]]] = {}
    for s in settings:
        if s.setting == kind:
            by_language.setdefault(s.query_language, []).append(getattr(s, what))
    names = next(iter(by_language.values()))[0] if by_language else ()
    return {
        name: float(np.mean([np.mean([m[name] for m in own]) for own in by_language.values()]))
        for name in names
    }


def embed(
    encoder: TextEncoder,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    progress: bool = False,
    folder: str | Path | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Queries [Q, D] and documents [P, D] of a data set, in its order.

    Args:
        folder: written there as ``queries.npy`` and ``documents.npy``, and given as memory maps:
            neither the texts of a streamed corpus nor its embeddings need to fit into memory.
    """
    size = (len(dataset.documents), encoder.dimension)
    queries = encoder.encode_queries(
        [q.text for q in dataset.queries], batch_size=batch_size, progress=progress
    )
    texts = (d.full_text for d in dataset.documents)
    if folder is None:
        rows = np.empty(size, dtype=np.float32)
        encoder.encode_documents(texts, batch_size=batch_size, progress=progress, out=rows)
        return queries, rows
    files = [Path(folder) / name for name in EMBEDDING_FILES]
    with atomic_file(files[1]) as temporary:
        mapped = np.lib.format.open_memmap(temporary, "w+", dtype=np.float32, shape=size)
        encoder.encode_documents(texts, batch_size=batch_size, progress=progress, out=mapped)
        mapped.flush()
        del mapped
    with atomic_file(files[0]) as temporary, temporary.open("wb") as file:
        np.save(file, queries)
    first, second = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    return first, second


def evaluate(
    encoder: TextEncoder,
    dataset: Dataset,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    convention: str = "trec_eval",
    unanswerable: Unanswerable = "drop",
    ties: Ties = "by-id",
    mix_at: int = 10,
    batch_size: int = 64,
    progress: bool = False,
    folder: str | Path | None = None,
    name: str = "model",
) -> Report:
    """Embeds a data set and judges the encoder in every setting.

    Args:
        convention: whose conventions the metrics follow, see :data:`hybridret.metrics.CONVENTIONS`.
        unanswerable: what becomes of a query without a relevant document in the pool: left out
            (the paper's protocol), or 0.
        ties: how documents of exactly the same score count, see :func:`rank_embeddings`.
        mix_at: how many of the best documents the language mix looks at.
        batch_size: texts embedded at a time.
        folder: where the embeddings are kept, see :func:`embed`.

    Raises:
        DataError: empty data set, unknown metric or convention, or an embedding that cannot be
            ranked.
    """
    pool_for(dataset, metrics, convention)  # an error now, not after the embedding
    queries, documents = embed(
        encoder, dataset, batch_size=batch_size, progress=progress, folder=folder
    )
    return evaluate_embeddings(
        queries, documents, dataset, similarity=encoder.config.similarity, metrics=metrics,
        convention=convention, unanswerable=unanswerable, ties=ties, mix_at=mix_at, name=name,
    )  # fmt: skip


def evaluate_embeddings(
    query_embeddings: Any,
    document_embeddings: Any,
    dataset: Dataset,
    *,
    similarity: Similarity = "cosine",
    metrics: Sequence[str] = DEFAULT_METRICS,
    convention: str = "trec_eval",
    unanswerable: Unanswerable = "drop",
    ties: Ties = "by-id",
    mix_at: int = 10,
    name: str = "embeddings",
) -> Report:
    """Judges embeddings [Q, D] and [P, D] in the order of the data set's queries and documents.

    Raises:
        DataError: see :func:`hybridret.ranking.rank_embeddings` and :func:`evaluate`.
    """
    tool = convention_named(convention)
    pool = pool_for(dataset, metrics, convention)
    ranks = rank_embeddings(
        pool, query_embeddings, document_embeddings, similarity=similarity, ties=ties,
        best=mix_at, ignore_identical_ids=tool.ignore_identical_ids,
    )  # fmt: skip
    return score(
        pool, ranks, metrics, name, convention=convention, unanswerable=unanswerable, mix_at=mix_at
    )
