"""Export of an encoder to ONNX, including pooling and normalisation, checked against torch.

The folder is in the sentence-transformers layout without the torch weights::

    hybridret.json      the manifest: prompts, lengths, similarity, checksums, fingerprint, parity
    tokenizer.json
    onnx/model.onnx     input_ids, attention_mask -> last_hidden_state, sentence_embedding
    config.json, modules.json, 1_Pooling/, ...   for other programs that read this layout
"""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
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
"""Largest difference allowed between ONNX and torch, relative to the largest value."""

# Parity is checked on these texts: several scripts and lengths, and an empty text.
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
    """The exported encoder; ``parity``: largest relative difference from torch on probe texts."""

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
        overwrite: replace an encoder that was exported to ``output``. If it has an index,
            nothing is replaced: it stays if the new encoder has the same fingerprint.
        source: the model's origin, for the manifest.

    Raises:
        ModelError: the model cannot be loaded or exported; ONNX and torch differ by more than
            ``PARITY_BOUND``; ``output`` exists and ``overwrite`` is not set; or ``output`` has an
            index made with another encoder. Nothing is written then.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export", "exporting an encoder")
    output = Path(output)
    check_output(output, encoder, overwrite)
    if not isinstance(encoder, TorchEncoder):
        source = source or str(encoder)
        encoder = TorchEncoder.load(encoder)
    with suppress(_Unchanged), atomic_folder(output) as folder:
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
                f"(at most {PARITY_BOUND:g} is allowed); nothing was written"
            )
        write_json(folder / MANIFEST_FILE, manifest | {"parity": parity})
        size = sum(f.stat().st_size for f in model.parent.iterdir()) / 1e6
        _check_index(output, str(manifest["fingerprint"]))
    return ExportResult(output, encoder.dimension, str(manifest["fingerprint"]), parity, size)


def check_output(output: Path, encoder: TorchEncoder | str | Path, overwrite: bool) -> None:
    """Raises ModelError if an export to ``output`` would overwrite anything but an export."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        overwrite_it = ", or pass --overwrite (overwrite=True)" if is_exported(output) else ""
        raise ModelError(f"{output} already exists; choose another folder{overwrite_it}")
    same = not isinstance(encoder, TorchEncoder) and Path(encoder).resolve() == output.resolve()
    if same or not is_exported(output):
        raise ModelError(
            f"{output} is not an exported encoder; only exported encoders are overwritten"
        )
    listed = read_json(output / MANIFEST_FILE, ModelError).get("files")
    if listed is None:
        return  # hybridret 0.1 listed none
    ours = {MANIFEST_FILE, *listed}
    for file in sorted(output.rglob("*")):
        name = file.relative_to(output).as_posix()
        if file.is_file() and name not in ours and not name.startswith(f"{INDEX_FOLDER}/"):
            raise ModelError(f"{file} is not part of the export that would be replaced: move it")


class _Unchanged(Exception):
    """The encoder is there already, with an index, which processes may be using."""


def _check_index(old: Path, fingerprint: str) -> None:
    """Whether an encoder may be replaced, which may have an index.

    Raises:
        ModelError: the new encoder may give other vectors; the index would no longer match.
        _Unchanged: it gives the same vectors.
    """
    index = old / INDEX_FOLDER
    if not index.is_dir() or not any(index.iterdir()):
        return
    before = read_json(old / MANIFEST_FILE, ModelError).get("fingerprint")
    if before != fingerprint:
        raise ModelError(
            f"{index} was made with the encoder that would be replaced, and the new one may give "
            f"different vectors: export to another folder, or remove {index} first; nothing was "
            f"written"
        )
    raise _Unchanged


def _write_onnx(model: EncoderModel, path: Path) -> None:
    training = model.training
    model.eval()
    graph = _Graph(model)
    # Several texts and tokens: the exporter would treat an axis of length 1 as a constant.
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
        # One file, unless it would exceed protobuf's limit of 2 GiB.
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        _strip_metadata(program.model)
        program.save(str(path), external_data=weights > 1.8e9)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"torch cannot export this model to ONNX: {reason}") from error
    finally:
        model.train(training)


def _strip_metadata(model: Any) -> None:
    """Removes the exporter's stack traces: paths of this machine, in which equal models differ."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()


def _parity(encoder: TorchEncoder, exported: OnnxEncoder) -> float:
    worst = 0.0
    for texts in (list(PROBE_TEXTS), *([text] for text in PROBE_TEXTS)):
        expected = encoder.encode_documents(texts)
        difference = np.abs(exported.encode_documents(texts) - expected).max()
        worst = max(worst, float(difference / max(np.abs(expected).max(), 1e-30)))
    return worst
