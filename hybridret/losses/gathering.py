"""Rows of all processes, with gradients that flow back to the process that they come from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(tensor: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, by rank, and the position of the first of this process.

    Processes may have different numbers of rows. Every process has to call it.

    Args:
        tensor: [n, ...], of a dtype and a further shape that all processes share.
    """
    ranks, rank = dist.get_world_size(), dist.get_rank()
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(counts, own)
    sizes = [int(count) for count in counts]
    rows: Tensor = _Gather.apply(tensor, sizes)  # type: ignore[no-untyped-call]
    return rows, sum(sizes[:rank])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum over all processes of the gradients of the own rows."""
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        first = sum(ctx.sizes[: dist.get_rank()])
        return gradient[first : first + ctx.sizes[dist.get_rank()]], None


def _all_gather(tensor: Tensor, sizes: list[int]) -> Tensor:
    """Rows are padded to the largest number: backends ask for equal ones."""
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
