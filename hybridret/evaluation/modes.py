"""The ranks of a search by words and of a hybrid one, as a retriever makes them.

Of a hybrid search the first hundred of each ranking are fused; documents in neither follow by their
similarity, as they would if more were asked for. Of a search by words those that have none of the
query's words come last.
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
from hybridret.serving.words import DEPTH, FUSION, Mode

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
    in_all, in_language = np.zeros((2, len(pool.targets)), dtype=np.int64)
    count = min(best, len(dataset.documents))
    top = np.zeros((len(dataset.queries), count), dtype=np.int64)
    top_scores = np.zeros((len(dataset.queries), count))
    everything = np.arange(len(dataset.documents))
    by_language = [np.flatnonzero(pool.document_language == n) for n in range(len(pool.languages))]
    near = _Similarities(query_embeddings, document_embeddings, similarity, hybrid=mode == "hybrid")
    with progress_bar(len(dataset.queries), f"Searching ({mode})", enabled=progress) as bar:
        for q, query in enumerate(dataset.queries):
            found, similar = finder.search(query.text), near.of(q)
            span = slice(pool.target_begin[q], pool.target_begin[q + 1])
            targets = pool.targets[span]
            whole, scores = _ranked(found.among(everything), similar, pool.tie_order)
            in_all[span] = whole[targets]
            top[q] = np.argsort(whole)[:count]
            top_scores[q] = scores[top[q]]
            for language in set(pool.document_language[targets].tolist()):
                members = by_language[language]
                within, _ = _ranked(
                    found.among(members),
                    None if similar is None else similar[members],
                    pool.tie_order[members],
                )
                own = np.flatnonzero(pool.document_language[targets] == language)
                in_language[span.start + own] = within[np.searchsorted(members, targets[own])]
            bar.update(1)
    return Ranks(in_language, in_all, None, top, top_scores)


class _Similarities:
    """Of the documents with each query, if it is a hybrid search."""

    def __init__(
        self, queries: Any, documents: Any, similarity: Similarity, *, hybrid: bool
    ) -> None:
        self._lengths: Any = 1.0
        self._hybrid = hybrid
        if not hybrid:
            return
        self._queries = np.asarray(queries)
        self._documents = np.asarray(documents)
        if similarity == "cosine":
            lengths = [
                np.linalg.norm(self._documents[start : start + _TEXTS].astype(np.float64), axis=1)
                for start in range(0, len(self._documents), _TEXTS)
            ]
            self._lengths = np.concatenate(lengths)
            if not self._lengths.all():
                row = int(np.argmin(self._lengths))
                raise DataError(f"document embedding in row {row} is zero")

    def of(self, query: int) -> Any:
        if not self._hybrid:
            return None
        return (self._documents @ self._queries[query]) / self._lengths


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

    def search(self, query: str) -> _Found:
        counts = self.counts.of(self.connection, self.words.query(query), self.size)
        return _Found(self, words.turns(counts))

    def scores(self, terms: list[str]) -> Floats:
        """BM25 of each text, 0 for those without one of the terms."""
        found = np.zeros(self.size)
        for rows, scores in words.ranked(self.connection, 1, terms):
            found[rows] = scores
        return found


class _Found:
    """What a query finds: the terms of a turn are looked for where those before found nothing."""

    def __init__(self, finder: _Finder, turns: list[list[str]]) -> None:
        self._finder = finder
        self._turns = turns
        self._scores: list[Floats] = []

    def among(self, members: Ints) -> Floats:
        """BM25 of some of the texts."""
        for turn, terms in enumerate(self._turns):
            if turn == len(self._scores):
                self._scores.append(self._finder.scores(terms))
            if (found := self._scores[turn][members]).any():
                return found
        return np.zeros(len(members))


def _ranked(bm25: Floats, similar: Any, tie_order: Ints) -> tuple[Ints, Floats]:
    """Rank of each document from 1, and its score: BM25, or the fused one if there are
    similarities."""
    if similar is None:
        return _ranks(bm25, tie_order), bm25
    near, lexical = _ranks(similar, tie_order), _ranks(bm25, tie_order)
    fused = np.where(near <= DEPTH, 1 / (FUSION + near), 0.0)
    fused += np.where((lexical <= DEPTH) & (bm25 > 0), 1 / (FUSION + lexical), 0.0)
    return _ranks(fused, near), fused


def _ranks(scores: Any, tie_order: Ints) -> Ints:
    """The rank of each score from 1, the highest first; of equal ones the lower order."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.lexsort((tie_order, -scores))] = np.arange(1, len(scores) + 1)
    return ranks
