"""Dropout on a CPU, from random bits drawn a million at a time.

torch draws each element of a mask alone, by a Mersenne twister on one core: of a training step of
a small transformer that is up to a sixth. Here SFC64 gives sixteen bits an element, seeded from
torch's generator for each mask, so that the seed of a run still settles what is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def kept(shape: Sequence[int], dropout: float) -> Tensor:
    """A mask bool [shape] that is true with probability 1 - dropout, to a 65,536th."""
    count = prod(shape)
    seed = int(torch.randint(2**63 - 1, ()))
    bits = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.uint16)[:count]
    return torch.from_numpy(bits >= np.uint16(round(dropout * 65_535))).view(*shape)


@contextmanager
def drawn_together(model: nn.Module) -> Iterator[None]:
    """For forward passes of a model with dropout on a CPU."""
    used = [m for m in model.modules() if type(m) is nn.Dropout and m.training and 0 < m.p < 1]
    for module in used:
        module.forward = partial(_Dropout.apply, module.p)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in used:
            del module.forward


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dropout: float, x: Tensor) -> Tensor:
        mask = kept(x.shape, dropout)
        ctx.save_for_backward(mask)
        ctx.factor = 1 / (1 - dropout)
        return (x * mask).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, (gradient * ctx.saved_tensors[0]).mul_(ctx.factor)
