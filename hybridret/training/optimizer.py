"""AdamW that costs what batches read of a table of token vectors, and not the whole table.

A batch reads some thousand of a table's 250,000 rows. The gradient of the others is zero, and AdamW
(arXiv 1711.05101, algorithm 2) leaves a row whose gradient was always zero as it is, but for weight
decay. So gradient and moments are kept for the rows that were read since training began, and the
decay of the others is one factor until they are read or written to a file. The weights are those of
``torch.optim.AdamW``, up to the rounding of that factor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class RowAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, and one table of vectors whose gradient is sparse.

    Args:
        parameters: what is trained.
        table: [V, D], one of them, or None. :meth:`read` is told of the rows that are read.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        table: nn.Parameter | None,
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.table = table
        self._gradients: Tensor | None = None  # zeros, kept: new memory costs more than AdamW
        self._places: Tensor | None = None  # int64 [V], in ``rows`` of the state; else -1

    @torch.no_grad()
    def read(self, ids: Iterable[Tensor]) -> None:
        """Brings rows up to date that are about to be read for the first time."""
        if self.table is not None:
            for part in ids:
                self._add(part.flatten())

    @torch.no_grad()
    def settle(self) -> None:
        """Brings all rows up to date."""
        if self.table is None:
            return
        state = self._state(self.table)
        if state["decay"] != 1:
            assert self._places is not None
            self.table[self._places < 0] *= float(state["decay"])
            state["decay"] = torch.ones_like(state["decay"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        table = self.table
        gradient = None if table is None else table.grad
        if table is not None and gradient is not None:
            self._step_rows(table, coalesced(gradient))
            table.grad = None
        result = super().step(closure)
        if table is not None:
            table.grad = gradient
        return result

    def _state(self, table: nn.Parameter) -> dict[str, Tensor]:
        """``exp_avg`` and ``exp_avg_sq`` have room for more rows than ``rows``."""
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["rows"] = torch.zeros(0, dtype=torch.int64, device=table.device)
            state["exp_avg"] = table.new_zeros(0, table.shape[1])
            state["exp_avg_sq"] = table.new_zeros(0, table.shape[1])
            state["decay"] = torch.ones((), dtype=torch.float64)
        if self._places is None:
            self._places = torch.full((len(table),), -1, device=table.device)
            self._places[state["rows"]] = torch.arange(len(state["rows"]), device=table.device)
        return state

    def _add(self, ids: Tensor) -> None:
        assert self.table is not None
        state = self._state(self.table)
        assert self._places is not None
        if len(state["rows"]) == len(self.table):
            return
        new = torch.unique(ids[self._places[ids] < 0])
        if not len(new):
            return
        if 2 * (len(state["rows"]) + len(new)) > len(self.table):
            self._add_all(state)
            return
        before, after = len(state["rows"]), len(state["rows"]) + len(new)
        self._places[new] = torch.arange(before, after, device=new.device)
        state["rows"] = torch.cat([state["rows"], new])
        for name in ("exp_avg", "exp_avg_sq"):
            kept = state[name]
            if len(kept) < after:
                state[name] = kept.new_zeros(min(2 * after, len(self.table)), kept.shape[1])
                state[name][:before] = kept[:before]
        if state["decay"] != 1:
            self.table[new] *= float(state["decay"])

    def _add_all(self, state: dict[str, Tensor]) -> None:
        """The table as it stands: what costs less if most rows are read."""
        assert self.table is not None
        assert self._places is not None
        rows = state["rows"]
        for name in ("exp_avg", "exp_avg_sq"):
            moments = torch.zeros_like(self.table)
            moments[rows] = state[name][: len(rows)]
            state[name] = moments
        if state["decay"] != 1:
            self.table[self._places < 0] *= float(state["decay"])
        self._places = torch.arange(len(self.table), device=rows.device)
        state["rows"] = self._places.clone()

    def _step_rows(self, table: nn.Parameter, gradient: Tensor) -> None:
        read, values = gradient.indices()[0], gradient.values()
        self._add(read)
        state, group = self._state(table), self.param_groups[0]
        assert self._places is not None
        count = len(state["rows"])
        everything = count == len(table)
        weights = table if everything else table[state["rows"]]
        if self._gradients is None or len(self._gradients) < count:
            self._gradients = torch.zeros_like(weights)
        gradients = self._gradients[:count]
        places = self._places[read]
        gradients[places] = values
        beta1, beta2 = group["betas"]
        adamw(
            [weights],
            [gradients],
            [state["exp_avg"][:count]],
            [state["exp_avg_sq"][:count]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        gradients[places] = 0.0
        if not everything:
            table[state["rows"]] = weights
        state["decay"] = state["decay"] * (1 - group["lr"] * group["weight_decay"])


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient with each row once; autograd forgets that it was made so."""
    rows = gradient._indices()[0]
    once = gradient.is_coalesced() or bool((rows[1:] > rows[:-1]).all())
    return gradient._coalesced_(True) if once else gradient.coalesce()


def clip_gradients(parameters: Iterable[nn.Parameter], length: float) -> None:
    """Shortens the gradient of all parameters together to ``length``, if it is longer."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    values = [g.values() if g.is_sparse else g for g in gradients]
    whole = torch.stack([torch.linalg.vector_norm(x) for x in values]).norm()
    factor = (length / (whole + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)
