"""What a run would draw, before it is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridret.encoder.tokenization import Tokenizer
from hybridret.training.batches import Sampler
from hybridret.training.pairs import TrainingData

_SAMPLE = 1000


@dataclass(frozen=True)
class Preview:
    """The first epoch of a run.

    Attributes:
        batches: number of batches of each kind.
        rows: of each data set, rows by pair of languages (query-document).
        distinct: of each data set, how many of its rows are drawn.
        negatives: of each data set, hard negatives by row, on average.
        truncated: of each data set, share of the texts that are longer than the encoder reads, of
            at most 1,000 queries and 1,000 documents.
    """

    batches: dict[str, int]
    rows: dict[str, dict[str, int]]
    distinct: dict[str, tuple[int, int]]
    negatives: dict[str, float]
    truncated: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, **vars(self)}


def preview(sampler: Sampler, tokenizer: Tokenizer) -> Preview:
    """Draws the first epoch, without training."""
    batches: Counter[str] = Counter()
    rows: dict[str, Counter[str]] = {source.name: Counter() for source in sampler.sources}
    seen: dict[str, set[int]] = {source.name: set() for source in sampler.sources}
    negatives: Counter[str] = Counter()
    for batch in sampler.epoch(0):
        source = sampler.sources[batch.source]
        languages = source.table.languages
        batches[batch.kind] += 1
        pairs = Counter(
            zip(batch.query_languages.tolist(), batch.document_languages.tolist(), strict=True)
        )
        for (asked, told), count in pairs.items():
            rows[source.name][f"{languages[asked]}-{languages[told]}"] += count
        seen[source.name].update(batch.rows.tolist())
        negatives[source.name] += len(batch.negatives)
    return Preview(
        dict(batches),
        {name: dict(sorted(found.items())) for name, found in rows.items()},
        {s.name: (len(seen[s.name]), len(s.table)) for s in sampler.sources},
        {n: negatives[n] / max(1, found.total()) for n, found in rows.items()},
        {s.name: _truncated(s, tokenizer) for s in sampler.sources},
    )


def _truncated(source: TrainingData, tokenizer: Tokenizer) -> float:
    texts = [*_some(source.table.query_texts), *_some(source.table.document_texts)]
    lengths = [len(ids) for ids in tokenizer.ids(texts)]
    return float(np.mean(np.array(lengths) >= tokenizer.max_length))


def _some(texts: Sequence[str]) -> list[str]:
    step = max(1, len(texts) // _SAMPLE)
    return [texts[i] for i in range(0, len(texts), step)][:_SAMPLE]
