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
    by_scale: float
    rank: NDArray[np.int64]


def infonce(
    queries: NDArray[np.floating],
    documents: NDArray[np.floating],
    labels: NDArray[np.int64] | None = None,
    *,
    temperature: float,
    query_groups: NDArray[np.int64] | None = None,
    document_groups: NDArray[np.int64] | None = None,
    symmetric: bool = False,
    segments: list[tuple[int, int]] | None = None,
    log_bias: NDArray[np.floating] | None = None,
    negatives: str = "in-batch",
    normalize: bool = False,
    weights: NDArray[np.float64] | None = None,
) -> Loss:
    """Rows' losses, and gradients of their weighted sum (by default the mean)."""
    given = [queries.astype(np.float64), documents.astype(np.float64)]
    lengths = [np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in given]
    q, d = (x / (length if normalize else 1) for x, length in zip(given, lengths, strict=True))
    n, m = len(q), len(d)
    rows = np.arange(n)
    labels = rows if labels is None else labels
    weights = np.full(n, 1 / max(n, 1)) if weights is None else weights
    logits = q @ d.T / temperature + (0 if log_bias is None else log_bias.astype(np.float64))

    negative = np.ones((n, m), dtype=bool)
    if query_groups is not None:
        negative = ~((query_groups[:, None] == document_groups) & (query_groups[:, None] != -1))
    if segments is not None:
        ends = np.cumsum(np.array(segments), axis=0)
        negative &= np.searchsorted(ends[:, 0], rows, "right")[:, None] == np.searchsorted(
            ends[:, 1], np.arange(m), "right"
        )
    if negatives == "hard-only":
        negative[:, labels] = False
    negative[rows, labels] = False

    positive = logits[rows, labels]
    others = np.where(negative, logits, -np.inf)
    g = np.zeros((n, m))
    losses = np.zeros(n)
    halves = [(others, weights)]
    if symmetric:
        halves = [(others, weights / 2), (others.T, np.zeros(m))]
        halves[1][1][labels] = weights / 2
    for axis, (values, weight) in enumerate(halves):
        lse = log_sum_exp(values)
        gap = lse - positive if axis == 0 else lse[labels] - positive
        losses += np.logaddexp(0, gap) / len(halves)
        share = np.zeros(len(values))
        share[rows if axis == 0 else labels] = sigmoid(gap)
        share *= weight
        with np.errstate(invalid="ignore"):
            part = np.where(values > -np.inf, np.exp(values - lse[:, None]) * share[:, None], 0.0)
        g += part if axis == 0 else part.T
        g[rows, labels] -= share if axis == 0 else share[labels]
    by_scale = float((g * (q @ d.T)).sum())
    g /= temperature
    longest = max(np.linalg.norm(x, axis=1).max(initial=0) for x in (q, d))
    by = [g @ d, g.T @ q]
    terms = float(np.linalg.norm(g) * longest)
    if normalize:
        by = [
            np.where(length > 1e-12, (x - (x * v).sum(1, keepdims=True) * v) / length, 0.0)
            for x, v, length in zip(by, (q, d), lengths, strict=True)
        ]
        terms /= min(length.min(initial=1) for length in lengths)
    rank = 1 + (others > positive[:, None]).sum(1)
    return Loss(losses, by[0], by[1], terms, by_scale, rank)


def log_sum_exp(rows: Array) -> Array:
    top = np.max(rows, axis=1, initial=-1e300)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(rows - top[:, None]).sum(1))


def sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x > 0, 1, small) / (1 + small)


def to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def before(scores: Array, tie_order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The total order of one query's documents: score descending, then tie order ascending."""
    return np.lexsort((tie_order, -scores))


def relative(actual: NDArray[np.floating], expected: Array, terms: float = 0.0) -> float:
    """Frobenius distance, relative to ``expected`` or to the terms it is the sum of.

    What is far below float32's smallest normal number, 1.2e-38, may be zero.
    """
    size = max(float(np.linalg.norm(expected)), terms, 1e-32)
    return float(np.linalg.norm(actual - expected)) / size
