"""Text -> padded token ids, the same code for training, export and serving.

All text processing of a model is in its ``tokenizer.json``; only maximum length and padding are
set here. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridret._extras import require
from hybridret._types import Ints
from hybridret.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """A ``tokenizers.Tokenizer`` that truncates at ``max_length`` tokens, including special ones.

    Raises:
        ModelError: ``max_length`` is below 1.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        max_length: int,
        pad_id: int = 0,
        special_tokens: bool = True,
    ) -> None:
        if not 1 <= max_length < 1 << 31:
            raise ModelError(f"max_length must be at least 1 and below 2^31, got {max_length}")
        self.backend = backend
        self.max_length = max_length
        self.pad_id = pad_id
        self.special_tokens = special_tokens
        backend.no_padding()
        backend.enable_truncation(max_length)

    @classmethod
    def from_file(cls, path: str | Path, **settings: Any) -> Tokenizer:
        """Reads a ``tokenizer.json``.

        Raises:
            ModelError: the file is missing or not a tokenizer.
        """
        library = require("tokenizers", "serve", "reading a tokenizer")
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"{path.parent}: no {TOKENIZER_FILE} in this model folder")
        try:
            backend = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path}: not a tokenizer: {error}") from None
        return cls(backend, **settings)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocabulary_size: int, max_length: int) -> Tokenizer:
        """A new BPE tokenizer trained on ``texts``: NFKC, lower case, no special tokens added."""
        library = require("tokenizers", "train", "training a tokenizer")
        backend = library.Tokenizer(library.models.BPE(unk_token="[UNK]"))
        backend.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.Lowercase()]
        )
        backend.pre_tokenizer = library.pre_tokenizers.Sequence(
            [library.pre_tokenizers.Whitespace(), library.pre_tokenizers.Digits()]
        )
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary_size, special_tokens=["[PAD]", "[UNK]"], show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, max_length=max_length, pad_id=0, special_tokens=False)

    @property
    def vocabulary_size(self) -> int:
        return int(self.backend.get_vocab_size())

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, int32 [length], unpadded."""
        return self.ids_and_cut(texts)[0]

    def ids_and_cut(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int32]], int]:
        """Token ids of each text, and how many texts were cut off at ``max_length``."""
        special = self.special_tokens
        if len(texts) == 1:  # a batch goes to other threads, and waits for them
            encodings = [self.backend.encode(texts[0], add_special_tokens=special)]
        else:
            encodings = self.backend.encode_batch(list(texts), add_special_tokens=special)
        ids = [np.array(e.ids, dtype=np.int32) for e in encodings]
        full = (e for e, i in zip(encodings, ids, strict=True) if len(i) >= self.max_length)
        return ids, sum(bool(e.overflowing) for e in full)

    def subwords(self, texts: Sequence[str]) -> list[list[tuple[int, str]]]:
        """Token ids of each text, each with the part of the text that it stands for.

        Of the whole text, however long; without special tokens, the one for what is not in the
        vocabulary, and marks of spaces that stand alone.
        """
        found = []
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        for text, first in zip(texts, encodings, strict=True):
            found.append(
                [
                    (token, text[start:end])
                    for encoding in (first, *first.overflowing)
                    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
                    if token not in self._no_subwords
                ]
            )
        return found

    @cached_property
    def _no_subwords(self) -> set[int]:
        backend = self.backend
        unknown = getattr(backend.model, "unk_token", None) or "<unk>"
        names = (unknown, "<unk>", "[UNK]", "\u2581", "\u0120", "##")
        special = {n for n, t in backend.get_added_tokens_decoder().items() if t.special}
        numbers = [backend.token_to_id(name) for name in names]
        return special | {number for number in numbers if number is not None}

    def pad(self, ids: Sequence[NDArray[np.int32]]) -> tuple[Ints, Ints]:
        """(input_ids, attention_mask), int64 [B, S]; S is the longest length, at least 1."""
        width = max((len(i) for i in ids), default=1) or 1
        input_ids = np.full((len(ids), width), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, own in enumerate(ids):
            input_ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        return input_ids, mask

    def __call__(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """(input_ids, attention_mask) of texts, both int64 [B, S]."""
        return self.pad(self.ids(texts))
