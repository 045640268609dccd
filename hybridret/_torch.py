"""The native ops as torch sees them: schema, fake, autograd. Imported with the first tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridret import _native
from hybridret.losses import check_temperature


def _array(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    tensor = tensor.detach()
    return (tensor if tensor.dim() != 2 or tensor.stride(1) == 1 else tensor.contiguous()).numpy()


@torch.library.custom_op("hybridret::infonce_forward", mutates_args=(), device_types="cpu")
def infonce_forward(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    scale: Tensor,
    row_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(negatives_lse [N], positive [N], d(sum of losses * row_weight) by queries, by documents).

    A ``row_weight`` of 0 asks for no gradients; both are then [0, D].
    """
    weights = np.full(len(queries), row_weight, dtype=np.float32) if row_weight else None
    lse, positive, *gradients = _native.infonce_forward(
        _array(queries),
        _array(documents),
        _array(labels),
        query_groups=_array(query_groups),
        document_groups=_array(document_groups),
        scale=float(scale),
        row_weights=weights,
        threads=torch.get_num_threads(),
    )
    none = np.empty((0, queries.shape[1]), dtype=np.float32)
    by_query, by_document = gradients if row_weight else (none, none.copy())
    return tuple(map(torch.from_numpy, (lse, positive, by_query, by_document)))  # type: ignore[return-value]


@infonce_forward.register_fake
def _(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    scale: Tensor,
    row_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = queries.new_empty(queries.shape[0])
    if not row_weight:
        none = queries.new_empty(0, queries.shape[1])
        return rows, rows.clone(), none, none.clone()
    return rows, rows.clone(), _contiguous_like(queries), _contiguous_like(documents)


@torch.library.custom_op("hybridret::infonce_backward", mutates_args=(), device_types="cpu")
def infonce_backward(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    negatives_lse: Tensor,
    positive: Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    scale: Tensor,
    row_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients by queries and documents for given weights [N] of the rows, recomputed."""
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(array)
        for array in _native.infonce_backward(
            _array(queries),
            _array(documents),
            _array(labels),
            _array(negatives_lse),
            _array(positive),
            query_groups=_array(query_groups),
            document_groups=_array(document_groups),
            scale=float(scale),
            row_weights=_array(row_weights.contiguous()),
            threads=torch.get_num_threads(),
        )
    )


@infonce_backward.register_fake
def _(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor,
    negatives_lse: Tensor,
    positive: Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    scale: Tensor,
    row_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    return _contiguous_like(queries), _contiguous_like(documents)


def _contiguous_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


class _InfoNCE(torch.autograd.Function):
    """Rows' losses with gradients made in the forward pass, or recomputed for ``none``."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        query_groups: Tensor | None,
        document_groups: Tensor | None,
        scale: Tensor,
        reduction: str,
    ) -> Tensor:
        weight = 1.0 / max(queries.shape[0], 1) if reduction == "mean" else 1.0
        with_gradients = reduction != "none" and any(ctx.needs_input_grad)
        lse, positive, query_gradient, document_gradient = torch.ops.hybridret.infonce_forward(
            queries, documents, labels, query_groups, document_groups, scale,
            weight if with_gradients else 0.0,
        )  # fmt: skip
        losses = torch.nn.functional.softplus(lse - positive)
        ctx.reduction = reduction
        if reduction == "none":
            ctx.save_for_backward(
                queries, documents, labels, lse, positive, query_groups, document_groups, scale
            )
            return losses
        ctx.save_for_backward(queries, query_gradient, document_gradient, scale)
        total = losses.double().sum()
        return (total * weight).float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "infonce has no second derivative: call backward without create_graph"
            )
        if ctx.reduction == "none":
            queries, documents, labels, lse, positive, query_groups, document_groups, scale = (
                ctx.saved_tensors
            )
            by_query, by_document = torch.ops.hybridret.infonce_backward(
                queries, documents, labels, lse, positive, query_groups, document_groups, scale,
                upstream,
            )  # fmt: skip
        else:
            queries, by_query, by_document, scale = ctx.saved_tensors
            by_query, by_document = by_query * upstream, by_document * upstream
        # By the scale: each logit is scale * <q, d>, so sum_ij dL/ds_ij <q_i, d_j> is
        # sum_i <q_i, dq_i> / scale.
        by_scale = None
        if ctx.needs_input_grad[5]:
            by_scale = ((queries.double() * by_query.double()).sum() / scale).to(scale.dtype)
        return by_query, by_document, None, None, None, by_scale, None


def infonce(
    queries: Tensor,
    documents: Tensor,
    labels: Tensor | None,
    temperature: float | Tensor,
    query_groups: Tensor | None,
    document_groups: Tensor | None,
    reduction: str,
) -> Tensor:
    """The torch form of :func:`hybridret.infonce`."""
    for name, tensor in (("queries", queries), ("documents", documents)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            got = getattr(tensor, "dtype", type(tensor).__name__)
            raise TypeError(f"{name} must be a float32 tensor, got {got}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}; this build has CPU kernels only")
    if labels is None:
        labels = torch.arange(queries.shape[0])
    integers: list[Tensor | None] = []
    for name, given in (
        ("labels", labels), ("query_groups", query_groups), ("document_groups", document_groups)
    ):  # fmt: skip
        if given is not None and (
            not isinstance(given, Tensor) or given.is_floating_point() or given.dtype == torch.bool
        ):
            got = getattr(given, "dtype", type(given).__name__)
            raise TypeError(f"{name} must be a tensor of integers, got {got}")
        integers.append(None if given is None else given.long().contiguous())
    if not isinstance(temperature, Tensor):
        check_temperature(temperature)  # a tensor's value is checked by the kernel, which reads it
    scale = 1.0 / torch.as_tensor(temperature, dtype=torch.float32)
    return _InfoNCE.apply(queries, documents, *integers, scale, reduction)  # type: ignore[no-any-return,no-untyped-call]
