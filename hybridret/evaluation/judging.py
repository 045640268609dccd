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
from hybridret.evaluation.modes import mode_ranks
from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings
from hybridret.evaluation.report import Report
from hybridret.evaluation.settings import score
from hybridret.serving.words import Mode

EMBEDDING_FILES = ("queries.npy", "documents.npy")


class Evaluation:
    """A data set and how systems are evaluated on it; the pool is built once for all of them.

    Its arguments are those of :func:`evaluate`.

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
        """The report of one system, from the ranks of the pool's targets."""
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
        """The targets' ranks; keeps the ``best`` top documents of each query (default: mix_at)."""
        return rank_embeddings(
            self.pool,
            query_embeddings,
            document_embeddings,
            similarity=similarity,
            ties=self.ties,
            best=self.mix_at if best is None else best,
            ignore_identical_ids=self.convention.ignore_identical_ids,
        )

    def rank_mode(
        self,
        mode: Mode,
        encoder: TextEncoder,
        query_embeddings: Any,
        document_embeddings: Any,
        *,
        progress: bool = False,
    ) -> Ranks:
        """The targets' ranks in a search by words or a hybrid one.

        Raises:
            DataError: see :func:`hybridret.evaluation.modes.mode_ranks`, or the convention has
                another order of ties.
        """
        if self.ties != "by-id" or self.convention.ignore_identical_ids:
            raise DataError(
                "a search by words is evaluated with ties by id, and keeps documents with the "
                "query's id: not with other ties or the convention beir"
            )
        return mode_ranks(
            mode,
            self.pool,
            encoder.tokenizer,
            query_embeddings,
            document_embeddings,
            encoder.config.similarity,
            best=self.mix_at,
            progress=progress,
        )


def embed(
    encoder: TextEncoder,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    progress: bool = False,
    folder: str | Path | None = None,
) -> tuple[Vectors, Vectors]:
    """Embeddings of a data set's queries [Q, D] and documents [P, D], float32, in its order.

    Args:
        folder: the embeddings are written there as ``queries.npy`` and ``documents.npy`` and
            returned as memory maps: neither the texts of a streamed corpus nor its embeddings have
            to fit into memory.
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
        with temporary.open("r+b") as file:  # a full disk: an error here instead of SIGBUS later
            if hasattr(os, "posix_fallocate"):  # not on macOS
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
        DataError: no such file, or it is not exactly one complete array of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # the header is a Python literal: parsing it can raise many exceptions
        # numpy's own message suggests allow_pickle, which is never used here.
        raise DataError(f"{path}: not a complete .npy file of numbers") from None
    extra = path.stat().st_size - array.offset - array.nbytes
    if extra:
        raise DataError(f"{path}: {extra} bytes after the array: more than one array, or damaged")
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
    mode: Mode = "dense",
    name: str = "model",
) -> Report:
    """Embeds a data set and evaluates the encoder in every setting.

    Args:
        mode: by vectors, by words (BM25 on the encoder's subwords), or hybrid: both, fused; see
            :meth:`hybridret.Retriever.search`.
        convention: the tool whose definitions the metrics follow, a name in
            :data:`hybridret.evaluation.metrics.CONVENTIONS`.
        unanswerable: a query without a relevant document in the pool is excluded from the mean
            (``drop``, as in arXiv 2408.10536) or scores 0 (``zero``).
        ties: order of documents with exactly equal scores, see :func:`rank_embeddings`.
        mix_at: number of top-ranked documents whose languages are counted.
        batch_size: texts in a batch of the encoder.
        folder: where the embeddings are written, see :func:`embed`.

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
    vectors: tuple[Any, Any] = (None, None)
    if mode != "words":
        vectors = embed(encoder, dataset, batch_size=batch_size, progress=progress, folder=folder)
    similarity = encoder.config.similarity
    if mode == "dense":
        ranks = evaluation.rank(*vectors, similarity)
    else:
        ranks = evaluation.rank_mode(mode, encoder, *vectors, progress=progress)
    return evaluation.judge(ranks, name)


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
    """Evaluates embeddings [Q, D] and [P, D], in the order of the data's queries and documents.

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
