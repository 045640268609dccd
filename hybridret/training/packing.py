"""All texts of a batch as one sequence of tokens: every layer multiplies once.

Of a transformer's layers attention alone sees where a text ends. Texts of like lengths are padded
together (a *part*) and all parts are laid one after another, so that a layer is one product over
the tokens of the whole batch, and the table of token vectors gets one gradient instead of one for
each part. Attention is computed for each part, as two products and a softmax: on a CPU the gradient
of torch's fused attention takes several times as long at these lengths. Its weights, and what
activation functions give, are computed again for the gradient and take no memory until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybridret.training.dropout import kept
from hybridret.training.recomputing import activations_recomputed

Part = tuple[Tensor, Tensor]
"""Token ids and attention mask of texts of like lengths, int64 [n, S]."""

# Encoders with `embeddings` and `encoder`, and whether positions count from the padding's id.
_POSITIONS_AFTER_PADDING = {
    "bert": False,
    "roberta": True,
    "xlm-roberta": True,
    "camembert": True,
}
_NAME = "hybridret_parts"


def can_pack(backbone: nn.Module) -> bool:
    """Whether the encoder's attention can be replaced, and its positions are known."""
    config: Any = getattr(backbone, "config", None)
    return (
        getattr(config, "model_type", None) in _POSITIONS_AFTER_PADDING
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
        and bool(getattr(backbone, "_supports_attention_backend", False))
    )


def packed_tokens(backbone: Any, parts: Sequence[Part]) -> list[Tensor]:
    """Contextual token vectors [n, S, width] of each part, as from ``backbone`` itself."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
    config = backbone.config
    first = config.pad_token_id + 1 if _POSITIONS_AFTER_PADDING[config.model_type] else 0
    ids = torch.cat([ids.flatten() for ids, _ in parts])[None]
    positions = torch.cat(
        [
            torch.arange(first, first + ids.shape[1], device=ids.device).repeat(len(ids))
            for ids, _ in parts
        ]
    )[None]
    masks = [
        (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min for _, mask in parts
    ]
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        hidden = backbone.embeddings(input_ids=ids, position_ids=positions)
        with activations_recomputed(backbone.encoder):
            tokens = backbone.encoder(hidden, attention_mask=None, parts=masks)[0][0]
    finally:
        config._attn_implementation = before
    sizes = [ids.numel() for ids, _ in parts]
    return [
        found.view(*ids.shape, -1)
        for found, (ids, _) in zip(tokens.split(sizes), parts, strict=True)
    ]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    *,
    parts: Sequence[Tensor],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside of each text: queries, keys and values [1, heads, tokens, width].

    Args:
        parts: what is added to the scores of each part, [n, 1, 1, S].
    """
    heads, width = query.shape[1], query.shape[3]
    found, start = [], 0
    for mask in parts:
        n, length = len(mask), mask.shape[3]
        stop = start + n * length
        q, k, v = (
            x[0, :, start:stop].view(heads, n, length, width).transpose(0, 1)
            for x in (query, key, value)
        )
        attended: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            q, k, v, mask, scaling, dropout if module.training else 0.0
        )
        found.append(attended.transpose(1, 2).reshape(n * length, -1))
        start = stop
    return torch.cat(found)[None], None


class _Attention(torch.autograd.Function):
    """softmax(q k^T * scaling + mask) v, which keeps q, k, v and not the weights."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, dropout: float
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        weights = _weights(q, k, mask, scaling)
        used = kept(weights.shape, dropout) if dropout else None
        if used is not None:
            weights *= used
            weights *= 1 / (1 - dropout)
        ctx.save_for_backward(q, k, v, mask, used)
        ctx.scaling, ctx.dropout = scaling, dropout
        return torch.matmul(weights.to(v.dtype), v)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, kept_weights = ctx.saved_tensors
        weights = _weights(q, k, mask, ctx.scaling)
        of_weights = torch.matmul(gradient, v.transpose(2, 3)).to(weights.dtype)
        if kept_weights is None:
            used = weights
        else:
            factor = kept_weights / (1 - ctx.dropout)
            used = weights * factor
            of_weights *= factor
        of_v = torch.matmul(used.to(v.dtype).transpose(2, 3), gradient)
        mean = torch.linalg.vecdot(of_weights, weights)[..., None]
        of_scores = of_weights.sub_(mean).mul_(weights).to(q.dtype) * ctx.scaling
        of_q = torch.matmul(of_scores, k)
        of_k = torch.matmul(of_scores.transpose(2, 3), q)
        return of_q, of_k, of_v, None, None, None


def _weights(q: Tensor, k: Tensor, mask: Tensor, scaling: float) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * scaling
    return torch.softmax(scores + mask, -1)  # the mask is float32, so is the sum
