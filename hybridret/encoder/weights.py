"""Reading and writing tensors in safetensors files; pickle is never used."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    return OSError(f"{path}: cannot be written: {error}")
