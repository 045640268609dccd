"""Text encoders. This module serves queries and never imports torch or transformers.

:class:`TextEncoder` is what evaluation, index and retriever ask for; :class:`OnnxEncoder` runs a
folder written by ``hybridret export``. The torch side, :class:`hybridret.TorchEncoder`, is
the same interface over a Hugging Face, sentence-transformers or static model.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._extras import require
from hybridret._progress import progress_bar
from hybridret.errors import DataError, ModelError
from hybridret.tokenization import TOKENIZER_FILE, Ints, Tokenizer

Floats = NDArray[np.float32]
Similarity = Literal["cosine", "dot"]
LONGEST = 1e18
"""Norm of the longest vector for inner products: those of longer ones may overflow float32."""

CHUNK = 65_536
"""Texts that are tokenised, and sorted by length, at a time."""

MANIFEST_FILE = "hybridret.json"
ONNX_FILE = "onnx/model.onnx"


@dataclass(frozen=True)
class EncoderConfig:
    """What turns a text into the model's input, and its output into a score.

    Attributes:
        query_prompt, document_prompt: put before every query and document, as they stand.
        max_length: tokens, special ones included; longer texts are cut.
        pad_id: token id that fills up a batch.
        special_tokens: whether the tokenizer adds its special tokens.
        similarity: ``cosine`` or ``dot``.
    """

    query_prompt: str = ""
    document_prompt: str = ""
    max_length: int = 512
    pad_id: int = 0
    special_tokens: bool = True
    similarity: Similarity = "cosine"

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> EncoderConfig:
        """Reads :meth:`to_dict`'s form.

        Raises:
            ModelError: a field is missing or has the wrong type.
        """
        try:
            config = cls(**{name: values[name] for name in asdict(cls())})
        except KeyError as error:
            raise ModelError(f"{where}: no field {error}") from None
        for name, default in asdict(cls()).items():
            if type(getattr(config, name)) is not type(default):
                raise ModelError(f"{where}: field {name!r} has the wrong type: {values[name]!r}")
        if config.similarity not in ("cosine", "dot"):
            raise ModelError(f"{where}: similarity is {config.similarity!r}, not cosine or dot")
        return config

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class TextEncoder(ABC):
    """Maps queries and documents to vectors of one space."""

    tokenizer: Tokenizer
    config: EncoderConfig
    dimension: int

    @abstractmethod
    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """float32 [B, dimension] for int64 [B, S] token ids and mask."""

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False
    ) -> Floats:
        """float32 [N, dimension]; each text gets the query prompt."""
        return self._encode(texts, self.config.query_prompt, batch_size, progress, "queries")

    def encode_documents(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        progress: bool = False,
        out: Floats | None = None,
    ) -> Floats:
        """float32 [N, dimension]; each text gets the document prompt.

        Args:
            out: written to and returned, a memory map, say: then ``texts`` may be a stream of its
                length, of which :data:`CHUNK` texts are in memory at a time.
        """
        prompt = self.config.document_prompt
        return self._encode(texts, prompt, batch_size, progress, "documents", out)

    def _encode(
        self, texts: Iterable[str], prompt: str, batch_size: int, progress: bool, what: str,
        out: Floats | None = None,
    ) -> Floats:  # fmt: skip
        if isinstance(texts, str):
            raise TypeError(f"expected a list of {what}, got one text; put it into a list")
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        if out is None:
            texts = list(texts)
            out = np.empty((len(texts), self.dimension), dtype=np.float32)
        done, stream = 0, iter(texts)
        with progress_bar(len(out), f"Encoding {what}", enabled=progress) as bar:
            while chunk := list(islice(stream, CHUNK)):
                if done + len(chunk) > len(out):
                    raise DataError(f"more than the {len(out)} {what} that there is room for")
                ids = self.tokenizer.ids([prompt + text for text in chunk])
                # Texts of like length share a batch, so that little of it is padding.
                order = np.argsort([len(i) for i in ids], kind="stable")[::-1]
                for start in range(0, len(ids), batch_size):
                    rows = order[start : start + batch_size]
                    batch = self.tokenizer.pad([ids[r] for r in rows])
                    out[done + rows] = self.embed_tokens(*batch)
                    bar.update(len(rows))
                done += len(chunk)
        if done < len(out):
            raise DataError(f"{done} {what}, but room for {len(out)}")
        return out


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
        self.dimension = int(manifest["dimension"])
        self.fingerprint = str(manifest["fingerprint"])
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
        if not model.is_file():
            raise ModelError(f"{folder}: no {ONNX_FILE} in this encoder folder")
        try:
            self.session = runtime.InferenceSession(str(model), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own pybind exceptions
            raise ModelError(f"{model}: onnxruntime cannot load it: {error}") from None

    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        (vectors,) = self.session.run(["sentence_embedding"], feed)
        return np.asarray(vectors, dtype=np.float32)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The ``hybridret.json`` of an exported encoder.

    Raises:
        ModelError: missing, damaged, or of a newer schema.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder}: not an exported encoder (no {MANIFEST_FILE}); make one with "
            f"'hybridret export MODEL {folder}'"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = {"schema", "dimension", "fingerprint", "encoder"} <= manifest.keys()
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged: {error}") from None
    if not complete or manifest["schema"] != 1:
        raise ModelError(f"{path}: not an encoder manifest this version reads (schema 1)")
    return dict(manifest)


def load_encoder(source: str | Path, *, threads: int = 0) -> TextEncoder:
    """An encoder by folder or hub name: exported ones run on ONNX Runtime, others on torch.

    Raises:
        ModelError: the model cannot be found or used.
        MissingExtraError: the part that runs it is not installed.
    """
    if (Path(source) / MANIFEST_FILE).is_file():
        return OnnxEncoder(source, threads=threads)
    require("torch", "train", f"loading {source} (not an exported encoder)")
    from hybridret.torch_encoder import TorchEncoder

    return TorchEncoder.load(source)
