"""Tensors in safetensors files: nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridret.errors import ModelError

WEIGHTS_FILE = "model.safetensors"


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors, which need not be contiguous.

    Raises:
        OSError: the file could not be written (a full disk).
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise cannot_write(path, error) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` or another library wrote.

    Raises:
        ModelError: missing or damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent}: no {path.name}; pickled weights are not loaded")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged or cut short: {error}") from None


def cannot_write(path: Path, error: SafetensorError) -> OSError:
    """safetensors reports a full disk by an error of its own."""
    return OSError(f"{path}: cannot be written: {error}")
