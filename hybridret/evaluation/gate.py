"""What a smaller encoder costs in retrieval, language by language, and how much is too much.

The mean over languages hides the loss: an 8-bit graph that finds as much in German can find a
tenth less in Yoruba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridret.data.table import Dataset
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.quantization import LARGEST_LOSS
from hybridret.errors import ModelError
from hybridret.evaluation.judging import evaluate
from hybridret.evaluation.report import KINDS, Report

METRIC = "nDCG@10"


class LossTooLarge(ModelError):
    """A smaller encoder that was refused; ``quality`` is what was measured, as JSON."""

    def __init__(self, message: str, quality: dict[str, Any]) -> None:
        super().__init__(message)
        self.quality = quality


@dataclass(frozen=True)
class RetrievalGate:
    """Refuses an encoder that finds less than another, in the language that loses most.

    Queries are searched in the documents of their own language; a language that has none, in those
    of each other language.

    Attributes:
        dataset: what is searched; it should be like what the encoder will search.
        largest_loss: of nDCG@10, in any language of the queries.
        refuse: whether a larger loss is an error; it is measured in any case.
    """

    dataset: Dataset
    largest_loss: float = LARGEST_LOSS
    refuse: bool = True
    progress: bool = False

    def __call__(self, original: TextEncoder, smaller: TextEncoder) -> dict[str, Any]:
        """What was measured, as JSON.

        Raises:
            LossTooLarge: the loss is too large in a language.
            DataError: the data set cannot be evaluated.
        """
        found = []
        for encoder in (original, smaller):
            found.append(evaluate(encoder, self.dataset, metrics=[METRIC], progress=self.progress))
        before, after = (_by_language(report) for report in found)
        languages = {
            language: {
                "setting": setting,
                "queries": queries,
                "before": value,
                "after": after[language][2],
            }
            for language, (setting, queries, value) in before.items()
        }
        losses = {name: row[2] - after[name][2] for name, row in before.items()}
        worst = max(losses, key=lambda name: losses[name])
        quality = {
            "dataset": self.dataset.name,
            "metric": METRIC,
            "worst": {"language": worst, "loss": losses[worst]},
            "languages": languages,
        }
        if self.refuse and losses[worst] > self.largest_loss:
            row = languages[worst]
            raise LossTooLarge(
                f"the smaller encoder loses {losses[worst]:.4f} of {METRIC} in {worst} "
                f"({row['before']:.4f} to {row['after']:.4f}, {row['queries']} queries), more than "
                f"{self.largest_loss:g}; nothing was written. Allow more (--largest-loss), or "
                f"export it anyway (--force)",
                quality,
            )
        return quality


def _by_language(report: Report) -> dict[str, tuple[str, int, float]]:
    """Setting, queries and mean score by the language of the queries.

    The setting is the first that has queries in that language: mono, cross, multi.
    """
    found: dict[str, tuple[str, int, float]] = {}
    for kind in KINDS:
        rows: dict[str, list[tuple[int, float]]] = {}
        for s in report.settings:
            if s.setting == kind and s.n and s.query_language not in found:
                rows.setdefault(s.query_language, []).append((s.n, s.metrics[METRIC]))
        for language, scores in rows.items():
            mean = float(np.mean([value for _, value in scores]))
            found[language] = kind, max(n for n, _ in scores), mean
    return found
