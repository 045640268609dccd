"""Retrieval metrics from exact ranks; by trec_eval's conventions unless another is named.

Everything follows from the ranks of a query's relevant documents (first is 1), their grades and
their number: no ranked list is needed, and no cutoff is imposed. Per query, R being the number:

========== ======================================================================================
AP, AP@k   sum over relevant documents (of rank <= k) of precision at their rank, divided by R
RR, RR@k   reciprocal of the best rank (0 past k)
nDCG@k     gain = grade, discount 1 / log2(rank + 1), ideal over all judged documents
recall@k   share of the R with rank <= k
P@k        their number divided by k
success@k  whether there is one
Rprec      P@R
bpref      mean over relevant documents of 1 - n / min(R, N), n of the N documents judged not
           relevant standing before it (R at most): what was not judged counts nowhere
========== ======================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridret.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER = 2**61
"""Rank of a relevant document that a run does not hold."""

DEFAULT_METRICS = ("AP", "nDCG@10", "recall@10", "recall@100", "RR")
_CUTOFF = {
    "AP": None,
    "RR": None,
    "Rprec": None,
    "bpref": None,
    "nDCG": True,
    "recall": True,
    "P": True,
    "success": True,
}  # fmt: skip  (None: the cutoff may be left out)
_SPELLINGS = {name.lower(): name for name in _CUTOFF} | {
    "map": "AP", "mrr": "RR", "r": "recall", "precision": "P", "hit": "success", "ndcg_cut": "nDCG",
}  # fmt: skip


@dataclass(frozen=True)
class Convention:
    """Where evaluation tools disagree.

    Attributes:
        tie_order: of the ids of documents with equal scores.
        capped_ap: AP@k is divided by min(R, k), not by R.
        binary_gain: nDCG counts every relevant document as 1, whatever its grade.
        unanswerable: a query without a relevant document scores ``zero`` or is left out.
        ignore_identical_ids: a document with the query's own id is left out.
    """

    tie_order: Literal["descending", "ascending"] = "descending"
    capped_ap: bool = False
    binary_gain: bool = False
    unanswerable: Literal["zero", "drop"] = "zero"
    ignore_identical_ids: bool = False


CONVENTIONS = {
    # trec_eval 10; xtreme: LAReQA in XTREME-R, AP@20; beir: BEIR 2, whose metrics are trec_eval's;
    # sentence-transformers: InformationRetrievalEvaluator of version 5 and 6.
    "trec_eval": Convention(),
    "xtreme": Convention(capped_ap=True),
    "beir": Convention(ignore_identical_ids=True),
    "sentence-transformers": Convention(
        tie_order="ascending", capped_ap=True, binary_gain=True, unanswerable="drop"
    ),
}


def convention(name: str) -> Convention:
    """Raises DataError: no such convention."""
    if name not in CONVENTIONS:
        raise DataError(f"unknown convention {name!r}; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass(frozen=True)
class RankedRelevant:
    """Relevant documents of Q queries: flat arrays [T], those of a query together, by rank.

    Attributes:
        begin: int64 [Q + 1], where each query's documents stand.
        ranks: int64 [T], ascending within a query, from 1; :data:`NEVER` for one not retrieved.
        grades: int64 [T], above zero.
        nonrelevant_begin: int64 [Q + 1], nonrelevant_ranks: the same for those judged not relevant.
    """

    begin: Ints
    ranks: Ints
    grades: Ints
    nonrelevant_begin: Ints
    nonrelevant_ranks: Ints

    @classmethod
    def perfect(cls, counts: Ints) -> RankedRelevant:
        """The relevant documents before all others, with equal grades."""
        begin = np.cumsum(np.r_[0, counts])
        ranks = np.arange(begin[-1]) - np.repeat(begin[:-1], counts) + 1
        return cls(begin, ranks, np.ones_like(ranks), np.zeros_like(begin), ranks[:0])

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

    @property
    def needs_judged(self) -> bool:
        """Whether the ranks of documents judged not relevant matter."""
        return self.name == "bpref"

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
        if cutoff is not None and cutoff > 10**12:
            raise DataError(f"metric {text!r}: no list is that long")
        if cutoff is not None and name in ("Rprec", "bpref"):
            raise DataError(f"metric {name} takes no cutoff, got {text!r}")
        return cls(name, cutoff)

    def per_query(
        self, relevant: RankedRelevant, convention: Convention = CONVENTIONS["trec_eval"]
    ) -> Floats:
        """float64 [Q]; a query without relevant documents scores 0."""
        ranks = relevant.ranks
        count = np.maximum(relevant.counts, 1)
        cutoff = self.cutoff if self.cutoff is not None else NEVER - 1
        within = ranks <= cutoff
        if self.name == "AP":
            total = relevant.sum(np.where(within, relevant.place() / ranks, 0.0))
            return total / (np.minimum(count, cutoff) if convention.capped_ap else count)
        if self.name == "RR":
            return relevant.sum(np.where(within & (relevant.place() == 1), 1.0 / ranks, 0.0))
        if self.name == "recall":
            return relevant.sum(within) / count
        if self.name == "P":
            return relevant.sum(within) / cutoff
        if self.name == "success":
            return (relevant.sum(within) > 0).astype(np.float64)
        if self.name == "Rprec":
            return relevant.sum(ranks <= relevant.counts[relevant.query]) / count
        if self.name == "bpref":
            return _bpref(relevant) / count
        gains = np.ones_like(relevant.grades) if convention.binary_gain else relevant.grades
        return _ndcg(relevant, gains, cutoff)


def _bpref(relevant: RankedRelevant) -> Floats:
    others = np.diff(relevant.nonrelevant_begin)
    # All judged documents of a query by rank, and how many before each are not relevant.
    query = np.r_[relevant.query, np.repeat(np.arange(len(others)), others)]
    order = np.lexsort((np.r_[relevant.ranks, relevant.nonrelevant_ranks], query))
    bad = np.r_[np.zeros_like(relevant.ranks), np.ones_like(relevant.nonrelevant_ranks)][order]
    before = np.empty_like(bad)
    before[order] = np.cumsum(bad) - bad
    before = before[: len(relevant.ranks)] - relevant.nonrelevant_begin[relevant.query]
    count = relevant.counts[relevant.query]
    limit = np.maximum(np.minimum(count, others[relevant.query]), 1)
    lost = np.minimum(before, count) / limit
    return relevant.sum(np.where(relevant.ranks < NEVER, 1 - lost, 0.0))


def _ndcg(relevant: RankedRelevant, gains: Ints, cutoff: int) -> Floats:
    within = relevant.ranks <= cutoff
    gain = relevant.sum(np.where(within, gains / np.log2(relevant.ranks + 1), 0.0))
    order = np.lexsort((-gains, relevant.query))
    place = relevant.place()
    ideal = relevant.sum(np.where(place <= cutoff, gains[order] / np.log2(place + 1), 0.0))
    return np.divide(gain, ideal, out=np.zeros_like(gain), where=ideal > 0)


def parse_metrics(names: list[str] | tuple[str, ...]) -> list[Metric]:
    """Metrics by name, each once, in the order given."""
    return list(dict.fromkeys(Metric.parse(name) for name in names))
