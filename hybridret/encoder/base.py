"""What evaluation, index and retriever ask of an encoder: :class:`TextEncoder`.

:class:`hybridret.OnnxEncoder` runs a folder written by ``hybridret export``, without torch;
:class:`hybridret.TorchEncoder` a Hugging Face, sentence-transformers or static model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from hybridret._progress import progress_bar
from hybridret._types import Ints, Similarity, Vectors
from hybridret.encoder.tokenization import Tokenizer
from hybridret.errors import DataError, ModelError

CHUNK = 65_536
"""Texts that are tokenised, and sorted by length, at a time."""


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
    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Vectors:
        """float32 [B, dimension] for int64 [B, S] token ids and mask."""

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False
    ) -> Vectors:
        """float32 [N, dimension]; each text gets the query prompt."""
        return self._encode(texts, self.config.query_prompt, batch_size, progress, "queries")

    def encode_documents(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        progress: bool = False,
        out: Vectors | None = None,
    ) -> Vectors:
        """float32 [N, dimension]; each text gets the document prompt.

        Args:
            out: written to and returned, a memory map, say: then ``texts`` may be a stream of its
                length, of which :data:`CHUNK` texts are in memory at a time.
        """
        prompt = self.config.document_prompt
        return self._encode(texts, prompt, batch_size, progress, "documents", out)

    def _encode(
        self,
        texts: Iterable[str],
        prompt: str,
        batch_size: int,
        progress: bool,
        what: str,
        out: Vectors | None = None,
    ) -> Vectors:
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
