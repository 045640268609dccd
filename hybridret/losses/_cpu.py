"""The CPU kernels on numpy arrays: no torch here. uint16 holds the bits of bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret import _native
from hybridret.losses import _options
from hybridret.losses._options import Batch, InBatchMetrics, InfoNCEStatistics

_DTYPES = ("float32", "float16", "bfloat16")


def native(batch: Batch) -> _native.InfoNCE:
    """The batch as the extension takes it; the memory is shared."""
    fields = batch._asdict()
    for name in ("workspace", "logit_bound"):  # CUDA's
        del fields[name]
    fields["scale"] = np.asarray(batch.scale).item()
    if batch.labels is None:
        fields["labels"] = np.arange(len(batch.queries))
    return _native.InfoNCE(**fields)


def infonce(batch: Batch, *, symmetric: bool, reduction: str, return_stats: bool) -> Any:
    """The numpy form of :func:`hybridret.infonce`."""
    lse, positive, column_lse, rank, *_ = native(batch).forward(
        columns=symmetric, ranks=return_stats
    )
    with np.errstate(invalid="ignore"):  # NaN is passed on without a warning
        rows = _options.losses(
            _softplus, lse, positive, column_lse if symmetric else None, batch.labels
        )
    loss: Any = rows
    if reduction != "none":
        total = rows.sum(dtype=np.float64)
        loss = np.float32(total / max(len(rows), 1) if reduction == "mean" else total)
    if not return_stats:
        return loss
    accuracy = (rank == 1).mean(dtype=np.float32) if len(rank) else np.float32(np.nan)
    return loss, InBatchMetrics(accuracy, rank)


def statistics(batch: Batch, *, columns: bool) -> InfoNCEStatistics:
    """The numpy form of :func:`hybridret.infonce_statistics`."""
    lse, positive, column_lse, *_ = native(batch).forward(columns=columns)
    return InfoNCEStatistics(lse, positive, column_lse if columns else None)


def _softplus(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.logaddexp(np.float32(0), values, dtype=np.float32))


# ---- checks, see _options.Backend ----------------------------------------------------------------


def embeddings(queries: Any, documents: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    return _embedding("queries", queries), _embedding("documents", documents)


def _embedding(name: str, array: Any) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES:
        got = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise TypeError(f"{name} must be a numpy array of {', '.join(_DTYPES)}, got {got}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        array = array.view(np.uint16)
    whole_rows = array.size and array.strides[1] == array.itemsize
    return array if whole_rows else np.ascontiguousarray(array)


def integers(name: str, given: Any, queries: Any) -> NDArray[np.int64] | None:
    if given is None:
        return None
    array = np.asarray(given)
    if not array.size:
        return np.empty(array.shape, dtype=np.int64)
    if not np.can_cast(array.dtype, np.int64) or array.dtype == bool:
        raise TypeError(f"{name} must be integers that fit int64, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)


def floats(name: str, given: Any, queries: Any) -> NDArray[np.float32] | None:
    return None if given is None else np.ascontiguousarray(given, dtype=np.float32)


def scale(temperature: Any, queries: Any) -> float:
    _options.check_temperature(temperature)
    return 1.0 / float(temperature)


def segments(pairs: list[list[int]]) -> NDArray[np.int64]:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
