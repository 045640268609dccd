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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Floats, Ints, TieOrder, Unanswerable
from hybridret.errors import DataError

NEVER = 2**61
"""Rank of a relevant document that a run does not hold."""

DEFAULT_METRICS = ("AP", "nDCG@10", "recall@10", "recall@100", "RR")


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
    """The conventions of a tool, by its name in :data:`CONVENTIONS`.

    Raises:
        DataError: no such convention.
    """
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
class Measure:
    """A kind of metric: what the registry :data:`MEASURES` holds.

    Attributes:
        name: how it is written; ``spellings`` are read, too, in any case.
        cutoff: whether ``@k`` may, must or must not follow the name.
        summary: one line for people.
        score: (relevant documents, cutoff, convention) -> float64 [Q]; without a cutoff it is
            larger than every rank. A query without relevant documents scores 0.
        needs_judged: whether the ranks of documents judged not relevant matter.
    """

    name: str
    cutoff: Literal["optional", "required", "none"]
    summary: str
    score: Callable[[RankedRelevant, int, Convention], Floats]
    spellings: tuple[str, ...] = ()
    needs_judged: bool = False

    @property
    def forms(self) -> str:
        """How it is asked for, such as ``AP, AP@k``."""
        forms = {"optional": f"{self.name}, {self.name}@k", "required": f"{self.name}@k"}
        return forms.get(self.cutoff, self.name)


def _average_precision(relevant: RankedRelevant, cutoff: int, convention: Convention) -> Floats:
    within = relevant.ranks <= cutoff
    total = relevant.sum(np.where(within, relevant.place() / relevant.ranks, 0.0))
    count = _at_least_one(relevant)
    return total / (np.minimum(count, cutoff) if convention.capped_ap else count)


def _reciprocal_rank(relevant: RankedRelevant, cutoff: int, _: Convention) -> Floats:
    first = (relevant.ranks <= cutoff) & (relevant.place() == 1)
    return relevant.sum(np.where(first, 1.0 / relevant.ranks, 0.0))


def _ndcg(relevant: RankedRelevant, cutoff: int, convention: Convention) -> Floats:
    gains = np.ones_like(relevant.grades) if convention.binary_gain else relevant.grades
    within = relevant.ranks <= cutoff
    gain = relevant.sum(np.where(within, gains / np.log2(relevant.ranks + 1), 0.0))
    order = np.lexsort((-gains, relevant.query))
    place = relevant.place()
    ideal = relevant.sum(np.where(place <= cutoff, gains[order] / np.log2(place + 1), 0.0))
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
    total = relevant.sum(np.where(relevant.ranks < NEVER, 1 - lost, 0.0))
    return total / _at_least_one(relevant)


def _at_least_one(relevant: RankedRelevant) -> Ints:
    return np.maximum(relevant.counts, 1)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("AP", "optional", "average precision", _average_precision, ("map",)),
        Measure("RR", "optional", "1 / rank of the first answer", _reciprocal_rank, ("mrr",)),
        Measure("nDCG", "required", "discounted gain over the best one", _ndcg, ("ndcg_cut",)),
        Measure("recall", "required", "share of the answers among the first k", _recall, ("r",)),
        Measure("P", "required", "share of answers of the first k", _precision, ("precision",)),
        Measure("success", "required", "an answer among the first k", _success, ("hit",)),
        Measure("Rprec", "none", "precision at the number of answers", _r_precision),
        Measure("bpref", "none", "answers before judged others", _bpref, needs_judged=True),
    )
}
_BY_SPELLING = {
    spelling.lower(): measure
    for measure in MEASURES.values()
    for spelling in (measure.name, *measure.spellings)
}


def measures_in_words() -> str:
    """Every metric that can be asked for: ``AP, AP@k, RR, ...``."""
    return ", ".join(measure.forms for measure in MEASURES.values())


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
        return MEASURES[self.name].needs_judged

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Reads ``nDCG@10`` in any case; ``map`` is AP and ``mrr`` is RR.

        Raises:
            DataError: no such metric, or a cutoff is missing or not a positive number.
        """
        match = re.fullmatch(r"([a-z_]+)(?:@([0-9]+))?", text.strip().lower())
        measure = _BY_SPELLING.get(match[1]) if match else None
        if match is None or measure is None:
            raise DataError(f"unknown metric {text!r}; known are {measures_in_words()}")
        if match[2] is None:
            if measure.cutoff == "required":
                raise DataError(
                    f"metric {text!r} needs a cutoff of at least 1, such as {measure.name}@10"
                )
            return cls(measure.name)
        if measure.cutoff == "none":
            raise DataError(f"metric {measure.name} takes no cutoff, got {text!r}")
        if len(match[2]) > 12:
            raise DataError(f"metric {text!r}: no list is that long")
        if int(match[2]) == 0:
            raise DataError(
                f"metric {text!r} needs a cutoff of at least 1, such as {measure.name}@10"
            )
        return cls(measure.name, int(match[2]))

    def per_query(
        self, relevant: RankedRelevant, convention: Convention = CONVENTIONS["trec_eval"]
    ) -> Floats:
        """float64 [Q]; a query without relevant documents scores 0."""
        cutoff = NEVER - 1 if self.cutoff is None else self.cutoff
        return MEASURES[self.name].score(relevant, cutoff, convention)


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Metrics by name, each once, in the order given."""
    return list(dict.fromkeys(Metric.parse(name) for name in names))
