"""The native ops as torch sees them: schema, fake, autograd. Imported with the first tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from hybridret import _native
from hybridret.losses import _cpu, _cuda, _options
from hybridret.losses._options import Batch, InBatchMetrics, InfoNCEStatistics, Loss, Statistics


def _is_fork() -> bool:
    """Whether this process is its parent's copy: libgomp's threads may then be the parent's."""
    try:
        parent, own = (Path(f"/proc/{p}/cmdline").read_bytes() for p in (os.getppid(), "self"))
    except OSError:
        return False
    return parent == own


# Where torch brings a libgomp, its threads are ours too (elsewhere the extension has its own).
if not _is_fork():
    for _library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        if _native.share_openmp(str(_library)):
            break

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FIELDS = len(Batch._fields)


# ---- fakes: shapes and dtypes of what an op returns ----------------------------------------------


def _rows(batch: Batch) -> Tensor:
    """One float32 for each query."""
    return _new(batch, (batch.queries.shape[0],), torch.float32)


def _rank(batch: Batch, asked: bool) -> Tensor:
    """One int32 for each query, or for none."""
    return _new(batch, (batch.queries.shape[0] if asked else 0,), torch.int32)


def _columns(batch: Batch, asked: bool) -> Tensor:
    """One float32 for each document, or for none."""
    return _new(batch, (batch.documents.shape[0] if asked else 0,), torch.float32)


def _new(batch: Batch, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor: Tensor = batch.queries.new_empty(shape, dtype=dtype)
    return tensor


# ---- the ops -------------------------------------------------------------------------------------


def _array(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.dim() == 2 and tensor.stride(1) != 1:
        tensor = tensor.contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _op(name: str, arguments: str, results: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function of a batch and further arguments."""
    return torch.library.custom_op(
        f"hybridret::{name}",
        mutates_args=(),
        device_types="cpu",
        schema=f"({_options.schema(Batch)}, {arguments}) -> ({results})",
    )


def _native_batch(batch: Batch) -> _native.InfoNCE:
    return _cpu.native(Batch._make(_array(x) if isinstance(x, Tensor) else x for x in batch))


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("infonce has no second derivative: call backward without create_graph")


def _by_inputs(
    batch: Batch, options: int, by_query: Tensor, by_document: Tensor, by_scale: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients in the order and the dtypes of an op's inputs: a batch and some options."""
    by: list[Tensor | None] = [None] * (_FIELDS + options)
    pairs = (("queries", by_query), ("documents", by_document), ("scale", by_scale))
    for name, gradient in pairs:
        like = getattr(batch, name)
        by[Batch._fields.index(name)] = gradient.to(like.dtype).reshape(like.shape)
    return tuple(by)


def _losses(batch: Batch, lse: Tensor, positive: Tensor, column_lse: Tensor | None) -> Tensor:
    rows: Tensor = _options.losses(softplus, lse, positive, column_lse, batch.labels)
    return rows


@_op(
    "infonce",
    _options.schema(Loss),
    "Tensor loss, Tensor rank, Tensor by_query, Tensor by_document, Tensor by_scale",
)
def total_loss(*inputs: Any) -> tuple[Tensor, ...]:
    """(loss [], rank [N], and its derivatives); what is not asked for is empty."""
    batch, asked = Batch(*inputs[:_FIELDS]), Loss(*inputs[_FIELDS:])
    rows = len(batch.queries)
    weight = 1.0 / max(rows, 1) if asked.mean else 1.0
    *arrays, by_scale = _native_batch(batch).forward(
        columns=asked.symmetric,
        ranks=asked.ranks,
        row_weights=np.full(rows, weight, dtype=np.float32) if asked.gradients else None,
        threads=torch.get_num_threads(),
    )
    lse, positive, column_lse, rank, *by = map(_tensor, arrays)
    losses = _losses(batch, lse, positive, column_lse if asked.symmetric else None)
    # Not torch's sum, whose order depends on the number of threads.
    loss = torch.tensor(losses.numpy().sum(dtype=np.float64) * weight, dtype=torch.float32)
    return loss, rank, *by, torch.tensor(by_scale, dtype=torch.float64)


def _fake_total(*inputs: Any) -> tuple[Tensor, ...]:
    batch, asked = Batch(*inputs[:_FIELDS]), Loss(*inputs[_FIELDS:])
    loss, by_scale = _new(batch, (), torch.float32), _new(batch, (), torch.float64)
    return loss, _rank(batch, asked.ranks), *_cuda.new_gradients(batch, asked.gradients), by_scale


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    batch = Batch(*inputs[:_FIELDS])
    ctx.save_for_backward(batch.queries, batch.documents, batch.scale, *output[2:])


def _scale_gradients(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    queries, documents, scale, *gradients = ctx.saved_tensors
    batch = Batch._make([None] * _FIELDS)
    batch = batch._replace(queries=queries, documents=documents, scale=scale)
    return _by_inputs(batch, len(Loss._fields), *(x * upstream for x in gradients))


@total_loss.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _cuda.total_loss(Batch(*inputs[:_FIELDS]), Loss(*inputs[_FIELDS:]))


total_loss.register_fake(_fake_total)
total_loss.register_autograd(_scale_gradients, setup_context=_save_gradients)


@_op(
    "infonce_statistics",
    _options.schema(Statistics),
    "Tensor negatives_lse, Tensor positive, Tensor column_negatives_lse, Tensor rank",
)
def row_statistics(*inputs: Any) -> tuple[Tensor, ...]:
    """(negatives_lse [N], positive [N], column_negatives_lse [M], rank [N])."""
    batch, asked = Batch(*inputs[:_FIELDS]), Statistics(*inputs[_FIELDS:])
    arrays = _native_batch(batch).forward(
        columns=asked.columns, ranks=asked.ranks, threads=torch.get_num_threads()
    )
    return tuple(map(_tensor, arrays[:4]))


def _fake_statistics(*inputs: Any) -> tuple[Tensor, ...]:
    batch, asked = Batch(*inputs[:_FIELDS]), Statistics(*inputs[_FIELDS:])
    columns, rank = _columns(batch, asked.columns), _rank(batch, asked.ranks)
    return _rows(batch), _rows(batch), columns, rank


def _save_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.is_tensor = [isinstance(x, Tensor) for x in inputs]
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
    ctx.save_for_backward(output[0], output[2], *(x for x in inputs if isinstance(x, Tensor)))


def _recompute_gradients(
    ctx: Any, by_lse: Tensor, by_positive: Tensor, by_column_lse: Tensor, _: Any
) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    lse, column_lse, *tensors = ctx.saved_tensors
    saved = iter(tensors)
    pairs = zip(ctx.is_tensor, ctx.others, strict=True)
    inputs = [next(saved) if is_tensor else other for is_tensor, other in pairs]
    batch, asked = Batch(*inputs[:_FIELDS]), Statistics(*inputs[_FIELDS:])
    gradients = torch.ops.hybridret.infonce_backward(
        *batch,
        lse,
        column_lse if asked.columns else None,
        by_lse,
        by_positive,
        by_column_lse if asked.columns else None,
    )
    return _by_inputs(batch, len(Statistics._fields), *gradients)


@row_statistics.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _cuda.row_statistics(Batch(*inputs[:_FIELDS]), Statistics(*inputs[_FIELDS:]))


row_statistics.register_fake(_fake_statistics)
row_statistics.register_autograd(_recompute_gradients, setup_context=_save_statistics)


@_op(
    "infonce_backward",
    "Tensor negatives_lse, Tensor? column_negatives_lse, Tensor by_negatives_lse, "
    "Tensor by_positive, Tensor? by_column_negatives_lse",
    "Tensor by_query, Tensor by_document, Tensor by_scale",
)
def statistics_backward(*inputs: Any) -> tuple[Tensor, ...]:
    """(by_query, by_document, by_scale) from derivatives by the statistics, recomputed."""
    batch, (lse, column_lse, *by) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    by_lse, by_positive, by_column_lse = (None if x is None else x.contiguous() for x in by)
    by_query, by_document, by_scale = _native_batch(batch).backward(
        _array(lse),
        _array(column_lse),
        by_negatives_lse=_array(by_lse),
        by_positive=_array(by_positive),
        by_column_negatives_lse=_array(by_column_lse),
        threads=torch.get_num_threads(),
    )
    return _tensor(by_query), _tensor(by_document), torch.tensor(by_scale, dtype=torch.float64)


def _fake_backward(*inputs: Any) -> tuple[Tensor, ...]:
    batch = Batch(*inputs[:_FIELDS])
    return *_cuda.new_gradients(batch), _new(batch, (), torch.float64)


@statistics_backward.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _cuda.statistics_backward(Batch(*inputs[:_FIELDS]), *inputs[_FIELDS:])


statistics_backward.register_fake(_fake_backward)


# ---- what hybridret.losses.functional calls ------------------------------------------------------


def infonce(batch: Batch, *, symmetric: bool, reduction: str, return_stats: bool) -> Any:
    """The torch form of :func:`hybridret.infonce`."""
    if reduction == "none":
        asked = Statistics(columns=symmetric, ranks=return_stats)
        lse, positive, column_lse, rank = torch.ops.hybridret.infonce_statistics(*batch, *asked)
        loss = _losses(batch, lse, positive, column_lse if symmetric else None)
    else:
        takes_gradient = torch.is_grad_enabled() and any(
            x.requires_grad for x in (batch.queries, batch.documents, batch.scale)
        )
        total = Loss(
            symmetric=symmetric,
            mean=reduction == "mean",
            ranks=return_stats,
            gradients=takes_gradient,
        )
        loss, rank, *_ = torch.ops.hybridret.infonce(*batch, *total)
    return (loss, InBatchMetrics((rank == 1).float().mean(), rank)) if return_stats else loss


def statistics(batch: Batch, *, columns: bool) -> InfoNCEStatistics:
    """The torch form of :func:`hybridret.infonce_statistics`."""
    asked = Statistics(columns=columns, ranks=False)
    lse, positive, column_lse, _ = torch.ops.hybridret.infonce_statistics(*batch, *asked)
    return InfoNCEStatistics(lse, positive, column_lse if columns else None)


# ---- checks, see _options.Backend ----------------------------------------------------------------


def embeddings(queries: Any, documents: Any) -> tuple[Tensor, Tensor]:
    """Both in autocast's dtype where it is on."""
    for name, tensor in (("queries", queries), ("documents", documents)):
        if not isinstance(tensor, Tensor) or tensor.dtype not in _DTYPES:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a float32, bfloat16 or float16 tensor, got {got}")
    device = queries.device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"queries are on {device}; infonce runs on cpu and cuda")
    _check_device("documents", documents, queries)
    if device.type == "cuda":
        _cuda.require()
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        queries, documents = queries.to(dtype), documents.to(dtype)
    if queries.dtype != documents.dtype:
        raise ValueError(
            f"queries and documents differ in dtype: {queries.dtype} against {documents.dtype}"
        )
    return queries, documents


def integers(name: str, given: Any, queries: Tensor) -> Tensor | None:
    if given is None:
        return None
    is_tensor = isinstance(given, Tensor)
    if not is_tensor or given.is_floating_point() or given.dtype in (torch.bool, torch.uint64):
        got = given.dtype if is_tensor else type(given).__name__
        raise TypeError(f"{name} must be a tensor of integers, got {got}")
    _check_device(name, given, queries)
    whole: Tensor = given.long().contiguous()
    return whole


def floats(name: str, given: Any, queries: Tensor) -> Tensor | None:
    if given is None:
        return None
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    _check_device(name, given, queries)
    if given.requires_grad:
        raise ValueError(f"{name} takes no gradient: detach it")
    return given.float().contiguous()


def scale(temperature: Any, queries: Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        _options.check_temperature(temperature)
        return torch.full((), 1.0 / temperature, dtype=torch.float32, device=queries.device)
    # A tensor's value is the kernel's to check: see infonce.
    if temperature.numel() != 1 or not temperature.is_floating_point():
        raise ValueError(
            "temperature must be a real scalar, got "
            f"{temperature.dtype} of shape {list(temperature.shape)}"
        )
    _check_device("temperature", temperature, queries)
    return 1.0 / temperature.float()


def segments(pairs: list[list[int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64, device="cpu").reshape(-1, 2)


def _check_device(name: str, tensor: Tensor, queries: Tensor) -> None:
    if tensor.device != queries.device:
        raise ValueError(f"{name} is on {tensor.device}, but queries are on {queries.device}")
