"""Exported encoders on ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hybridret._extras import require
from hybridret._types import Ints, Vectors
from hybridret.encoder.base import EncoderConfig, TextEncoder
from hybridret.encoder.manifest import MANIFEST_FILE, ONNX_FILE, read_manifest
from hybridret.encoder.tokenization import TOKENIZER_FILE, Tokenizer
from hybridret.errors import ModelError


class OnnxEncoder(TextEncoder):
    """An encoder written by :func:`hybridret.export`, run by ONNX Runtime.

    Args:
        folder: holds ``hybridret.json``, ``tokenizer.json`` and ``onnx/model.onnx``.
        threads: of one call; 0 leaves it to ONNX Runtime (all cores).

    Raises:
        ModelError: a file is missing or damaged, or the folder was not written by export.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        folder = Path(folder)
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
        runtime = require("onnxruntime", "serve", "running an exported encoder")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [p for p in wanted if p in runtime.get_available_providers()]
        model = folder / ONNX_FILE
        try:
            self.session = runtime.InferenceSession(str(model), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own pybind exceptions
            raise ModelError(f"{model}: onnxruntime cannot load it: {error}") from None
        for output in self.session.get_outputs():
            if output.name == "sentence_embedding" and output.shape[-1] != self.dimension:
                raise ModelError(
                    f"{folder / MANIFEST_FILE}: damaged: 'dimension' is {self.dimension}, but the "
                    f"model gives {output.shape[-1]}"
                )

    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Vectors:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        (vectors,) = self.session.run(["sentence_embedding"], feed)
        return np.asarray(vectors, dtype=np.float32)
