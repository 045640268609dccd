"""The arguments of the loss kernels: one record, in the order of the torch ops' schemas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

Reduction = Literal["mean", "sum", "none"]
Negatives = Literal["in-batch", "hard-only"]
Segments = Sequence[tuple[int, int]]
Array = Any  # of numpy or of torch
REDUCTIONS = ("mean", "sum", "none")
NEGATIVES = ("in-batch", "hard-only")
WORKSPACE = 4 << 30
"""Bytes of memory that the CUDA kernels may use in addition to inputs and gradients."""


class InBatchMetrics(NamedTuple):
    """Retrieval metrics within a batch: numpy arrays, or torch tensors without gradient."""

    accuracy: Any
    """float32 scalar: share of the queries whose positive has rank 1; NaN for an empty batch."""
    rank: Any
    """int32 [N]: 1 + the number of negatives with a higher logit than the positive; 0 if the
    query's loss is NaN."""


class InfoNCEStatistics(NamedTuple):
    """The two parts of a query's loss ``softplus(negatives_lse - positive)``."""

    negatives_lse: Any
    """float32 [N]: log-sum-exp of the logits of the query's negatives, -inf if it has none."""
    positive: Any
    """float32 [N]: logit of the query's positive, -inf if its label is -1."""
    column_negatives_lse: Any = None
    """float32 [M]: for each document, log-sum-exp of the logits of its negatives, which are
    queries; None if not requested."""


class LossOptions(TypedDict, total=False):
    """The options of :func:`hybridret.infonce` for type checkers."""

    temperature: float | torch.Tensor
    symmetric: bool
    query_groups: ArrayLike | torch.Tensor | None
    document_groups: ArrayLike | torch.Tensor | None
    segments: Segments | None
    log_bias: ArrayLike | torch.Tensor | None
    negatives: Negatives
    normalize: bool
    unit_norm: bool
    workspace: int
    reduction: Reduction


class Batch(NamedTuple):
    """A batch and the options that define its logits, as numpy arrays or torch tensors.

    The schemas and fakes of the torch ops and the calls of both backends are built from it.
    """

    queries: Array  # [N, D]
    documents: Array  # [M, D]
    labels: Array | None  # int64 [N]; None: 0 ... N-1
    query_groups: Array | None  # int64 [N]
    document_groups: Array | None  # int64 [M]
    segments: Array | None  # int64 [S, 2] on the CPU: number of queries and documents of each
    log_bias: Array | None  # float32 [M]
    scale: Array  # float32 scalar: 1 / temperature
    normalize: bool
    unit_norm: bool
    hard_only: bool
    labels_elsewhere: bool  # a label may be -1: that query's positive is in another batch
    workspace: int  # bytes, used by CUDA only
    logit_bound: float  # an upper bound of the absolute logits; 0: the host knows none


class Loss(NamedTuple):
    """Further arguments of the op ``infonce``: what to compute, in the order of its schema."""

    symmetric: bool
    mean: bool
    ranks: bool
    gradients: bool


class Statistics(NamedTuple):
    """Further arguments of the op ``infonce_statistics``, in the order of its schema."""

    columns: bool
    ranks: bool


def schema(*records: type[Any]) -> str:
    """The argument list of a torch op whose arguments are the fields of these records."""
    kinds = {"Array": "Tensor", "Array | None": "Tensor?"}
    return ", ".join(
        f"{kinds.get(kind.__forward_arg__, kind.__forward_arg__)} {name}"
        for record in records
        for name, kind in record.__annotations__.items()
    )


class Backend(Protocol):
    """Checks and conversions of a user's arguments, for numpy or for torch.

    Each raises TypeError or ValueError.
    """

    def embeddings(self, queries: Any, documents: Any) -> tuple[Array, Array]: ...
    def integers(self, name: str, given: Any, queries: Array) -> Array | None: ...
    def floats(self, name: str, given: Any, queries: Array) -> Array | None: ...
    def scale(self, temperature: Any, queries: Array) -> Array: ...
    def segments(self, pairs: list[list[int]]) -> Array: ...


def make_batch(
    backend: Backend,
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    query_groups: Any = None,
    document_groups: Any = None,
    segments: Segments | None = None,
    log_bias: Any = None,
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    negatives: str = "in-batch",
    labels_elsewhere: bool = False,
) -> Batch:
    """Builds the record from a user's arguments, after the checks here and in the backend.

    Raises:
        ValueError, TypeError: see :func:`hybridret.infonce`.
    """
    for name, given in (("queries", queries), ("documents", documents)):
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            raise TypeError(f"{name} must be an array or tensor, got {type(given).__name__}")
        if len(given.shape) != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {list(given.shape)}")
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives must be one of {', '.join(NEGATIVES)}, got {negatives!r}")
    if normalize and unit_norm:
        raise ValueError("normalize and unit_norm exclude each other: give one of them")
    if len(documents) < len(queries) and not labels_elsewhere:
        raise ValueError(
            f"there must be at least as many documents as queries, got {len(queries)} queries and "
            f"{len(documents)} documents"
        )
    hard_only = negatives == "hard-only"
    if hard_only and labels is None and len(documents) == len(queries) > 0:
        raise ValueError(
            f"negatives='hard-only' needs documents besides the positives, got {len(queries)} "
            f"queries and {len(documents)} documents"
        )
    queries, documents = backend.embeddings(queries, documents)
    log_bias = backend.floats("log_bias", log_bias, queries)
    scale = backend.scale(temperature, queries)
    is_bounded = (normalize or unit_norm) and log_bias is None and is_number(temperature)
    return Batch(
        queries=queries,
        documents=documents,
        labels=backend.integers("labels", labels, queries),
        query_groups=backend.integers("query_groups", query_groups, queries),
        document_groups=backend.integers("document_groups", document_groups, queries),
        segments=None if segments is None else backend.segments(_pairs(segments)),
        log_bias=log_bias,
        scale=scale,
        normalize=normalize,
        unit_norm=unit_norm,
        hard_only=hard_only,
        labels_elsewhere=labels_elsewhere,
        workspace=workspace,
        # unit_norm allows lengths of up to 1.01: a product of up to 1.0201
        logit_bound=1.03 / temperature if is_bounded else 0.0,
    )


def is_number(temperature: Any) -> bool:
    return isinstance(temperature, int | float | np.floating)


def check_temperature(temperature: Any) -> None:
    """Raises TypeError or ValueError unless ``1 / temperature`` is a usable float32 scale."""
    if not is_number(temperature):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 1e-30 < temperature < 1e30:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _pairs(segments: Segments) -> list[list[int]]:
    try:
        pairs = [[index(queries), index(documents)] for queries, documents in segments]
    except (TypeError, ValueError):
        pairs = [[-1, -1]]
    if any(not 0 <= count < 2**62 for pair in pairs for count in pair):
        raise ValueError(
            f"segments must be pairs of integers (queries, documents), got {segments!r}"
        )
    return pairs


def losses(
    softplus: Callable[[Array], Array],
    lse: Array,
    positive: Array,
    column_lse: Array | None,
    labels: Array | None,
) -> Array:
    """The loss of each query [N] from its statistics; with ``column_lse`` the symmetric loss."""
    by_query = softplus(lse - positive)
    if column_lse is None:
        return by_query
    if labels is None:
        own = column_lse[: len(positive)]
    else:  # clipped: a label out of range already made its query's loss NaN
        own = column_lse[labels.clip(0, max(len(column_lse) - 1, 0))]
    return (by_query + softplus(own - positive)) / 2
