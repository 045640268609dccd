"""An encoder as one ONNX file with pooling and normalisation inside, checked against torch.

The folder is in the sentence-transformers layout without the torch weights::

    hybridret.json      what OnnxEncoder needs: prompts, lengths, similarity, fingerprint, parity
    tokenizer.json
    onnx/model.onnx     input_ids, attention_mask -> last_hidden_state, sentence_embedding
    config.json, modules.json, 1_Pooling/, ...   for other readers of that layout
"""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybridret import _native
from hybridret._extras import require
from hybridret._files import atomic_folder, read_json, write_json
from hybridret.encoder import model_folder
from hybridret.encoder.manifest import (
    INDEX_FOLDER,
    MANIFEST_FILE,
    ONNX_FILE,
    is_exported,
    seal,
)
from hybridret.encoder.model import EncoderModel
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError

OPSET = 18
PARITY_BOUND = 1e-4
"""Largest difference between ONNX and torch that is let out, relative to the largest value."""

# Texts of several scripts and lengths, the empty one among them: what parity is checked on.
PROBE_TEXTS = (
    "What is the capital of France?",
    "Париж — столица Франции.",
    "法国的首都是巴黎。",
    "ما هي عاصمة فرنسا؟",
    "ฝรั่งเศสมีเมืองหลวงชื่อปารีส",
    "",
    "Paris " * 90,
)


@dataclass(frozen=True)
class ExportResult:
    """Where the encoder is, and the largest relative difference to torch on the probe texts."""

    folder: Path
    dimension: int
    fingerprint: str
    parity: float
    megabytes: float


class _Graph(nn.Module):
    def __init__(self, model: EncoderModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model.tokens(input_ids, attention_mask)
        return tokens, self.model.pool(tokens, attention_mask)


def export(
    encoder: TorchEncoder | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    source: str | None = None,
) -> ExportResult:
    """Writes ``encoder`` (or the model of a folder or hub name) to the folder ``output``.

    Args:
        overwrite: replace an encoder that was exported to ``output``. An index beside it is kept
            where the new encoder gives the same vectors; otherwise nothing is replaced.
        source: what the manifest names as the model's origin.

    Raises:
        ModelError: the model cannot be loaded or exported, or ONNX and torch differ by more than
            ``PARITY_BOUND``; ``output`` exists and ``overwrite`` is not set, or holds an index of
            other vectors. Nothing is written then.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export", "exporting an encoder")
    output = Path(output)
    check_output(output, encoder, overwrite)
    if not isinstance(encoder, TorchEncoder):
        source = source or str(encoder)
        encoder = TorchEncoder.load(encoder)
    with atomic_folder(output) as folder:
        model_folder.write_description(folder, encoder.model, encoder.tokenizer, encoder.config)
        model = folder / ONNX_FILE
        model.parent.mkdir()
        _write_onnx(encoder.model, model)
        manifest = {
            "schema": 1,
            "hybridret": _native.__version__,
            "source": source or "a model in memory",
            "dimension": encoder.dimension,
            "encoder": encoder.config.to_dict(),
            "pooling": encoder.model.pooling,
            "normalize": encoder.model.normalize,
            "opset": OPSET,
            **seal(folder, encoder.config.to_dict()),
        }
        write_json(folder / MANIFEST_FILE, manifest)
        parity = _parity(encoder, OnnxEncoder(folder))
        if not parity <= PARITY_BOUND:
            raise ModelError(
                f"the ONNX model differs from torch by {parity:.2e} of the largest value "
                f"(bound {PARITY_BOUND:g}); nothing was written"
            )
        write_json(folder / MANIFEST_FILE, manifest | {"parity": parity})
        _keep_index(output, folder, str(manifest["fingerprint"]))
        size = sum(f.stat().st_size for f in model.parent.iterdir()) / 1e6
    return ExportResult(output, encoder.dimension, str(manifest["fingerprint"]), parity, size)


def check_output(output: Path, encoder: TorchEncoder | str | Path, overwrite: bool) -> None:
    """Raises ModelError where an export to ``output`` would destroy something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise ModelError(f"{output} already exists; choose another folder, or pass --overwrite")
    same = not isinstance(encoder, TorchEncoder) and Path(encoder).resolve() == output.resolve()
    if same or not is_exported(output):
        raise ModelError(f"{output} is not an exported encoder; only those are overwritten")


def _keep_index(old: Path, new: Path, fingerprint: str) -> None:
    """The index of the encoder that is replaced goes along where the vectors stay the same."""
    index = old / INDEX_FOLDER
    if not index.is_dir() or not any(index.iterdir()):
        return
    before = read_json(old / MANIFEST_FILE, ModelError).get("fingerprint")
    if before != fingerprint:
        raise ModelError(
            f"{index} was made with the encoder that is to be replaced, and the new one gives "
            f"other vectors: export to another folder, or remove {index} first; nothing was written"
        )
    shutil.copytree(index, new / INDEX_FOLDER)


def _write_onnx(model: EncoderModel, path: Path) -> None:
    training = model.training
    model.eval()
    graph = _Graph(model)
    # Two rows and several tokens: an axis of length one would be taken for a constant.
    example = (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    for name in ("onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state", "sentence_embedding"],
                dynamic_shapes=(axes, axes),
                verbose=False,
            )
        # One file where protobuf's 2 GiB allow it.
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        program.save(str(path), external_data=weights > 1.8e9)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"torch cannot export this model to ONNX: {reason}") from error
    finally:
        model.train(training)


def _parity(encoder: TorchEncoder, exported: OnnxEncoder) -> float:
    worst = 0.0
    for texts in (list(PROBE_TEXTS), *([text] for text in PROBE_TEXTS)):
        expected = encoder.encode_documents(texts)
        difference = np.abs(exported.encode_documents(texts) - expected).max()
        worst = max(worst, float(difference / max(np.abs(expected).max(), 1e-30)))
    return worst
