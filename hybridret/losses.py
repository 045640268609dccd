"""In-batch InfoNCE that never holds the N x M similarities.

:func:`infonce` takes numpy arrays (the value only) or torch tensors (with autograd). For
``mean`` and ``sum`` the gradients are made in the forward pass, 6 N M D operations in all (8 for
the symmetric loss), and ``backward`` is a multiplication. :func:`infonce_statistics` are the parts
it is made of, for negatives that are spread over devices or memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridret import _native

if TYPE_CHECKING:
    import torch

Reduction = Literal["mean", "sum", "none"]
Negatives = Literal["in-batch", "hard-only"]
WORKSPACE = 4 << 30
"""Bytes the CUDA kernels may take beside inputs and gradients."""
Segments = Sequence[tuple[int, int]]
_REDUCTIONS = ("mean", "sum", "none")
_NEGATIVES = ("in-batch", "hard-only")


class InfoNCEStats(NamedTuple):
    """How well a batch was told apart. For numpy, arrays; for torch, tensors without gradient."""

    accuracy: Any
    """float32 scalar: share of the rows whose positive no negative outranks; NaN without rows."""
    rank: Any
    """int32 [N]: 1 + the number of negatives with a higher logit than the positive; 0 where the
    loss is NaN."""


class InfoNCEStatistics(NamedTuple):
    """What the loss of a row is made of: ``softplus(negatives_lse - positive)``."""

    negatives_lse: Any
    """float32 [N]: log-sum-exp of the row's negatives' logits, -inf where there are none."""
    positive: Any
    """float32 [N]: logit of the row's positive, -inf where its label is -1."""
    column_negatives_lse: Any = None
    """float32 [M], the same over the rows for each document, or None."""


@overload
def infonce(
    queries: NDArray[Any],
    documents: NDArray[Any],
    labels: ArrayLike | None = None,
    *,
    temperature: float = 0.05,
    symmetric: bool = False,
    query_groups: ArrayLike | None = None,
    document_groups: ArrayLike | None = None,
    segments: Segments | None = None,
    log_bias: ArrayLike | None = None,
    negatives: Negatives = "in-batch",
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    reduction: Reduction = "mean",
    return_stats: bool = False,
) -> Any: ...


@overload
def infonce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor = 0.05,
    symmetric: bool = False,
    query_groups: torch.Tensor | None = None,
    document_groups: torch.Tensor | None = None,
    segments: Segments | None = None,
    log_bias: torch.Tensor | None = None,
    negatives: Negatives = "in-batch",
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    reduction: Reduction = "mean",
    return_stats: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def infonce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor = 0.05,
    symmetric: bool = False,
    query_groups: torch.Tensor | None = None,
    document_groups: torch.Tensor | None = None,
    segments: Segments | None = None,
    log_bias: torch.Tensor | None = None,
    negatives: Negatives = "in-batch",
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    reduction: Reduction = "mean",
    return_stats: Literal[True],
) -> tuple[torch.Tensor, InfoNCEStats]: ...


def infonce(
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    symmetric: bool = False,
    query_groups: Any = None,
    document_groups: Any = None,
    segments: Segments | None = None,
    log_bias: Any = None,
    negatives: Negatives = "in-batch",
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    reduction: Reduction = "mean",
    return_stats: bool = False,
) -> Any:
    """Cross-entropy of picking each query's document among all documents of the batch.

    ``loss_i = -log(exp(s_il) / sum_j exp(s_ij))`` with ``s_ij = <q_i, d_j> / temperature +
    log_bias_j``, ``l = labels[i]``, over the documents j that are not masked (van den Oord et al.
    2018, arXiv 1807.03748; with hard negatives as further documents, Karpukhin et al. 2020). Near
    convergence it is log1p of the negatives' share, exact where a softmax rounds to zero. The same
    bits in every run and for every number of threads.

    Args:
        queries: [N, D], float32, bfloat16 or float16; sums and the loss are float32.
        documents: [M, D], of the same dtype, M >= N: positives first, then any further negatives.
        labels: int64 [N], the row of ``documents`` that answers each query; default 0 ... N-1.
        temperature: above zero; a torch scalar may take a gradient.
        symmetric: half of this loss plus half of the same over the columns that are labels: each
            such document picks its query among those not masked for it. Labels must differ.
        query_groups: int64 [N], translation group of each row's positive.
        document_groups: int64 [M], translation group of each document; -1 matches nothing. A
            document of the row's group other than its label is no negative.
        segments: (rows, columns) of consecutive blocks of the batch that share no negatives, the
            languages of a mixed batch for instance; their sums are N and M, a row's label lies in
            its block. What is outside the blocks is never computed.
        log_bias: float32 [M], added to each document's logits, say minus the log of how often it is
            drawn. Takes no gradient.
        negatives: ``in-batch``, or ``hard-only``: a document that is some row's label is nobody's
            negative (Eq. 1 of arXiv 2408.10536).
        normalize: divide every vector by its length (at least 1e-12, as in
            ``torch.nn.functional.normalize``). A zero vector gets no gradient.
        unit_norm: promise that all vectors have length 1; the loss (with segments, of the segment)
            is NaN if one deviates by more than 0.001, in 16 bits by more than 0.01.
        workspace: bytes that the CUDA kernels may take beside inputs and gradients; they take less
            where less is of use.
        reduction: ``mean`` or ``sum`` give a scalar, ``none`` [N].
        return_stats: also return :class:`InfoNCEStats`, of the rows.

    On a GPU (compute capability 8.0 or newer) the logits are products of the vectors as they are;
    for bfloat16 and float16 the weights of the gradients, and the vectors they are multiplied with,
    are rounded to bfloat16. float32 is the sum of three bfloat16 parts, exactly, and its products
    lose nothing above 2^-24. The host never reads what is on the GPU: where a label is out of range
    or a temperature not positive, the loss is NaN, and the labels of a symmetric loss are trusted
    to differ.

    Returns:
        The float32 loss; for numpy a numpy scalar or array. NaN input gives a NaN loss. With
        ``return_stats``, (loss, stats).

    Raises:
        ValueError: shapes or dtypes disagree, M < N, a label is out of range, an option is unknown
            or contradicts another, or temperature is not positive.
        TypeError: embeddings are not floats of 16 or 32 bits, or labels or groups not integers.
        RuntimeError: this build has no CUDA kernels, the GPU cannot run them, or they need more
            workspace (the message says how much). Or a second derivative is asked for: derivatives
            come from ``backward`` and ``torch.autograd.grad``; there is no forward mode and no
            ``torch.func``.
    """
    _check_embeddings(queries, documents)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    if negatives not in _NEGATIVES:
        raise ValueError(f"negatives must be one of {', '.join(_NEGATIVES)}, got {negatives!r}")
    if normalize and unit_norm:
        raise ValueError("unit_norm says that vectors need no normalize: give one of them")
    if len(documents) < len(queries):
        raise ValueError(
            f"each query needs a document of its own: got {len(queries)} queries "
            f"and {len(documents)} documents"
        )
    hard_only = negatives == "hard-only"
    if hard_only and symmetric:
        raise ValueError("hard-only negatives have no symmetric loss: no query is a negative")
    if hard_only and labels is None and len(documents) == len(queries) > 0:
        raise ValueError(
            f"negatives='hard-only' needs documents beyond the positives, got {len(queries)} "
            f"queries and {len(documents)} documents"
        )
    if _is_torch(queries):
        from hybridret import _torch

        return _torch.infonce(
            _torch.batch(
                queries, documents, labels, temperature, query_groups, document_groups, segments,
                log_bias, normalize, unit_norm, hard_only, workspace,
            ),
            symmetric, reduction, return_stats,
        )  # fmt: skip
    batch = _batch(
        queries, documents, labels, temperature, query_groups, document_groups, segments, log_bias,
        normalize=normalize, unit_norm=unit_norm, hard_only=hard_only,
    )  # fmt: skip
    lse, positive, column_lse, rank, *_ = batch.forward(columns=symmetric, ranks=return_stats)
    losses = _softplus(lse, positive)
    if symmetric:
        own = np.arange(len(queries)) if labels is None else np.asarray(labels, dtype=np.int64)
        losses = (losses + _softplus(column_lse[own], positive)) / np.float32(2)
    loss: Any = losses
    if reduction != "none":
        total = losses.sum(dtype=np.float64)
        loss = np.float32(total / max(len(losses), 1) if reduction == "mean" else total)
    if not return_stats:
        return loss
    accuracy = (rank == 1).mean(dtype=np.float32) if len(rank) else np.float32(np.nan)
    return loss, InfoNCEStats(accuracy, rank)


def infonce_statistics(
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    columns: bool = False,
    query_groups: Any = None,
    document_groups: Any = None,
    log_bias: Any = None,
    normalize: bool = False,
    workspace: int = WORKSPACE,
) -> InfoNCEStatistics:
    """The log-sum-exp of each row's negatives and the logit of its positive, apart.

    ``softplus(negatives_lse - positive)`` is the loss of :func:`infonce`. Where the documents are
    spread (over devices, over memory), their log-sum-exps add up by ``logaddexp`` and the positive
    is the largest; for torch tensors all of this takes gradients, each share of which is computed
    from the completed sums, again without the N x M logits.

    Args:
        queries, documents, temperature, query_groups, document_groups, log_bias, normalize,
            workspace: as in :func:`infonce`; there may be fewer documents than queries.
        labels: int64 [N]; -1 where the row's positive is not among these documents: all of them are
            negatives.
        columns: also the statistics of each document over the rows. Labels must differ.

    Returns:
        InfoNCEStatistics, arrays or tensors like the input.

    Raises:
        As :func:`infonce`.
    """
    _check_embeddings(queries, documents)
    lse: Any
    positive: Any
    column_lse: Any
    if _is_torch(queries):
        from hybridret import _torch

        batch = _torch.batch(
            queries, documents, labels, temperature, query_groups, document_groups, None, log_bias,
            normalize, False, False, workspace,
        )  # fmt: skip
        lse, positive, column_lse = _torch.statistics(batch, columns)
    else:
        native = _batch(
            queries, documents, labels, temperature, query_groups, document_groups, None, log_bias,
            normalize=normalize, labels_elsewhere=True,
        )  # fmt: skip
        lse, positive, column_lse, *_ = native.forward(columns=columns)
    return InfoNCEStatistics(lse, positive, column_lse if columns else None)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless ``1 / temperature`` is a float32 that can scale a logit."""
    if not isinstance(temperature, int | float | np.floating):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 1e-30 < temperature < 1e30:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch" or any(
        base.__module__.partition(".")[0] == "torch" for base in type(array).__mro__
    )


def _check_embeddings(queries: Any, documents: Any) -> None:
    for name, given in (("queries", queries), ("documents", documents)):
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            raise TypeError(f"{name} must be an array or tensor, got {type(given).__name__}")
        if len(given.shape) != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {list(given.shape)}")


def _softplus(lse: NDArray[np.float32], positive: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # NaN is passed on without a warning
        return np.asarray(np.logaddexp(np.float32(0), lse - positive, dtype=np.float32))


def _batch(
    queries: Any,
    documents: Any,
    labels: Any,
    temperature: Any,
    query_groups: Any,
    document_groups: Any,
    segments: Segments | None,
    log_bias: Any,
    **options: bool,
) -> _native.InfoNCE:
    check_temperature(temperature)
    return _native.InfoNCE(
        _embeddings("queries", queries),
        _embeddings("documents", documents),
        _integers("labels", np.arange(len(queries)) if labels is None else labels),
        query_groups=_integers("query_groups", query_groups),
        document_groups=_integers("document_groups", document_groups),
        segments=None
        if segments is None
        else np.array(segment_pairs(segments), dtype=np.int64).reshape(-1, 2),
        log_bias=None if log_bias is None else np.ascontiguousarray(log_bias, dtype=np.float32),
        scale=1.0 / float(temperature),
        **options,
    )


def _embeddings(name: str, array: Any) -> NDArray[Any]:
    names = ("float32", "float16", "bfloat16")
    if not isinstance(array, np.ndarray) or array.dtype.name not in names:
        got = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise TypeError(f"{name} must be a numpy array of {', '.join(names)}, got {got}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        array = array.view(np.uint16)
    whole_rows = array.size and array.strides[1] == array.itemsize
    return array if whole_rows else np.ascontiguousarray(array)


def segment_pairs(segments: Segments) -> list[list[int]]:
    """[[rows, columns], ...]. Raises ValueError for anything else."""
    try:
        pairs = [[index(rows), index(columns)] for rows, columns in segments]
    except (TypeError, ValueError):
        pairs = [[-1, -1]]
    if any(not 0 <= count < 2**62 for pair in pairs for count in pair):
        raise ValueError(f"segments must be pairs of integers (rows, columns), got {segments!r}")
    return pairs


def _integers(name: str, values: Any) -> NDArray[np.int64] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if not array.size:
        return np.empty(array.shape, dtype=np.int64)
    if not np.can_cast(array.dtype, np.int64) or array.dtype == bool:
        raise TypeError(f"{name} must be integers that fit int64, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
