"""Several processes that train as one, started by torchrun."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import signal
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hybridret._extras import require

_BUCKET = 16_000_000  # numbers that are sent together


def accelerator() -> Any:
    """Devices and processes, as accelerate finds them.

    Raises:
        ImportError: accelerate is not installed.
    """
    library = require("accelerate", "train", "training")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        # torchrun starts processes in sessions of their own: without this they outlive it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if not dist.is_initialized():
            # The group's threads must end before Python does: one that still asks for Python's lock
            # aborts the process. They end with the last reference to the group, and this module,
            # which torch's compiler imports, would keep one in its default arguments.
            importlib.import_module("torch.distributed.nn.functional")
            atexit.register(dist.destroy_process_group)
    return library.Accelerator(cpu=not torch.cuda.is_available())


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Puts the mean over all processes in the place of every gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    bucket: list[Tensor] = []
    gradients = [p.grad for p in parameters if p.grad is not None]
    for number, gradient in enumerate(gradients):
        bucket.append(gradient)
        if number + 1 == len(gradients) or sum(x.numel() for x in bucket) >= _BUCKET:
            sent = torch.cat([x.flatten() for x in bucket])
            dist.all_reduce(sent)
            sent /= dist.get_world_size()
            for own, mean in zip(bucket, sent.split([x.numel() for x in bucket]), strict=True):
                own.copy_(mean.view_as(own))
            bucket = []
