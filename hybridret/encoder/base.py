"""The interface of an encoder that evaluation, index and retriever use: :class:`TextEncoder`.

:class:`hybridret.OnnxEncoder` runs a folder written by ``hybridret export``, without torch;
:class:`hybridret.TorchEncoder` a Hugging Face, sentence-transformers or static model.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from hybridret._progress import progress_bar
from hybridret._types import Ints, Similarity, Vectors
from hybridret.encoder.tokenization import Tokenizer
from hybridret.errors import DataError, ModelError

CHUNK = 65_536
"""Number of texts that are tokenised and sorted by length together."""
BATCH_TOKENS = 2048
"""Tokens of a batch, padding included: they decide what it takes in memory."""
_log = logging.getLogger("hybridret")
_counting = threading.Lock()


@dataclass(frozen=True)
class EncoderConfig:
    """How a text becomes the model's input, and how vectors are compared.

    Attributes:
        query_prompt, document_prompt: put before every query and document, unchanged.
        max_length: tokens, including special tokens; longer texts are truncated.
        pad_id: token id used for padding.
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
        """The configuration from the result of :meth:`to_dict`.

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
    """Maps queries and documents to vectors in one space.

    Attributes:
        batch_tokens: a batch has at most so many tokens, padding included, unless it is a single
            text: long texts are embedded in smaller batches than ``batch_size`` says.
        cut: how many texts have been longer than ``config.max_length`` tokens so far; what follows
            is not embedded. The first time it is logged.
    """

    tokenizer: Tokenizer
    config: EncoderConfig
    dimension: int
    batch_tokens: int = BATCH_TOKENS
    cut: int = 0

    @abstractmethod
    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Vectors:
        """float32 [B, dimension] for int64 [B, S] token ids and mask."""

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool = False
    ) -> Vectors:
        """float32 [N, dimension]; the query prompt is put before each text."""
        return self._encode(texts, self.config.query_prompt, batch_size, progress, "queries")

    def encode_documents(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        progress: bool = False,
        out: Vectors | None = None,
    ) -> Vectors:
        """float32 [N, dimension]; the document prompt is put before each text.

        Args:
            out: float32 [N, dimension], for example a memory map; the vectors are written to it and
                it is returned. ``texts`` may then be an iterator of N texts, of which only
                :data:`CHUNK` are in memory at a time.

        Raises:
            DataError: ``out`` has more or fewer rows than there are texts.
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
            raise TypeError(f"expected a list of {what}, got a single string; put it into a list")
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        if out is None:
            texts = list(texts)
            out = np.empty((len(texts), self.dimension), dtype=np.float32)
        done, stream = 0, iter(texts)
        with progress_bar(len(out), f"Encoding {what}", enabled=progress) as bar:
            while chunk := list(islice(stream, CHUNK)):
                if done + len(chunk) > len(out):
                    raise DataError(f"more {what} than the {len(out)} rows of the output array")
                ids, cut = self.tokenizer.ids_and_cut([prompt + text for text in chunk])
                if cut:
                    self._count_cut(cut, len(chunk), what)
                for rows in self._batches([len(i) for i in ids], batch_size):
                    batch = self.tokenizer.pad([ids[r] for r in rows])
                    out[done + rows] = self.embed_tokens(*batch)
                    bar.update(len(rows))
                done += len(chunk)
        if done < len(out):
            raise DataError(f"{done} {what}, but the output array has {len(out)} rows")
        return out

    def _batches(self, lengths: Sequence[int], batch_size: int) -> Iterator[Ints]:
        """Rows of each batch: texts of similar length share one, which reduces padding."""
        order = np.argsort(lengths, kind="stable")[::-1]
        start = 0
        while start < len(order):
            longest = max(1, lengths[order[start]])
            size = min(batch_size, max(1, self.batch_tokens // longest))
            yield order[start : start + size]
            start += size

    def _count_cut(self, cut: int, texts: int, what: str) -> None:
        with _counting:
            first, self.cut = not self.cut, self.cut + cut
        if first:
            _log.warning(
                "%d of %d %s have more than %d tokens: what follows is not embedded",
                cut,
                texts,
                what,
                self.config.max_length,
            )
