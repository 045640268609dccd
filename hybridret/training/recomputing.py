"""The output of activation functions, computed again in the backward pass instead of being kept.

It is a fifth of what a layer of a transformer keeps, and made in no time from its input, which is
kept anyway. Gradients are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def activations_recomputed(model: nn.Module) -> Iterator[None]:
    """For the forward pass of a model with GELU or SiLU."""
    # The last output stays alive here, so that no other tensor has its memory.
    last: list[tuple[Tensor, Callable[[], Tensor]]] = []

    def remember(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        kept = inputs[0].detach()
        last[:] = [(output, lambda: module.forward(kept))]

    def pack(tensor: Tensor) -> Any:
        if last and tensor.data_ptr() == last[0][0].data_ptr() and tensor.is_contiguous():
            return last[0][1], tensor.shape
        return tensor

    hooks = [m.register_forward_hook(remember) for m in model.modules() if _keeps_its_input(m)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield
    finally:
        last.clear()
        for hook in hooks:
            hook.remove()


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    make, shape = kept
    with torch.no_grad():
        return make().view(shape)  # type: ignore[no-any-return]


def _keeps_its_input(module: nn.Module) -> bool:
    """Not ReLU and Tanh, which keep their output for the backward pass."""
    return isinstance(module, (nn.GELU, nn.SiLU)) or "GELU" in type(module).__name__
