"""Slow, obvious float64 twins of the native kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Loss(NamedTuple):
    rows: Array
    by_query: Array
    by_document: Array
    terms: float  # size of what the gradients sum up, where it cancels


def infonce(
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    temperature: float,
    query_groups: NDArray[np.int64] | None = None,
    document_groups: NDArray[np.int64] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Loss:
    """Rows' losses, and gradients of their weighted sum (by default the mean)."""
    q, d = queries.astype(np.float64), documents.astype(np.float64)
    n, m = len(q), len(d)
    labels = np.arange(n) if labels is None else labels
    weights = np.full(n, 1 / max(n, 1)) if weights is None else weights
    logits = q @ d.T / temperature
    negative = np.ones((n, m), dtype=bool)
    if query_groups is not None:
        negative = ~((query_groups[:, None] == document_groups) & (query_groups[:, None] != -1))
    negative[np.arange(n), labels] = False
    positive = logits[np.arange(n), labels]
    others = np.where(negative, logits, -np.inf)
    top = np.max(others, axis=1, initial=-1e300)
    with np.errstate(divide="ignore"):
        lse = top + np.log(np.exp(others - top[:, None]).sum(1))
    gap = lse - positive
    rows = np.logaddexp(0, gap)
    small = np.exp(-np.abs(gap))
    share = np.where(gap > 0, 1, small) / (1 + small)  # sigmoid(gap)
    with np.errstate(invalid="ignore"):
        g = np.where(negative, np.exp(others - lse[:, None]) * share[:, None], 0.0)
    g[np.arange(n), labels] = -share
    g *= weights[:, None] / temperature
    longest = max(np.linalg.norm(x, axis=1).max(initial=0) for x in (q, d))
    return Loss(rows, g @ d, g.T @ q, float(np.linalg.norm(g) * longest))


def before(scores: Array, tie_order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The total order of one query's documents: score descending, then tie order ascending."""
    return np.lexsort((tie_order, -scores))


def relative(actual: NDArray[np.floating], expected: Array, terms: float = 0.0) -> float:
    """Frobenius distance, relative to ``expected`` or to the terms it is the sum of.

    What is far below float32's smallest normal number, 1.2e-38, may be zero.
    """
    size = max(float(np.linalg.norm(expected)), terms, 1e-32)
    return float(np.linalg.norm(actual - expected)) / size
