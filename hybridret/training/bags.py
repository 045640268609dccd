"""Means of token vectors, text by text, and their gradient for the rows that were read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def means(table: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """The mean [n, D] over the tokens of each text; zeros for a text without any.

    The gradient of ``table`` is sparse. A row's is the sum over the texts that it stands in: the
    same kind of sum as the mean itself, over the texts' gradients, so that no vector for every
    token is ever made.

    Args:
        table: [V, D].
        ids: int64 [T], tokens of all texts, one text after another.
        counts: int64 [n], tokens of each text.
    """
    found: Tensor = _Means.apply(table, ids, counts)  # type: ignore[no-untyped-call]
    return found


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(ids, counts)
        ctx.shape = table.shape
        return nn.functional.embedding_bag(ids, table, _starts(counts), mode="mean")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ids, counts = ctx.saved_tensors
        of_token = gradient / counts.clamp(min=1)[:, None].to(gradient.dtype)
        text = torch.repeat_interleave(counts)
        ids, order = torch.sort(ids, stable=True)
        rows, times = torch.unique_consecutive(ids, return_counts=True)
        values = nn.functional.embedding_bag(text[order], of_token, _starts(times), mode="sum")
        found = torch.sparse_coo_tensor(
            rows[None], values, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return found, None, None


def _starts(counts: Tensor) -> Tensor:
    return torch.cumsum(counts, 0) - counts
