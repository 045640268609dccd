"""The native ops as torch sees them: schema, fake, autograd. Imported with the first tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from hybridret import _native, _torch_cuda
from hybridret.losses import WORKSPACE, InfoNCEStats, Segments, check_temperature, segment_pairs


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


class Batch(NamedTuple):
    """A batch and how its logits are made, in the order of the ops' schemas."""

    queries: Tensor
    documents: Tensor
    labels: Tensor | None
    query_groups: Tensor | None
    document_groups: Tensor | None
    segments: Tensor | None
    log_bias: Tensor | None
    scale: Tensor
    normalize: bool
    unit_norm: bool
    hard_only: bool
    labels_elsewhere: bool
    workspace: int
    logit_bound: float  # that the host knows; 0 if it knows none

    def native(self) -> _native.InfoNCE:
        """The same for the extension; the memory is shared."""
        return _native.InfoNCE(
            _array(self.queries),
            _array(self.documents),
            np.arange(len(self.queries)) if self.labels is None else _array(self.labels),
            query_groups=_array(self.query_groups),
            document_groups=_array(self.document_groups),
            segments=_array(self.segments),
            log_bias=_array(self.log_bias),
            scale=float(self.scale),
            normalize=self.normalize,
            unit_norm=self.unit_norm,
            hard_only=self.hard_only,
            labels_elsewhere=self.labels_elsewhere,
        )

    def rows(self) -> Tensor:
        """A fake of one float32 for each query."""
        return self.queries.new_empty(self.queries.shape[0], dtype=torch.float32)

    def rank(self, asked: bool) -> Tensor:
        """A fake of one int32 for each query, or of none."""
        return self.queries.new_empty(self.queries.shape[0] if asked else 0, dtype=torch.int32)

    def columns(self, asked: bool) -> Tensor:
        """A fake of one float32 for each document, or of none."""
        return self.queries.new_empty(self.documents.shape[0] if asked else 0, dtype=torch.float32)

    def gradients(self, asked: bool = True) -> tuple[Tensor, Tensor]:
        """Fakes of both gradients; float16's are float32 until the upstream factor is in."""
        dtype = torch.bfloat16 if self.queries.dtype == torch.bfloat16 else torch.float32
        shapes = ((len(x) if asked else 0, x.shape[1]) for x in (self.queries, self.documents))
        by_query, by_document = (self.queries.new_empty(shape, dtype=dtype) for shape in shapes)
        return by_query, by_document


_BATCH = (
    "Tensor queries, Tensor documents, Tensor? labels, Tensor? query_groups, "
    "Tensor? document_groups, Tensor? segments, Tensor? log_bias, Tensor scale, bool normalize, "
    "bool unit_norm, bool hard_only, bool labels_elsewhere, int workspace, "
    "float logit_bound"
)
_FIELDS = len(Batch._fields)


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


def _op(name: str, schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function of a batch and what the schema goes on with."""
    return torch.library.custom_op(
        f"hybridret::{name}", mutates_args=(), device_types="cpu", schema=f"({_BATCH}, {schema}"
    )


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("infonce has no second derivative: call backward without create_graph")


def _by_inputs(
    batch: Batch, options: int, by_query: Tensor, by_document: Tensor, by_scale: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients in the order and the dtypes of an op's inputs: a batch and some options."""
    by: list[Tensor | None] = [None] * (_FIELDS + options)
    for name, gradient in (
        ("queries", by_query), ("documents", by_document), ("scale", by_scale)
    ):  # fmt: skip
        like = getattr(batch, name)
        by[Batch._fields.index(name)] = gradient.to(like.dtype).reshape(like.shape)
    return tuple(by)


def _losses(batch: Batch, lse: Tensor, positive: Tensor, column_lse: Tensor | None) -> Tensor:
    losses = softplus(lse - positive)
    if column_lse is None:
        return losses
    if batch.labels is None:
        own = column_lse[: len(positive)]
    else:  # a label that no document has made its row NaN; it must not reach past the end here
        own = column_lse[batch.labels.clamp(0, max(len(column_lse) - 1, 0))]
    return (losses + softplus(own - positive)) / 2


@_op(
    "infonce",
    "bool symmetric, bool mean, bool ranks, bool gradients) -> "
    "(Tensor loss, Tensor rank, Tensor by_query, Tensor by_document, Tensor by_scale)",
)
def total_loss(*inputs: Any) -> tuple[Tensor, ...]:
    """(loss [], rank [N], and its derivatives); what is not asked for is empty."""
    batch, (symmetric, mean, ranks, gradients) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    rows = len(batch.queries)
    weight = 1.0 / max(rows, 1) if mean else 1.0
    *arrays, by_scale = batch.native().forward(
        columns=symmetric,
        ranks=ranks,
        row_weights=np.full(rows, weight, dtype=np.float32) if gradients else None,
        threads=torch.get_num_threads(),
    )
    lse, positive, column_lse, rank, *by = map(_tensor, arrays)
    losses = _losses(batch, lse, positive, column_lse if symmetric else None)
    # Not torch's sum, whose order depends on the number of threads.
    loss = torch.tensor(losses.numpy().sum(dtype=np.float64) * weight, dtype=torch.float32)
    return loss, rank, *by, torch.tensor(by_scale, dtype=torch.float64)


def _fake_total(*inputs: Any) -> tuple[Tensor, ...]:
    batch, (_, _, ranks, gradients) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    by_scale = batch.queries.new_empty((), dtype=torch.float64)
    loss = batch.queries.new_empty((), dtype=torch.float32)
    return loss, batch.rank(ranks), *batch.gradients(gradients), by_scale


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    batch = Batch(*inputs[:_FIELDS])
    ctx.save_for_backward(batch.queries, batch.documents, batch.scale, *output[2:])


def _scale_gradients(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    queries, documents, scale, *gradients = ctx.saved_tensors
    batch = Batch._make([None] * _FIELDS)
    batch = batch._replace(queries=queries, documents=documents, scale=scale)
    return _by_inputs(batch, 4, *(x * upstream for x in gradients))


@total_loss.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _torch_cuda.total_loss(Batch(*inputs[:_FIELDS]), *inputs[_FIELDS:])


total_loss.register_fake(_fake_total)
total_loss.register_autograd(_scale_gradients, setup_context=_save_gradients)


@_op(
    "infonce_statistics",
    "bool columns, bool ranks) -> "
    "(Tensor negatives_lse, Tensor positive, Tensor column_negatives_lse, Tensor rank)",
)
def row_statistics(*inputs: Any) -> tuple[Tensor, ...]:
    """(negatives_lse [N], positive [N], column_negatives_lse [M], rank [N])."""
    batch, (columns, ranks) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    arrays = batch.native().forward(columns=columns, ranks=ranks, threads=torch.get_num_threads())
    return tuple(map(_tensor, arrays[:4]))


def _fake_statistics(*inputs: Any) -> tuple[Tensor, ...]:
    batch, (columns, ranks) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    return batch.rows(), batch.rows(), batch.columns(columns), batch.rank(ranks)


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
    batch, (columns, _) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    gradients = torch.ops.hybridret.infonce_backward(
        *batch, lse, column_lse if columns else None,
        by_lse, by_positive, by_column_lse if columns else None,
    )  # fmt: skip
    return _by_inputs(batch, 2, *gradients)


@row_statistics.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _torch_cuda.row_statistics(Batch(*inputs[:_FIELDS]), *inputs[_FIELDS:])


row_statistics.register_fake(_fake_statistics)
row_statistics.register_autograd(_recompute_gradients, setup_context=_save_statistics)


@_op("infonce_backward", "Tensor negatives_lse, Tensor? column_negatives_lse, "
     "Tensor by_negatives_lse, Tensor by_positive, Tensor? by_column_negatives_lse) -> "
     "(Tensor by_query, Tensor by_document, Tensor by_scale)")  # fmt: skip
def statistics_backward(*inputs: Any) -> tuple[Tensor, ...]:
    """(by_query, by_document, by_scale) from derivatives by the statistics, recomputed."""
    batch, (lse, column_lse, *by) = Batch(*inputs[:_FIELDS]), inputs[_FIELDS:]
    by_lse, by_positive, by_column_lse = (None if x is None else x.contiguous() for x in by)
    by_query, by_document, by_scale = batch.native().backward(
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
    return *batch.gradients(), batch.queries.new_empty((), dtype=torch.float64)


@statistics_backward.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _torch_cuda.statistics_backward(Batch(*inputs[:_FIELDS]), *inputs[_FIELDS:])


statistics_backward.register_fake(_fake_backward)


def statistics(batch: Batch, columns: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The torch form of :func:`hybridret.infonce_statistics`."""
    batch = batch._replace(labels_elsewhere=True)
    lse, positive, column_lse, _ = torch.ops.hybridret.infonce_statistics(*batch, columns, False)
    return lse, positive, column_lse


def infonce(batch: Batch, symmetric: bool, reduction: str, return_stats: bool) -> Any:
    """The torch form of :func:`hybridret.infonce`."""
    if reduction == "none":
        lse, positive, column_lse, rank = torch.ops.hybridret.infonce_statistics(
            *batch, symmetric, return_stats
        )
        loss = _losses(batch, lse, positive, column_lse if symmetric else None)
    else:
        gradients = torch.is_grad_enabled() and any(
            x.requires_grad for x in (batch.queries, batch.documents, batch.scale)
        )
        loss, rank, *_ = torch.ops.hybridret.infonce(
            *batch, symmetric, reduction == "mean", return_stats, gradients
        )
    return (loss, InfoNCEStats((rank == 1).float().mean(), rank)) if return_stats else loss


def batch(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor | None,
    temperature: float | Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    segments: Segments | None,
    log_bias: Tensor | None,
    normalize: bool,
    unit_norm: bool,
    hard_only: bool,
    workspace: int = WORKSPACE,
) -> Batch:
    """Checks what a user gave; embeddings take autocast's dtype where it is on."""
    for name, tensor in (("queries", queries), ("documents", documents)):
        if not isinstance(tensor, Tensor) or tensor.dtype not in _DTYPES:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a float32, bfloat16 or float16 tensor, got {got}")
    device = queries.device
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"queries are on {device}; infonce runs on cpu and cuda")
    _check_device("documents", documents, device)
    if device.type == "cuda":
        _torch_cuda.require()
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        queries, documents = queries.to(dtype), documents.to(dtype)
    if queries.dtype != documents.dtype:
        raise ValueError(
            f"queries and documents differ in dtype: {queries.dtype} against {documents.dtype}"
        )
    if log_bias is not None:
        if not isinstance(log_bias, Tensor):
            raise TypeError(f"log_bias must be a tensor, got {type(log_bias).__name__}")
        _check_device("log_bias", log_bias, device)
        if log_bias.requires_grad:
            raise ValueError("log_bias takes no gradient: detach it")
        log_bias = log_bias.float().contiguous()
    if not isinstance(temperature, Tensor):
        check_temperature(temperature)  # a tensor's value is the kernel's to check: see infonce
    elif temperature.numel() != 1 or not temperature.is_floating_point():
        raise ValueError(
            "temperature must be a real scalar, got "
            f"{temperature.dtype} of shape {list(temperature.shape)}"
        )
    else:
        _check_device("temperature", temperature, device)
    # With room for vectors that are as far from length one as unit_norm allows.
    logit_bound = 0.0
    if (normalize or unit_norm) and log_bias is None and not isinstance(temperature, Tensor):
        logit_bound = 1.03 / temperature
    return Batch(
        queries,
        documents,
        _integers("labels", labels, device),
        _integers("query_groups", query_groups, device),
        _integers("document_groups", document_groups, device),
        None
        if segments is None
        else torch.tensor(segment_pairs(segments), dtype=torch.int64, device="cpu").reshape(-1, 2),
        log_bias,
        1.0 / temperature.float()
        if isinstance(temperature, Tensor)
        else torch.full((), 1.0 / temperature, dtype=torch.float32, device=device),
        normalize,
        unit_norm,
        hard_only,
        False,
        workspace,
        logit_bound,
    )


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, but queries are on {device}")


def _integers(name: str, given: Any, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    is_tensor = isinstance(given, Tensor)
    if not is_tensor or given.is_floating_point() or given.dtype in (torch.bool, torch.uint64):
        got = given.dtype if is_tensor else type(given).__name__
        raise TypeError(f"{name} must be a tensor of integers, got {got}")
    _check_device(name, given, device)
    integers: Tensor = given.long().contiguous()
    return integers
