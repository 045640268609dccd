"""The ranks of a search by words and of a hybrid one, as :mod:`hybridret.serving.words` has them.

A retriever fuses the first documents of two rankings; here both are whole, so that every document
has a rank.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import numpy as np

from hybridret._progress import progress_bar
from hybridret._types import Floats, Ints, Similarity
from hybridret.encoder.tokenization import Tokenizer
from hybridret.errors import DataError
from hybridret.evaluation.ranking import Pool, Ranks
from hybridret.serving import words
from hybridret.serving.words import FUSION, Mode

_TEXTS = 10_000  # that are made terms at a time


def mode_ranks(
    mode: Mode,
    pool: Pool,
    tokenizer: Tokenizer,
    query_embeddings: Any,
    document_embeddings: Any,
    similarity: Similarity,
    *,
    best: int = 0,
    progress: bool = False,
) -> Ranks:
    """Ranks of the targets where documents are searched by words, or by words and vectors.

    Args:
        mode: ``words`` or ``hybrid``.
        tokenizer: whose subwords are the words.
        query_embeddings, document_embeddings: [Q, D] and [P, D], for ``hybrid``.
        best: number of top documents to keep for each query.

    Raises:
        DataError: another mode, or this Python's SQLite has no FTS5.
    """
    if mode not in ("words", "hybrid"):
        raise DataError(f"mode must be words or hybrid, got {mode!r}")
    if not words.available():
        raise DataError("this Python's SQLite has no FTS5, which a search by words needs")
    dataset = pool.dataset
    finder = _Finder(tokenizer, [d.full_text for d in dataset.documents])
    ranks = Ranks(np.zeros(len(pool.targets), np.int64), np.zeros(len(pool.targets), np.int64))
    count = min(best, len(dataset.documents))
    top = np.zeros((len(dataset.queries), count), dtype=np.int64)
    top_scores = np.zeros((len(dataset.queries), count))
    by_language = [np.flatnonzero(pool.document_language == n) for n in range(len(pool.languages))]
    if mode == "hybrid":
        queries = np.asarray(query_embeddings, dtype=np.float32)
        documents = _prepared(document_embeddings, similarity)
    with progress_bar(len(dataset.queries), f"Searching ({mode})", enabled=progress) as bar:
        for q, query in enumerate(dataset.queries):
            bm25 = finder.scores(query.text)
            near = documents @ queries[q] if mode == "hybrid" else None
            span = slice(pool.target_begin[q], pool.target_begin[q + 1])
            targets = pool.targets[span]
            scores = _scores(bm25, near, pool.tie_order)
            whole = _ranks(scores, pool.tie_order)
            ranks.in_all[span] = whole[targets]
            top[q] = np.argsort(whole)[:count]
            top_scores[q] = scores[top[q]]
            for language in set(pool.document_language[targets].tolist()):
                members = by_language[language]
                ties = pool.tie_order[members]
                scores = _scores(bm25[members], None if near is None else near[members], ties)
                own = np.flatnonzero(pool.document_language[targets] == language)
                places = np.searchsorted(members, targets[own])
                ranks.in_language[span.start + own] = _ranks(scores, ties)[places]
            bar.update(1)
    return Ranks(ranks.in_language, ranks.in_all, None, top, top_scores)


class _Finder:
    """A search by words in texts."""

    def __init__(self, tokenizer: Tokenizer, texts: list[str]) -> None:
        self.words = words.Words(tokenizer)
        self.size = len(texts)
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        words.create(self.connection, 1)
        self.connection.execute("BEGIN")
        for start in range(0, len(texts), _TEXTS):
            some = self.words.documents(texts[start : start + _TEXTS])
            words.add(self.connection, 1, range(start, start + len(some)), some)
        self.connection.execute("COMMIT")
        self.counts = words.Counts(1)

    def scores(self, query: str) -> Floats:
        """BM25 of each text, 0 for those without one of the words."""
        found = np.zeros(self.size)
        counts = self.counts.of(self.connection, self.words.query(query), self.size)
        for rows, scores in words.ranked(self.connection, 1, words.chosen(counts)):
            found[rows] = scores
        return found


def _prepared(embeddings: Any, similarity: Similarity) -> Any:
    """Document embeddings whose products with a query are in the order of the similarities."""
    rows = np.asarray(embeddings)
    if similarity == "dot":
        return rows
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        raise DataError(f"document embedding in row {int(np.argmin(norms))} is zero")
    return (rows / norms).astype(np.float32)


def _scores(bm25: Floats, near: Any, tie_order: Ints) -> Floats:
    """Of a search by words, or with ``near``, the similarities, of a hybrid one."""
    if near is None:
        return bm25
    found = 1 / (FUSION + _ranks(near, tie_order))
    return np.asarray(found + (bm25 > 0) / (FUSION + _ranks(bm25, tie_order)))


def _ranks(scores: Any, tie_order: Ints) -> Ints:
    """The rank of each score from 1, the highest first; of equal ones the lower order."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.lexsort((tie_order, -scores))] = np.arange(1, len(scores) + 1)
    return ranks
