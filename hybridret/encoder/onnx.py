"""Exported encoders on ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Literal

import numpy as np

from hybridret import _native
from hybridret._extras import require
from hybridret._types import Ints, Vectors
from hybridret.encoder.base import EncoderConfig, TextEncoder
from hybridret.encoder.manifest import MANIFEST_FILE, ONNX_FILE, read_manifest
from hybridret.encoder.tokenization import TOKENIZER_FILE, Tokenizer
from hybridret.errors import ModelError

Device = Literal["auto", "cpu", "cuda"]
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxEncoder(TextEncoder):
    """An encoder written by :func:`hybridret.export`, run by ONNX Runtime.

    It may be used by any number of threads: calls beyond ``permits`` wait, so that memory does not
    grow with the threads.

    Args:
        folder: contains ``hybridret.json``, ``tokenizer.json`` and ``onnx/model.onnx``.
        threads: per call; 0 for ONNX Runtime's default (all cores).
        permits: calls of the model at the same time; 0: as many as use all cores, at least 2.
        device: ``auto``: ``cuda`` where onnxruntime-gpu and a GPU are there, else ``cpu``.

    Raises:
        ModelError: a file is missing or damaged, the folder was not written by export, or the
            device is not there.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int = 0,
        permits: int = 0,
        device: Device = "auto",
    ) -> None:
        folder = Path(folder)
        for name, value in (("threads", threads), ("permits", permits)):
            if value < 0:
                raise ModelError(f"{name} must be at least 0, got {value}")
        manifest = read_manifest(folder)
        self.folder = folder
        self.config = EncoderConfig.from_dict(manifest["encoder"], str(folder / MANIFEST_FILE))
        self.dimension: int = manifest["dimension"]
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer = Tokenizer.from_file(
            folder / TOKENIZER_FILE,
            max_length=self.config.max_length,
            pad_id=self.config.pad_id,
            special_tokens=self.config.special_tokens,
        )
        self.session = open_session(folder / ONNX_FILE, threads, device)
        self.device = "cuda" if _CUDA in self.session.get_providers() else "cpu"
        cores = _native.default_threads()
        self.permits = permits or max(2, cores // (threads or cores))
        self._permits = BoundedSemaphore(self.permits)
        for output in self.session.get_outputs():
            if output.name == "sentence_embedding" and output.shape[-1] != self.dimension:
                raise ModelError(
                    f"{folder / MANIFEST_FILE}: damaged: 'dimension' is {self.dimension}, but the "
                    f"model's output has {output.shape[-1]}"
                )

    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Vectors:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        with self._permits:
            (vectors,) = self.session.run(["sentence_embedding"], feed)
        return np.asarray(vectors, dtype=np.float32)


def open_session(model: Path, threads: int = 0, device: Device = "auto") -> Any:
    """A session of ONNX Runtime, as encoders are run.

    On a processor sums are not put into one node with the layer norm behind them: it takes twice
    the time of both.

    Raises:
        ModelError: it cannot be loaded, or the device is not there.
        MissingExtraError: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "serve", "running an exported encoder")
    available = runtime.get_available_providers()
    if device not in ("auto", "cpu", "cuda"):
        raise ModelError(f"unknown device {device!r}; expected auto, cpu or cuda")
    if device == "cuda" and _CUDA not in available:
        raise ModelError(
            "device is 'cuda', but this onnxruntime is for processors alone: install "
            "onnxruntime-gpu in its place (pip install 'hybridret[serve-gpu]')"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Patterns are kept for every shape of input that ever came: texts have hundreds.
    options.enable_mem_pattern = False
    use_cuda = device != "cpu" and _CUDA in available
    try:
        session = runtime.InferenceSession(
            str(model),
            options,
            providers=[_CUDA, _CPU] if use_cuda else [_CPU],
            disabled_optimizers=[] if use_cuda else ["SkipLayerNormFusion"],
        )
    except Exception as error:  # onnxruntime raises its own pybind exceptions
        raise ModelError(f"{model}: onnxruntime cannot load it: {error}") from None
    if device == "cuda" and _CUDA not in session.get_providers():
        raise ModelError("device is 'cuda', but onnxruntime finds no GPU that it can use")
    return session
