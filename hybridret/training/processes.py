"""Several processes that train as one, started by torchrun."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hybridret._extras import require
from hybridret.errors import DataError
from hybridret.losses.gathering import gather
from hybridret.training.optimizer import coalesced

_BUCKET = 16_000_000  # numbers that are sent together


def accelerator(trackers: Sequence[str], folder: Path) -> Any:
    """Devices, processes and trackers, as accelerate finds them.

    Raises:
        MissingExtraError: accelerate or a tracker is not installed.
    """
    library = require("accelerate", "train", "training")
    for name in trackers:
        require(name, f"train,{name}", f"the tracker {name}")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        # torchrun starts processes in sessions of their own: without this they outlive it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if not dist.is_initialized():
            # The group's threads must end before Python does: one that still asks for Python's lock
            # aborts the process. They end with the last reference to the group, and this module,
            # which torch's compiler imports, would keep one in its default arguments.
            importlib.import_module("torch.distributed.nn.functional")
            atexit.register(dist.destroy_process_group)
    folders = library.utils.ProjectConfiguration(str(folder), logging_dir=str(folder))
    return library.Accelerator(
        cpu=not torch.cuda.is_available(), log_with=list(trackers) or None, project_config=folders
    )


def check_same(what: str, value: object) -> None:
    """Raises DataError if a value is not the same in all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    found: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    for number, other in enumerate(found):
        if other != found[0]:
            raise DataError(f"processes 0 and {number} have different {what}: {found[0]}, {other}")


def share_weights(model: nn.Module) -> None:
    """Gives all processes the weights of the first: what a model's files lack is random in each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Puts the mean over all processes in every gradient's place; coalesces sparse ones."""
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    bucket: list[Tensor] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            gradient = coalesced(gradient)
            parameter.grad = gradient if alone else _mean_rows(gradient)
        elif not alone:
            bucket.append(gradient)
            if sum(x.numel() for x in bucket) >= _BUCKET:
                _average(bucket)
                bucket = []
    if bucket:
        _average(bucket)


def _average(gradients: Sequence[Tensor]) -> None:
    sent = torch.cat([x.flatten() for x in gradients])
    dist.all_reduce(sent)
    sent /= dist.get_world_size()
    means = torch.split(sent, [x.numel() for x in gradients])
    for own, mean in zip(gradients, means, strict=True):
        own.copy_(mean.view_as(own))


def _mean_rows(gradient: Tensor) -> Tensor:
    """Of a sparse gradient [V, D], of which every process has other rows."""
    rows, _ = gather(gradient.indices()[0])
    values, _ = gather(gradient.values())
    mean = torch.sparse_coo_tensor(rows[None], values / dist.get_world_size(), gradient.shape)
    return mean.coalesce()
