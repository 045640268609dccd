"""What the encoder reads of a batch: padded token ids, in sub-batches of texts of like lengths.

Padding is a third of the tokens of a batch of questions and passages, and a tenth if eight texts of
like lengths are padded together. The vectors are the same, and so is the loss: it sees all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hybridret._types import Ints
from hybridret.encoder.model import EncoderModel
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.training.packing import Part, can_pack, packed_tokens
from hybridret.training.pairs import Batch, TrainingData

_CACHED_TOKENS = 200_000_000  # int32: 0.8 GB; further texts are tokenised on every use


@dataclass(frozen=True)
class Features:
    """The texts of a batch: queries, then documents.

    Attributes:
        parts: token ids and attention mask of each sub-batch, int64 [b, S].
        order: int64 [n], place of each text in the concatenated sub-batches.
        queries: how many of the texts are queries.
        tokens: how many tokens they have, without padding.
    """

    parts: list[Part]
    order: Tensor
    queries: int
    tokens: int


class Collator:
    """Makes the features of batches; tokens are kept for the next epoch.

    Args:
        sub_batch: texts of a forward pass; None: all texts of a batch.
    """

    def __init__(
        self,
        encoder: TorchEncoder,
        sources: Sequence[TrainingData],
        *,
        sub_batch: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources = list(sources)
        self.pad = encoder.tokenizer.pad
        self.sub_batch = sub_batch
        self.device = device
        config, tokenizer = encoder.config, encoder.tokenizer
        self._queries, self._documents = [], []
        for source in sources:
            table = source.table
            prompts = [source.query_prompt, source.document_prompt]
            own = [config.query_prompt, config.document_prompt]
            asked, told = (b if a is None else a for a, b in zip(prompts, own, strict=True))
            self._queries.append(_TokenCache(tokenizer, table.query_texts, asked))
            self._documents.append(_TokenCache(tokenizer, table.document_texts, told))

    def __call__(self, batch: Batch) -> Features:
        table = self.sources[batch.source].table
        ids = self._queries[batch.source].ids(batch.queries(table))
        count = len(ids)
        ids = ids + self._documents[batch.source].ids(batch.documents(table))
        lengths = np.array([len(x) for x in ids])
        size = self.sub_batch or len(ids)
        by_length = np.argsort(lengths, kind="stable") if size < len(ids) else np.arange(len(ids))
        parts = []
        for start in range(0, len(ids), size):
            padded = self.pad([ids[i] for i in by_length[start : start + size]])
            input_ids, mask = (torch.from_numpy(x).to(self.device) for x in padded)
            parts.append((input_ids, mask))
        order = np.empty(len(ids), dtype=np.int64)
        order[by_length] = np.arange(len(ids))
        return Features(parts, torch.from_numpy(order).to(self.device), count, int(lengths.sum()))


class Towers(nn.Module):
    """One encoder for queries and documents: a whole batch in one call."""

    def __init__(self, model: EncoderModel) -> None:
        super().__init__()
        self.model = model
        self.packs = can_pack(model.backbone)

    def forward(self, parts: list[Part], order: Tensor) -> Tensor:
        """The vectors [n, D] of all texts."""
        model = self.model
        if self.packs and order.device.type == "cpu":
            tokens = packed_tokens(model.backbone, parts)
            vectors = [model.pool(x, mask) for x, (_, mask) in zip(tokens, parts, strict=True)]
        else:
            vectors = [model(*part) for part in parts]
        return torch.cat(vectors)[order]


class _TokenCache:
    """Token ids of texts, tokenised on first use; at most ``_CACHED_TOKENS`` are kept."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.prompt = prompt
        self.kept: dict[int, np.ndarray[tuple[int], np.dtype[np.int32]]] = {}
        self.tokens = 0

    def ids(self, positions: Ints) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
        missing = [int(p) for p in np.unique(positions) if int(p) not in self.kept]
        texts = [self.prompt + self.texts[p] for p in missing]
        new = dict(zip(missing, self.tokenizer.ids(texts), strict=True))
        if self.tokens < _CACHED_TOKENS:
            self.kept.update(new)
            self.tokens += sum(map(len, new.values()))
        return [new[p] if p in new else self.kept[p] for p in map(int, positions)]
