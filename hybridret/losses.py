"""In-batch InfoNCE that never holds the N x M similarities.

:func:`infonce` takes numpy arrays (the value only) or torch tensors (with autograd). For
``mean`` and ``sum`` the gradients are made in the forward pass, 6 N M D operations in all, and
``backward`` is a multiplication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridret import _native

if TYPE_CHECKING:
    import torch

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS = ("mean", "sum", "none")


@overload
def infonce(
    queries: NDArray[np.float32],
    documents: NDArray[np.float32],
    labels: ArrayLike | None = None,
    *,
    temperature: float = 0.05,
    query_groups: ArrayLike | None = None,
    document_groups: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any: ...


@overload
def infonce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor = 0.05,
    query_groups: torch.Tensor | None = None,
    document_groups: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor: ...


def infonce(
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    query_groups: Any = None,
    document_groups: Any = None,
    reduction: Reduction = "mean",
) -> Any:
    """Cross-entropy of picking each query's document among all documents of the batch.

    ``loss_i = -log(exp(s_il) / sum_j exp(s_ij))`` with ``s_ij = <q_i, d_j> / temperature``,
    ``l = labels[i]``, over the documents j that are not masked (van den Oord et al. 2018,
    arXiv 1807.03748; with hard negatives as further documents, Karpukhin et al. 2020). Near
    convergence it is log1p of the negatives' share, exact where a softmax rounds to zero.

    Args:
        queries: float32 [N, D].
        documents: float32 [M, D], M >= N: positives first, then any further negatives.
        labels: int64 [N], the row of ``documents`` that answers each query; default 0 ... N-1.
        temperature: above zero; a torch scalar may take a gradient.
        query_groups: int64 [N], translation group of each row's positive.
        document_groups: int64 [M], translation group of each document; -1 matches nothing. A
            document of the row's group other than its label is no negative.
        reduction: ``mean`` or ``sum`` give a scalar, ``none`` [N].

    Returns:
        The float32 loss; for numpy a numpy scalar or array. NaN input gives a NaN loss.

    Raises:
        ValueError: shapes disagree, M < N, a label is out of range, or temperature is not positive.
        TypeError: embeddings are not float32, or labels or groups are not integers.
    """
    for name, given in (("queries", queries), ("documents", documents)):
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            raise TypeError(f"{name} must be an array or tensor, got {type(given).__name__}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    if len(queries.shape) == 2 and len(documents.shape) == 2 and len(documents) < len(queries):
        raise ValueError(
            f"each query needs a document of its own: got {len(queries)} queries "
            f"and {len(documents)} documents"
        )
    if type(queries).__module__.partition(".")[0] == "torch":
        from hybridret import _torch

        return _torch.infonce(
            queries, documents, labels, temperature, query_groups, document_groups, reduction
        )
    for name, array in (("queries", queries), ("documents", documents)):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            got = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name} must be a float32 numpy array or torch tensor, got {got}")
    check_temperature(float(temperature))
    lse, positive, _, _ = _native.infonce_forward(
        _unit_stride(queries),
        _unit_stride(documents),
        _integers("labels", np.arange(len(queries)) if labels is None else labels),
        query_groups=_integers("query_groups", query_groups),
        document_groups=_integers("document_groups", document_groups),
        scale=1.0 / float(temperature),
    )
    losses = row_losses(lse, positive)
    if reduction == "none":
        return losses
    total = losses.sum(dtype=np.float64)
    return np.float32(total / max(len(losses), 1) if reduction == "mean" else total)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless ``1 / temperature`` is a float32 that can scale a logit."""
    if not 1e-30 < temperature < 1e30:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def row_losses(
    negatives_lse: NDArray[np.float32], positive: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Loss of each row, float32 [N]: softplus(negatives_lse - positive)."""
    with np.errstate(invalid="ignore"):  # NaN is passed on without a warning
        losses = np.logaddexp(np.float32(0), negatives_lse - positive, dtype=np.float32)
    return np.asarray(losses)


def _unit_stride(array: NDArray[np.float32]) -> NDArray[np.float32]:
    whole_rows = array.ndim == 2 and array.size and array.strides[1] == array.itemsize
    return array if whole_rows else np.ascontiguousarray(array)


def _integers(name: str, values: Any) -> NDArray[np.int64] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if not array.size:
        return np.empty(array.shape, dtype=np.int64)
    if not np.can_cast(array.dtype, np.int64) or array.dtype == bool:
        raise TypeError(f"{name} must be integers that fit int64, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
