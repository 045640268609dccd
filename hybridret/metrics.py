"""Retrieval metrics from exact ranks, by trec_eval's conventions.

Everything follows from the ranks of a query's relevant documents (first is 1), their grades and
their number: no ranked list is needed, and no cutoff is imposed. Per query, R being the number:

========== ======================================================================================
AP, AP@k   sum over relevant documents (of rank <= k) of precision at their rank, divided by R
RR         reciprocal of the best rank
nDCG@k     gain = grade, discount 1 / log2(rank + 1), ideal over all judged documents
recall@k   share of the R with rank <= k
P@k        their number divided by k
success@k  whether there is one
Rprec      P@R
========== ======================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridret.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEFAULT_METRICS = ("AP", "nDCG@10", "recall@10", "recall@100", "RR")
_CUTOFF = {
    "AP": None,
    "RR": None,
    "Rprec": None,
    "nDCG": True,
    "recall": True,
    "P": True,
    "success": True,
}  # fmt: skip  (None: the cutoff may be left out)
_SPELLINGS = {name.lower(): name for name in _CUTOFF} | {"map": "AP", "mrr": "RR", "ap": "AP"}


@dataclass(frozen=True)
class RankedRelevant:
    """Relevant documents of Q queries: flat arrays [T], those of a query together, by rank.

    Attributes:
        begin: int64 [Q + 1], where each query's documents stand.
        ranks: int64 [T], ascending within a query, from 1.
        grades: int64 [T], above zero.
    """

    begin: Ints
    ranks: Ints
    grades: Ints

    @property
    def counts(self) -> Ints:
        """R of each query, int64 [Q]."""
        return np.asarray(np.diff(self.begin))

    @property
    def query(self) -> Ints:
        """Which query each document belongs to, int64 [T]."""
        return np.repeat(np.arange(len(self.begin) - 1), self.counts)

    def place(self) -> Ints:
        """1, 2, ... within each query, int64 [T]."""
        return np.arange(len(self.ranks)) - self.begin[:-1][self.query] + 1

    def sum(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> Floats:
        """Sum over each query's documents, float64 [Q]."""
        totals = np.bincount(self.query, weights=values, minlength=len(self.begin) - 1)
        return totals.astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A metric by name and cutoff; ``str(metric)`` is how it is written everywhere."""

    name: str
    cutoff: int | None = None

    def __str__(self) -> str:
        return self.name if self.cutoff is None else f"{self.name}@{self.cutoff}"

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Reads ``nDCG@10`` in any case; ``map`` is AP and ``mrr`` is RR.

        Raises:
            DataError: no such metric, or a cutoff is missing or not a positive number.
        """
        match = re.fullmatch(r"([a-z]+)(?:@(\d+))?", text.strip().lower())
        name = _SPELLINGS.get(match[1]) if match else None
        known = ", ".join(n if _CUTOFF[n] is None else f"{n}@k" for n in _CUTOFF)
        if match is None or name is None:
            raise DataError(f"unknown metric {text!r}; known are {known}")
        cutoff = int(match[2]) if match[2] else None
        if cutoff == 0 or (cutoff is None and _CUTOFF[name]):
            raise DataError(f"metric {text!r} needs a cutoff of at least 1, such as {name}@10")
        if cutoff is not None and name in ("RR", "Rprec"):
            raise DataError(f"metric {name} takes no cutoff, got {text!r}")
        return cls(name, cutoff)

    def per_query(self, relevant: RankedRelevant) -> Floats:
        """float64 [Q]; a query without relevant documents scores 0."""
        ranks = relevant.ranks
        count = np.maximum(relevant.counts, 1)
        cutoff = self.cutoff if self.cutoff is not None else np.iinfo(np.int64).max
        within = ranks <= cutoff
        if self.name == "AP":
            return relevant.sum(np.where(within, relevant.place() / ranks, 0.0)) / count
        if self.name == "RR":
            return relevant.sum(np.where(relevant.place() == 1, 1.0 / ranks, 0.0))
        if self.name == "recall":
            return relevant.sum(within) / count
        if self.name == "P":
            return relevant.sum(within) / cutoff
        if self.name == "success":
            return (relevant.sum(within) > 0).astype(np.float64)
        if self.name == "Rprec":
            return relevant.sum(ranks <= relevant.counts[relevant.query]) / count
        return self._ndcg(relevant, cutoff)

    def _ndcg(self, relevant: RankedRelevant, cutoff: int) -> Floats:
        within = relevant.ranks <= cutoff
        gain = relevant.sum(np.where(within, relevant.grades / np.log2(relevant.ranks + 1), 0.0))
        order = np.lexsort((-relevant.grades, relevant.query))
        place = relevant.place()
        best = np.where(place <= cutoff, relevant.grades[order] / np.log2(place + 1), 0.0)
        ideal = relevant.sum(best)
        return np.divide(gain, ideal, out=np.zeros_like(gain), where=ideal > 0)


def parse_metrics(names: list[str] | tuple[str, ...]) -> list[Metric]:
    """Metrics by name, each once, in the order given."""
    return list(dict.fromkeys(Metric.parse(name) for name in names))
