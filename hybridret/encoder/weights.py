"""Reading and writing tensors in safetensors files; pickle is never used."""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridret._files import UMASK
from hybridret.errors import ModelError

WEIGHTS_FILE = "model.safetensors"


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors, contiguous or not.

    Raises:
        OSError: the file could not be written (e.g. the disk is full).
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise cannot_write(path, error) from None
    default_permissions(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent}: no {path.name} (pickled weights are not loaded)")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged or truncated: {error}") from None


def cannot_write(path: Path, error: SafetensorError) -> OSError:
    """An OSError for safetensors' own error, which it raises for a full disk, for example."""
    code = re.search(r"os error (\d+)", str(error))
    if code is None:
        return OSError(f"{path}: cannot be written: {error}")
    return OSError(int(code[1]), os.strerror(int(code[1])), str(path))


def default_permissions(path: Path) -> None:
    """Those of a newly made file: safetensors makes its files for their owner alone."""
    if path.is_file() and not path.is_symlink():
        path.chmod(0o666 & ~UMASK)
