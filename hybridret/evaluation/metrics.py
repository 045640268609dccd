"""Retrieval metrics from exact ranks; by trec_eval's conventions unless another is named.

A metric needs only the ranks of a query's relevant documents (the first rank is 1), their grades
and their number R; no ranked list is needed. Per query:

========== ======================================================================================
AP, AP@k   sum over relevant documents (of rank <= k) of the precision at their rank, divided by R
RR, RR@k   1 / rank of the first relevant document (0 if that rank is above k)
nDCG@k     gain = grade, discount 1 / log2(rank + 1), ideal over all judged documents
recall@k   share of the R relevant documents with rank <= k
P@k        number of relevant documents with rank <= k, divided by k
success@k  1 if a relevant document has rank <= k, otherwise 0
Rprec      P@R
bpref      mean over relevant documents of 1 - n / min(R, N), where N documents are judged not
           relevant and n of them (R at most) are ranked before it; unjudged documents are ignored
========== ======================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Floats, Ints, TieOrder, Unanswerable
from hybridret.errors import DataError

NEVER = 2**61
"""Rank of a relevant document that was not retrieved."""

DEFAULT_METRICS = ("AP", "nDCG@10", "recall@10", "recall@100", "RR")


@dataclass(frozen=True)
class Convention:
    """Definitions in which evaluation tools differ.

    Attributes:
        tie_order: documents with equal scores are in this order of their ids.
        capped_ap: AP@k is divided by min(R, k), not by R.
        binary_gain: in nDCG the gain of every relevant document is 1, whatever its grade.
        unanswerable: a query without a relevant document scores 0 (``zero``) or is excluded from
            the mean (``drop``).
        ignore_identical_ids: a document with the query's own id is excluded from the ranking.
    """

    tie_order: TieOrder = "descending"
    capped_ap: bool = False
    binary_gain: bool = False
    unanswerable: Unanswerable = "zero"
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


def find_convention(name: str) -> Convention:
    """The convention of a tool, by its name in :data:`CONVENTIONS`.

    Raises:
        DataError: no such convention.
    """
    if name not in CONVENTIONS:
        raise DataError(f"unknown convention {name!r}; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass(frozen=True)
class RankedRelevant:
    """Relevant documents of Q queries: flat arrays [T], grouped by query, sorted by rank.

    Attributes:
        begin: int64 [Q + 1], query q's documents are at begin[q] ... begin[q + 1] - 1.
        ranks: int64 [T], ascending within a query, from 1; :data:`NEVER` if not retrieved.
        grades: int64 [T], above zero.
        nonrelevant_begin: int64 [Q + 1], like ``begin``, for ``nonrelevant_ranks``.
        nonrelevant_ranks: int64, ranks of the documents judged not relevant.
    """

    begin: Ints
    ranks: Ints
    grades: Ints
    nonrelevant_begin: Ints
    nonrelevant_ranks: Ints

    @classmethod
    def perfect(cls, counts: Ints) -> RankedRelevant:
        """The best possible ranking: relevant documents first, all with the same grade."""
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

    def position(self) -> Ints:
        """1, 2, ... within each query, int64 [T]."""
        return np.arange(len(self.ranks)) - self.begin[:-1][self.query] + 1

    def sum(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> Floats:
        """Sum over each query's documents, float64 [Q]."""
        totals = np.bincount(self.query, weights=values, minlength=len(self.begin) - 1)
        return totals.astype(np.float64)


@dataclass(frozen=True)
class Measure:
    """A metric without its cut-off: an entry of the table :data:`MEASURES`.

    Attributes:
        name: how it is written in results; ``spellings`` are accepted too, in upper or lower case.
        cutoff: whether the cut-off ``@k`` is optional, required or not allowed.
        summary: a one-line description.
        score: (relevant documents, cut-off, convention) -> float64 [Q]; a missing cut-off is passed
            as a number larger than every rank. A query without relevant documents scores 0.
            Ceilings are the score of :meth:`RankedRelevant.perfect`, where all grades are equal:
            right for measures that are relative to the best ranking (nDCG) or ignore grades.
        needs_judged: whether it needs the ranks of documents judged not relevant.
    """

    name: str
    cutoff: Literal["optional", "required", "none"]
    summary: str
    score: Callable[[RankedRelevant, int, Convention], Floats]
    spellings: tuple[str, ...] = ()
    needs_judged: bool = False

    @property
    def forms(self) -> str:
        """How it is requested, such as ``AP, AP@k``."""
        forms = {"optional": f"{self.name}, {self.name}@k", "required": f"{self.name}@k"}
        return forms.get(self.cutoff, self.name)


def _average_precision(relevant: RankedRelevant, cutoff: int, convention: Convention) -> Floats:
    within = relevant.ranks <= cutoff
    total = relevant.sum(np.where(within, relevant.position() / relevant.ranks, 0.0))
    count = _at_least_one(relevant)
    return total / (np.minimum(count, cutoff) if convention.capped_ap else count)


def _reciprocal_rank(relevant: RankedRelevant, cutoff: int, _: Convention) -> Floats:
    first = (relevant.ranks <= cutoff) & (relevant.position() == 1)
    return relevant.sum(np.where(first, 1.0 / relevant.ranks, 0.0))


def _ndcg(relevant: RankedRelevant, cutoff: int, convention: Convention) -> Floats:
    gains = np.ones_like(relevant.grades) if convention.binary_gain else relevant.grades
    within = relevant.ranks <= cutoff
    gain = relevant.sum(np.where(within, gains / np.log2(relevant.ranks + 1), 0.0))
    order = np.lexsort((-gains, relevant.query))
    position = relevant.position()
    ideal = relevant.sum(np.where(position <= cutoff, gains[order] / np.log2(position + 1), 0.0))
    return np.divide(gain, ideal, out=np.zeros_like(gain), where=ideal > 0)


def _recall(relevant: RankedRelevant, cutoff: int, _: Convention) -> Floats:
    return relevant.sum(relevant.ranks <= cutoff) / _at_least_one(relevant)


def _precision(relevant: RankedRelevant, cutoff: int, _: Convention) -> Floats:
    return relevant.sum(relevant.ranks <= cutoff) / cutoff


def _success(relevant: RankedRelevant, cutoff: int, _: Convention) -> Floats:
    return (relevant.sum(relevant.ranks <= cutoff) > 0).astype(np.float64)


def _r_precision(relevant: RankedRelevant, _: int, __: Convention) -> Floats:
    within = relevant.ranks <= relevant.counts[relevant.query]
    return relevant.sum(within) / _at_least_one(relevant)


def _bpref(relevant: RankedRelevant, _: int, __: Convention) -> Floats:
    others = np.diff(relevant.nonrelevant_begin)
    # Judged documents of each query by rank; `before`: those judged not relevant before each.
    query = np.r_[relevant.query, np.repeat(np.arange(len(others)), others)]
    order = np.lexsort((np.r_[relevant.ranks, relevant.nonrelevant_ranks], query))
    bad = np.r_[np.zeros_like(relevant.ranks), np.ones_like(relevant.nonrelevant_ranks)][order]
    before = np.empty_like(bad)
    before[order] = np.cumsum(bad) - bad
    before = before[: len(relevant.ranks)] - relevant.nonrelevant_begin[relevant.query]
    count = relevant.counts[relevant.query]
    limit = np.maximum(np.minimum(count, others[relevant.query]), 1)
    lost = np.minimum(before, count) / limit
    total = relevant.sum(np.where(relevant.ranks < NEVER, 1 - lost, 0.0))
    return total / _at_least_one(relevant)


def _at_least_one(relevant: RankedRelevant) -> Ints:
    return np.maximum(relevant.counts, 1)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("AP", "optional", "average precision", _average_precision, ("map",)),
        Measure("RR", "optional", "reciprocal rank", _reciprocal_rank, ("mrr",)),
        Measure("nDCG", "required", "normalised discounted gain", _ndcg, ("ndcg_cut",)),
        Measure("recall", "required", "relevant documents found, of all", _recall, ("r",)),
        Measure("P", "required", "share of relevant documents", _precision, ("precision",)),
        Measure("success", "required", "any relevant document found", _success, ("hit",)),
        Measure("Rprec", "none", "precision at R", _r_precision),
        Measure("bpref", "none", "binary preference", _bpref, needs_judged=True),
    )
}
_BY_SPELLING = {
    spelling.lower(): measure
    for measure in MEASURES.values()
    for spelling in (measure.name, *measure.spellings)
}


def measures_in_words(*, summaries: bool = False) -> str:
    """Every metric that can be requested, ``AP, AP@k, RR, ...``; or each with what it measures."""
    if summaries:
        return "; ".join(f"{measure.forms}: {measure.summary}" for measure in MEASURES.values())
    return ", ".join(measure.forms for measure in MEASURES.values())


@dataclass(frozen=True)
class Metric:
    """A metric by name and cut-off; ``str(metric)`` is how it is written everywhere."""

    name: str
    cutoff: int | None = None

    def __str__(self) -> str:
        return self.name if self.cutoff is None else f"{self.name}@{self.cutoff}"

    @property
    def needs_judged(self) -> bool:
        """Whether it needs the ranks of documents judged not relevant."""
        return MEASURES[self.name].needs_judged

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Reads ``nDCG@10`` in any case; ``map`` is AP and ``mrr`` is RR.

        Raises:
            DataError: no such metric, or the cut-off is missing, not allowed or not positive.
        """
        match = re.fullmatch(r"([a-z_]+)(?:@([0-9]+))?", text.strip().lower())
        measure = _BY_SPELLING.get(match[1]) if match else None
        if match is None or measure is None:
            raise DataError(f"unknown metric {text!r}; known are {measures_in_words()}")
        if match[2] is None:
            if measure.cutoff == "required":
                raise DataError(
                    f"metric {text!r} needs a cut-off of at least 1, such as {measure.name}@10"
                )
            return cls(measure.name)
        if measure.cutoff == "none":
            raise DataError(f"metric {measure.name} takes no cut-off, got {text!r}")
        if len(match[2]) > 12:
            raise DataError(f"metric {text!r}: the cut-off is too large")
        if int(match[2]) == 0:
            raise DataError(
                f"metric {text!r} needs a cut-off of at least 1, such as {measure.name}@10"
            )
        return cls(measure.name, int(match[2]))

    def per_query(
        self, relevant: RankedRelevant, convention: Convention = CONVENTIONS["trec_eval"]
    ) -> Floats:
        """float64 [Q]; a query without relevant documents scores 0."""
        cutoff = NEVER - 1 if self.cutoff is None else self.cutoff
        return MEASURES[self.name].score(relevant, cutoff, convention)


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Metrics by name, without duplicates, in the order given."""
    return list(dict.fromkeys(Metric.parse(name) for name in names))
