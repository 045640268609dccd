"""From a data set to a report: :class:`Evaluation`, and the functions that users call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._files import atomic_file
from hybridret._types import Similarity, Ties, Unanswerable, Vectors
from hybridret.data.table import Dataset
from hybridret.encoder.base import TextEncoder
from hybridret.errors import DataError
from hybridret.evaluation.metrics import DEFAULT_METRICS, find_convention, parse_metrics
from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings
from hybridret.evaluation.report import Report
from hybridret.evaluation.settings import score

EMBEDDING_FILES = ("queries.npy", "documents.npy")


class Evaluation:
    """A data set and how systems are judged on it; the pool is built once for all of them.

    Args: see :func:`evaluate`.

    Raises:
        DataError: empty data set, unknown metric or convention.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        metrics: Sequence[str] = DEFAULT_METRICS,
        convention: str = "trec_eval",
        unanswerable: Unanswerable = "drop",
        ties: Ties = "by-id",
        mix_at: int = 10,
    ) -> None:
        self.dataset = dataset
        self.metrics = parse_metrics(metrics)
        self.convention = find_convention(convention)
        self.unanswerable = unanswerable
        self.ties = ties
        self.mix_at = mix_at
        self.pool = Pool(
            dataset,
            tie_order=self.convention.tie_order,
            judged=any(metric.needs_judged for metric in self.metrics),
        )

    def judge(self, ranks: Ranks, name: str) -> Report:
        """The report of a system from the ranks of the pool's targets."""
        return score(
            self.pool,
            ranks,
            self.metrics,
            convention=self.convention,
            unanswerable=self.unanswerable,
            mix_at=self.mix_at,
            name=name,
        )

    def rank(
        self,
        query_embeddings: Any,
        document_embeddings: Any,
        similarity: Similarity,
        *,
        best: int | None = None,
    ) -> Ranks:
        """The ranks of embeddings; ``best`` documents of each query are kept, by default mix_at."""
        return rank_embeddings(
            self.pool,
            query_embeddings,
            document_embeddings,
            similarity=similarity,
            ties=self.ties,
            best=self.mix_at if best is None else best,
            ignore_identical_ids=self.convention.ignore_identical_ids,
        )


def embed(
    encoder: TextEncoder,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    progress: bool = False,
    folder: str | Path | None = None,
) -> tuple[Vectors, Vectors]:
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
        with temporary.open("r+b") as file:  # a full disk is an error now, a crash later
            os.posix_fallocate(file.fileno(), 0, max(temporary.stat().st_size, 1))
        encoder.encode_documents(texts, batch_size=batch_size, progress=progress, out=mapped)
        mapped.flush()
        del mapped
    with atomic_file(files[0]) as temporary, temporary.open("wb") as file:
        np.save(file, queries)
    return load_embeddings(files[0]), load_embeddings(files[1])


def load_embeddings(path: str | Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, as a memory map.

    Raises:
        DataError: no such file, or anything but one whole array of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # a header is a Python literal, and fails in as many ways
        # numpy's own words advise unpickling, which is never done here.
        raise DataError(f"{path}: not a whole .npy file of numbers") from None
    extra = path.stat().st_size - array.offset - array.nbytes
    if extra:
        raise DataError(f"{path}: {extra} bytes behind the array: more than one array, or damaged")
    return array


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
        convention: whose conventions the metrics follow, see
            :data:`hybridret.evaluation.metrics.CONVENTIONS`.
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
    evaluation = Evaluation(
        dataset,
        metrics=metrics,
        convention=convention,
        unanswerable=unanswerable,
        ties=ties,
        mix_at=mix_at,
    )
    vectors = embed(encoder, dataset, batch_size=batch_size, progress=progress, folder=folder)
    return evaluation.judge(evaluation.rank(*vectors, encoder.config.similarity), name)


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
        DataError: see :func:`hybridret.evaluation.ranking.rank_embeddings` and :func:`evaluate`.
    """
    evaluation = Evaluation(
        dataset,
        metrics=metrics,
        convention=convention,
        unanswerable=unanswerable,
        ties=ties,
        mix_at=mix_at,
    )
    ranks = evaluation.rank(query_embeddings, document_embeddings, similarity)
    return evaluation.judge(ranks, name)
