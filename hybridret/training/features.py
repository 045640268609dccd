"""What the encoder reads of a batch: padded token ids, in sub-batches of texts of like lengths.

Padding is a third of the tokens of a batch of questions and passages, and a tenth if eight texts of
like lengths are padded together. The vectors are the same, and so is the loss: it sees all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hybridret._types import Ints
from hybridret.encoder.model import EncoderModel
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.training.bags import means
from hybridret.training.dropout import drawn_together
from hybridret.training.packing import Part, can_pack, packed_tokens
from hybridret.training.pairs import Batch, TrainingData

_CACHE = 400_000_000  # bytes; further texts are tokenised on every use
_ENTRY = 200  # bytes of a text without tokens


@dataclass(frozen=True)
class Features:
    """The texts of a batch: queries, then documents.

    Attributes:
        parts: token ids and attention mask of each sub-batch, int64 [b, S]; of a static encoder all
            token ids, int64 [T], and how many each text has, int64 [n].
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
        sub_batch_tokens: tokens of a forward pass at most, but for a single text; None: any.
    """

    def __init__(
        self,
        encoder: TorchEncoder,
        sources: Sequence[TrainingData],
        *,
        sub_batch: int | None = None,
        sub_batch_tokens: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources = list(sources)
        self.pad = encoder.tokenizer.pad
        self.static = encoder.model.is_static
        self.sub_batch = sub_batch
        self.sub_batch_tokens = sub_batch_tokens
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
        if self.static:
            flat = np.concatenate(ids).astype(np.int64)
            parts = [(self._tensor(flat), self._tensor(lengths))]
            return Features(parts, self._tensor(np.arange(len(ids))), count, len(flat))
        whole = self.sub_batch is None and self.sub_batch_tokens is None
        by_length = np.arange(len(ids)) if whole else np.argsort(lengths, kind="stable")
        parts = []
        for first, last in self._cuts(lengths[by_length]):
            padded = self.pad([ids[i] for i in by_length[first:last]])
            input_ids, mask = map(self._tensor, padded)
            parts.append((input_ids, mask))
        order = np.empty(len(ids), dtype=np.int64)
        order[by_length] = np.arange(len(ids))
        return Features(parts, self._tensor(order), count, int(lengths.sum()))

    def _cuts(self, lengths: Ints) -> Iterator[tuple[int, int]]:
        """First and last text of each sub-batch, of texts from short to long."""
        texts, tokens = self.sub_batch or len(lengths), self.sub_batch_tokens or math.inf
        first = 0
        for last in range(1, len(lengths) + 1):
            full = last - first == texts or last == len(lengths)
            if full or (last + 1 - first) * lengths[last] > tokens:
                yield first, last
                first = last

    def _tensor(self, array: Ints) -> Tensor:
        return torch.from_numpy(array).to(self.device)


class Towers(nn.Module):
    """One encoder for queries and documents: a whole batch in one call."""

    def __init__(self, model: EncoderModel) -> None:
        super().__init__()
        self.model = model
        self.packs = can_pack(model.backbone)

    def forward(self, parts: list[Part], order: Tensor) -> Tensor:
        """The vectors [n, D] of all texts."""
        model = self.model
        if model.is_static:
            return model.finish(means(model.table.weight, *parts[0]))
        on_cpu = order.device.type == "cpu"
        with drawn_together(model) if on_cpu else nullcontext():
            if self.packs and on_cpu:
                tokens = packed_tokens(model.backbone, parts)
                vectors = [model.pool(x, mask) for x, (_, mask) in zip(tokens, parts, strict=True)]
            else:
                vectors = [model(*part) for part in parts]
        return torch.cat(vectors)[order]


class _TokenCache:
    """Token ids of texts, tokenised on first use; about ``_CACHE`` bytes of them are kept."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.prompt = prompt
        self.kept: dict[int, np.ndarray[tuple[int], np.dtype[np.int32]]] = {}
        self.bytes = 0

    def ids(self, positions: Ints) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
        missing = [int(p) for p in np.unique(positions) if int(p) not in self.kept]
        texts = [self.prompt + self.texts[p] for p in missing]
        new = dict(zip(missing, self.tokenizer.ids(texts), strict=True))
        if self.bytes < _CACHE:
            self.kept.update(new)
            self.bytes += sum(4 * len(ids) + _ENTRY for ids in new.values())
        return [new[p] if p in new else self.kept[p] for p in map(int, positions)]
