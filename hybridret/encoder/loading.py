"""An encoder by folder or name, whatever it runs on."""

from __future__ import annotations

from pathlib import Path

from hybridret._extras import require
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.manifest import is_exported
from hybridret.encoder.onnx import OnnxEncoder


def load_encoder(source: str | Path, *, threads: int = 0) -> TextEncoder:
    """An encoder by folder or hub name: exported ones run on ONNX Runtime, others on torch.

    Raises:
        ModelError: the model cannot be found or used.
        MissingExtraError: the part that runs it is not installed.
    """
    if is_exported(source):
        return OnnxEncoder(source, threads=threads)
    require("torch", "train", f"loading {source} (not an exported encoder)")
    from hybridret.encoder.torch_encoder import TorchEncoder

    return TorchEncoder.load(source)
