"""Export of an encoder to ONNX, including pooling and normalisation, checked against torch.

The folder is in the sentence-transformers layout without the torch weights::

    hybridret.json      the manifest: prompts, lengths, similarity, checksums, fingerprint, parity,
                        and for a smaller graph what it costs in retrieval
    tokenizer.json
    onnx/model.onnx     input_ids, attention_mask -> last_hidden_state, sentence_embedding
    config.json, modules.json, 1_Pooling/, ...   for other programs that read this layout
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridret import _native
from hybridret._extras import require
from hybridret._files import atomic_folder, read_json, write_json
from hybridret._types import Ints, Vectors
from hybridret.encoder import model_folder
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.manifest import (
    INDEX_FOLDER,
    MANIFEST_FILE,
    ONNX_FILE,
    is_exported,
    seal,
)
from hybridret.encoder.onnx import OnnxEncoder, open_session
from hybridret.encoder.onnx_graph import OPSET, write_graph
from hybridret.encoder.quantization import PRECISIONS, Precision, quantize
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError

PARITY_BOUNDS: dict[Precision, float] = {"float32": 1e-4, "float16": 0.02, "int8": 0.5}
"""Largest difference allowed between ONNX and torch, relative to the largest value.

Of 8 bits it only says that the graph is not broken: the rest says the loss in retrieval.
"""

Gate = Callable[[TextEncoder, TextEncoder], dict[str, Any]]
"""Compares the encoder as it was and as it is exported: what it measured, for the manifest.

It raises ModelError if the loss is too large, see :class:`hybridret.evaluation.gate.RetrievalGate`.
"""

_LONGEST_PROBE = 1024  # tokens

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
    """An exported encoder.

    Attributes:
        parity: largest difference from torch on probe texts, relative to the largest value.
        fused: how many nodes of ONNX Runtime's own the graph has, by kind.
        quality: what the gate measured; empty if there was none.
        not_fused: why fusing failed; empty if it did not.
    """

    folder: Path
    dimension: int
    fingerprint: str
    parity: float
    megabytes: float
    precision: Precision = "float32"
    fused: dict[str, int] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    not_fused: str = ""


def export(
    encoder: TorchEncoder | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    source: str | None = None,
    precision: Precision = "float32",
    gate: Gate | None = None,
    unmeasured: bool = False,
    fuse: bool = True,
) -> ExportResult:
    """Writes ``encoder`` (or the model of a folder or hub name) to the folder ``output``.

    Args:
        overwrite: replace an encoder that was exported to ``output``. If it has an index,
            nothing is replaced: it stays if the new encoder has the same fingerprint.
        source: the model's origin, for the manifest.
        precision: ``int8`` is a quarter of the size and about twice as fast on a processor;
            ``float16`` half of the size, for GPUs. Both need a ``gate``, and so does an encoder of
            :func:`hybridret.trim_vocabulary`.
        gate: measures what the export costs in retrieval, and refuses too much.
        unmeasured: export without a gate where one is needed; the manifest says so.
        fuse: use nodes of ONNX Runtime's own, see :mod:`hybridret.encoder.onnx_graph`. Without them
            other runtimes can run the graph.

    Raises:
        ModelError: the model cannot be loaded or exported; ONNX and torch differ by more than
            ``PARITY_BOUNDS``; the gate refuses or is missing; ``output`` exists and ``overwrite``
            is not set; or ``output`` has an index made with another encoder. Nothing is written
            then.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export", "exporting an encoder")
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    original = encoder.untrimmed if isinstance(encoder, TorchEncoder) else None
    reduced = precision != "float32" or original is not None
    if reduced and gate is None and not unmeasured:
        raise ModelError(
            "a smaller encoder may find less, and how much depends on the language: give data to "
            "measure it on (--evaluate DATA; gate=RetrievalGate(dataset)), or export it unmeasured "
            "(--force; unmeasured=True)"
        )
    output = Path(output)
    check_output(output, encoder, overwrite)
    if not isinstance(encoder, TorchEncoder):
        source = source or str(encoder)
        encoder = TorchEncoder.load(encoder)
    with suppress(_Unchanged), atomic_folder(output) as folder:
        model_folder.write_description(folder, encoder.model, encoder.tokenizer, encoder.config)
        (folder / ONNX_FILE).parent.mkdir()
        manifest, not_fused = _write(encoder, folder, precision, fuse, source)
        unchanged = _is_unchanged(output, str(manifest["fingerprint"]))
        quality = gate(original or encoder, OnnxEncoder(folder)) if gate is not None else {}
        if quality or reduced:
            manifest["quality"] = quality or "not measured"
        if original is not None:
            counts = [e.model.table.num_embeddings for e in (original, encoder)]
            manifest["tokens"] = {"before": counts[0], "after": counts[1]}
        write_json(folder / MANIFEST_FILE, manifest)
        size = sum(f.stat().st_size for f in (folder / ONNX_FILE).parent.iterdir()) / 1e6
        if unchanged:
            if quality:
                known = read_json(output / MANIFEST_FILE, ModelError)
                write_json(output / MANIFEST_FILE, known | {"quality": quality})
            raise _Unchanged
    return ExportResult(
        output,
        encoder.dimension,
        str(manifest["fingerprint"]),
        manifest["parity"],
        size,
        precision,
        manifest["fused"],
        quality,
        not_fused,
    )


def _write(
    encoder: TorchEncoder, folder: Path, precision: Precision, fuse: bool, source: str | None
) -> tuple[dict[str, Any], str]:
    """Writes graph and manifest, and checks that they do what torch does.

    Fusing is a matter of speed: if it went wrong, the graph is written without. Returns the
    manifest, and why.
    """
    half, max_length = precision == "float16", encoder.tokenizer.max_length
    try:
        fused = write_graph(
            encoder.model, folder / ONNX_FILE, fuse=fuse, half=half, max_length=max_length
        )
        if precision == "int8":
            _check_parity(encoder, folder / ONNX_FILE, "float32")
            quantize(folder / ONNX_FILE)
        parity = _check_parity(encoder, folder / ONNX_FILE, precision)
        manifest: dict[str, Any] = {
            "schema": 1,
            "hybridret": _native.__version__,
            "source": source or "a model in memory",
            "dimension": encoder.dimension,
            "encoder": encoder.config.to_dict(),
            "pooling": encoder.model.pooling,
            "normalize": encoder.model.normalize,
            "opset": OPSET,
            "precision": precision,
            "fused": fused,
            **seal(folder, encoder.config.to_dict()),
            "parity": parity,
        }
        write_json(folder / MANIFEST_FILE, manifest)
    except ModelError as error:
        if not fuse:
            raise
        for file in (folder / ONNX_FILE).parent.iterdir():
            file.unlink()
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        manifest, _ = _write(encoder, folder, precision, False, source)
        return manifest, str(error)
    return manifest, ""


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


def _is_unchanged(old: Path, fingerprint: str) -> bool:
    """Whether an encoder that has an index gives the same vectors as the new one.

    Raises:
        ModelError: it may give others; the index would no longer match.
    """
    index = old / INDEX_FOLDER
    if not index.is_dir() or not any(index.iterdir()):
        return False
    before = read_json(old / MANIFEST_FILE, ModelError).get("fingerprint")
    if before != fingerprint:
        raise ModelError(
            f"{index} was made with the encoder that would be replaced, and the new one may give "
            f"different vectors: export to another folder, or remove {index} first; nothing was "
            f"written"
        )
    return True


def _check_parity(encoder: TorchEncoder, model: Path, precision: Precision) -> float:
    """The largest difference from torch, of token and text vectors, relative to the largest value.

    Raises:
        ModelError: it is too large, or a value is not finite.
    """
    length = min(encoder.tokenizer.max_length, _LONGEST_PROBE)
    texts = [*PROBE_TEXTS, "Paris " * length]
    session = open_session(model)
    differences = []
    for some in (texts, *([text] for text in texts)):
        ids, mask = encoder.tokenizer(some)
        found = session.run(None, {"input_ids": ids, "attention_mask": mask})
        for ours, theirs in zip(found, _of_torch(encoder, ids, mask), strict=True):
            seen = mask.astype(bool) if ours.ndim == 3 else slice(None)
            largest = max(float(np.abs(theirs[seen]).max(initial=0)), 1e-30)
            differences.append(float(np.abs(ours[seen] - theirs[seen]).max(initial=0)) / largest)
    # Of a maximum NaN would be lost; token vectors in 8 bits are further off than those of texts.
    if precision == "int8":
        differences = differences[1::2]
    parity = float(np.max(differences))
    if not parity <= PARITY_BOUNDS[precision]:
        raise ModelError(
            f"the ONNX model differs from torch by {parity:.2e} of the largest value "
            f"(at most {PARITY_BOUNDS[precision]:g} is allowed); nothing was written"
        )
    return parity


@torch.inference_mode()
def _of_torch(encoder: TorchEncoder, ids: Ints, mask: Ints) -> tuple[Vectors, Vectors]:
    """Token vectors [B, S, width] and text vectors [B, D]."""
    device = next(encoder.model.parameters()).device
    training = encoder.model.training
    encoder.model.eval()
    inputs = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    tokens = encoder.model.tokens(*inputs)
    vectors = encoder.model.pool(tokens, inputs[1])
    encoder.model.train(training)
    return tokens.float().cpu().numpy(), vectors.float().cpu().numpy()
