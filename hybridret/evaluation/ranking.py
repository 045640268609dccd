"""Exact ranks of the relevant documents of every query, in every language's pool.

Ranks follow a total order: score descending, then document id descending by its UTF-8 bytes, as
trec_eval's. A score is the inner product of the vectors as given (for the cosine divided by the
document's length), summed in double in one fixed order: ranks are the same bits on every machine,
for any number of threads, order or sharding of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from hybridret import _native
from hybridret._types import Ints, Screening, Similarity, TieOrder, Ties
from hybridret.data.table import Dataset, Qrels
from hybridret.errors import DataError
from hybridret.evaluation.metrics import NEVER


class Pool:
    """A data set in the scorer's terms: languages as numbers, relevant documents as targets.

    Attributes:
        languages: names of the L languages, sorted.
        query_language: int64 [Q], document_language: int64 [P].
        tie_order: int64 [P], distinct; the smaller comes first among equal scores.
        target_begin: int64 [Q + 1], where each query's targets stand.
        judged: whether documents judged not relevant are targets as well.
        targets: int64 [T], rows of documents; grades: int64 [T], above zero, or zero for those
            judged not relevant.

    Args:
        judged: documents judged not relevant are targets as well: their ranks are what bpref needs.

    Raises:
        DataError: there are no queries, no documents, or no relevant documents.
    """

    def __init__(
        self, dataset: Dataset, *, tie_order: TieOrder = "descending", judged: bool = False
    ) -> None:
        if not dataset.queries or not dataset.documents:
            raise DataError(
                f"{dataset.name}: empty: {len(dataset.queries)} queries and "
                f"{len(dataset.documents)} documents"
            )
        self.dataset = dataset
        self.judged = judged
        self.languages = dataset.languages
        number = {language: n for n, language in enumerate(self.languages)}
        self.query_language = np.array([number[q.language] for q in dataset.queries])
        self.document_language = np.array([number[x] for x in dataset.document_languages])
        self.tie_order = ranks_of_ids(dataset.document_ids, tie_order)

        by_id = dataset.relevant_by_group(judged=judged)
        position = self.rows_of({d for grades in by_id.values() for d in grades})
        by_group = {
            group: ([position[d] for d in grades], list(grades.values()))
            for group, grades in by_id.items()
        }
        found = [by_group[q.group_id] for q in dataset.queries]
        self.target_begin = np.cumsum([0, *(len(documents) for documents, _ in found)])
        self.targets = np.array([d for documents, _ in found for d in documents], dtype=np.int64)
        self.grades = np.array([g for _, grades in found for g in grades], dtype=np.int64)
        if not self.grades.any():
            raise DataError(f"{dataset.name}: no query has a relevant document")

    @property
    def target_query(self) -> Ints:
        """Query of each target, int64 [T]."""
        return np.repeat(np.arange(len(self.query_language)), np.diff(self.target_begin))

    @property
    def target_language(self) -> Ints:
        """Language of each target, int64 [T]."""
        return np.asarray(self.document_language[self.targets])

    def relevant(self, ranks: Ranks) -> tuple[Pool, Ranks]:
        """The same without the targets that were judged not relevant."""
        keep = self.grades > 0
        if keep.all():
            return self, ranks
        pool = copy(self)
        pool.target_begin = np.cumsum(np.r_[0, keep])[self.target_begin]
        pool.targets, pool.grades = self.targets[keep], self.grades[keep]
        above = None if ranks.above is None else ranks.above[keep]
        in_language, in_all = ranks.in_language[keep], ranks.in_all[keep]
        return pool, replace(ranks, in_language=in_language, in_all=in_all, above=above)

    def qrels(self) -> Qrels:
        """The targets of every query with their grades, those of translations included."""
        ids = self.dataset.document_ids
        found: Qrels = {q.query_id: {} for q in self.dataset.queries}
        names = list(found)
        for query, target, grade in zip(
            self.target_query.tolist(), self.targets.tolist(), self.grades.tolist(), strict=True
        ):
            found[names[query]][ids[target]] = grade
        return found

    def identical(self) -> Ints:
        """For each query the document of the same id, or -1, int64 [Q]."""
        position = self.rows_of({q.query_id for q in self.dataset.queries})
        return np.array([position.get(q.query_id, -1) for q in self.dataset.queries])

    def rows_of(self, ids: AbstractSet[str]) -> dict[str, int]:
        """Rows of the documents of these ids; an unknown id has none."""
        return {d: row for row, d in enumerate(self.dataset.document_ids) if d in ids}


def ranks_of_ids(ids: Sequence[str], order: TieOrder = "descending") -> Ints:
    """Place of each id among all by its UTF-8 bytes, int64 [len(ids)]."""
    names = [i.encode() for i in ids]
    # Sorting fixed-width bytes is many times faster, but cannot tell trailing zero bytes.
    plain = max(map(len, names), default=0) <= 64 and not any(b"\0" in name for name in names)
    encoded = np.array(names, dtype="S" if plain and names else object)
    ascending = np.argsort(encoded, kind="stable")
    places = np.empty(len(ids), dtype=np.int64)
    places[ascending if order == "ascending" else ascending[::-1]] = np.arange(len(ids))
    return places


@dataclass(frozen=True)
class Ranks:
    """Where the targets of a :class:`Pool` stand.

    Attributes:
        in_language: int64 [T], rank from 1 among the documents of the target's own language.
        in_all: int64 [T], among all documents.
        above: int64 [T, L], documents of each language before the target, or None where only the
            ranks are known.
        best: int64 [Q, k], rows of the best documents of all, best first, -1 past the end; k may
            be 0. best_scores: float64 [Q, k].
        unsettled: share of the pairs that were computed in double.
    """

    in_language: Ints
    in_all: Ints
    above: Ints | None = None
    best: Ints | None = None
    best_scores: NDArray[np.float64] | None = None
    unsettled: float = 0.0


def rank_embeddings(
    pool: Pool,
    query_embeddings: Any,
    document_embeddings: Any,
    *,
    similarity: Similarity = "cosine",
    ties: Ties = "by-id",
    best: int = 0,
    ignore_identical_ids: bool = False,
    screening: Screening = "auto",
    threads: int = 0,
) -> Ranks:
    """Exact ranks by the native scorer.

    Args:
        query_embeddings: [Q, D] in the order of the data set's queries: float32, float16 or float64
            (rounded to float32) of numpy, a memory map, or a torch tensor (bfloat16 as well). Read
            in place: nothing is copied but float64 and foreign byte orders.
        document_embeddings: [P, D] in the order of its documents. A memory map larger than memory
            is read once, front to back where its languages stand one after the other.
        ties: how documents of exactly the target's score count. ``by-id`` is trec_eval's order;
            ``optimistic`` puts the relevant ones first, ``pessimistic`` last.
        best: how many of the best documents of all to keep for each query.
        ignore_identical_ids: leave out the document whose id is the query's, as BEIR does; where it
            is relevant it counts as not retrieved.
        screening: arithmetic that decides clear pairs; the ranks do not depend on it.
        threads: 0 for all processors.

    Returns:
        The ranks. Without ``best`` it takes 60 MB beside embeddings of XQuAD-R's size.

    Raises:
        DataError: wrong shape or type; a value that is not finite, for the cosine a zero vector,
            for inner products one longer than 1e18 (the row and its id are named).
    """
    for name, value, known in (
        ("similarity", similarity, get_args(Similarity)),
        ("ties", ties, get_args(Ties)),
        ("screening", screening, get_args(Screening)),
    ):
        if value not in known:
            raise DataError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    if best < 0 or threads < 0:
        raise DataError(f"best and threads must not be negative, got {best} and {threads}")
    dataset = pool.dataset
    queries = _checked(query_embeddings, [q.query_id for q in dataset.queries], "query", dataset)
    documents = _checked(document_embeddings, dataset.document_ids, "document", dataset)
    if queries.shape[1] != documents.shape[1]:
        raise DataError(
            f"query embeddings have {queries.shape[1]} dimensions, document embeddings "
            f"{documents.shape[1]}"
        )
    if ties != "by-id" and not pool.grades.all():
        raise DataError("bounds under ties are of relevant documents: the pool has others judged")
    cosine = similarity == "cosine"
    try:
        scores = _native.pair_scores(
            queries,
            documents,
            query_rows=pool.target_query,
            document_rows=pool.targets,
            cosine=cosine,
            threads=threads,
        )
        above, tied, top, top_scores, unsettled = _native.rank(
            queries,
            documents,
            document_language=pool.document_language.astype(np.int32),
            tie_order=pool.tie_order,
            target_begin=pool.target_begin,
            target_scores=scores,
            target_order=pool.tie_order[pool.targets],
            languages=len(pool.languages),
            cosine=cosine,
            ties=ties != "by-id",
            k=min(best + ignore_identical_ids, len(documents)) if best else 0,
            screening=screening,
            threads=threads,
        )
    except _native.BadRow as error:
        what, side, row = error.args
        name = dataset.queries[row].query_id if side == "query" else dataset.document_ids[row]
        raise DataError(f"{side} embedding in row {row} (id {name!r}) {what}") from None
    own = np.zeros(len(pool.targets), dtype=bool)
    if ignore_identical_ids:
        identical = pool.identical()
        _leave_out(pool, identical, queries, documents, scores, above, tied, cosine, threads)
        top, top_scores = _without(identical, top, top_scores)
        own = identical[pool.target_query] == pool.targets
    share = unsettled / max(len(queries) * len(documents), 1)
    ranks = Ranks(*_ranks(pool, above), above, top, top_scores, share)
    if ties != "by-id":
        in_language, in_all = _bounds(pool, scores, above, tied, ties, own)
        ranks = replace(ranks, in_language=in_language, in_all=in_all)
    ranks.in_language[own] = ranks.in_all[own] = NEVER
    return ranks


def _ranks(pool: Pool, above: Ints) -> tuple[Ints, Ints]:
    own = above[np.arange(len(above)), pool.target_language]
    return own + 1, above.sum(1) + 1


def _bounds(
    pool: Pool,
    scores: NDArray[np.float64],
    above: Ints,
    tied: Ints,
    ties: Ties,
    left_out: NDArray[np.bool_],
) -> tuple[Ints, Ints]:
    """Ranks with the relevant ones of a tie first or last, in their own order among themselves."""
    own = np.arange(len(above)), pool.target_language
    before, after = tied[..., 0], tied[..., 1]
    one_pool = np.zeros_like(pool.targets)
    scores = np.where(left_out, np.nan, scores)  # equal to none
    return (
        _bound(pool, scores, pool.target_language, above[own], before[own], after[own], ties),
        _bound(pool, scores, one_pool, above.sum(1), before.sum(1), after.sum(1), ties),
    )


def _bound(
    pool: Pool,
    scores: NDArray[np.float64],
    pools: Ints,
    above: Ints,
    before: Ints,
    after: Ints,
    ties: Ties,
) -> Ints:
    # Relevant documents of one tie are neighbours in this order, and its first one their head.
    order = np.lexsort((pool.tie_order[pool.targets], scores, pools, pool.target_query))
    keys = [pool.target_query[order], pools[order], scores[order]]
    starts = np.r_[True, np.any([k[1:] != k[:-1] for k in keys], axis=0)]
    head = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    size = np.diff(np.r_[np.flatnonzero(starts), len(order)])
    place, relevant = np.empty_like(order), np.empty_like(order)
    place[order] = np.arange(len(order)) - head
    relevant[order] = np.repeat(size, size)
    rank = above - before + place + 1
    if ties == "pessimistic":
        rank = rank + before + after - (relevant - 1)
    return np.asarray(rank)


def _leave_out(
    pool: Pool,
    identical: Ints,
    queries: Any,
    documents: Any,
    scores: NDArray[np.float64],
    above: Ints,
    tied: Ints,
    cosine: bool,
    threads: int,
) -> None:
    """Takes the document of the query's own id out of the counts."""
    identical = identical[pool.target_query]
    # A target that is itself the query stays: only what stands before it moves it.
    rows = np.flatnonzero((identical >= 0) & (identical != pool.targets))
    out = identical[rows]
    left = _native.pair_scores(
        queries,
        documents,
        query_rows=pool.target_query[rows],
        document_rows=out,
        cosine=cosine,
        threads=threads,
    )
    same = left == scores[rows]
    earlier = pool.tie_order[out] < pool.tie_order[pool.targets[rows]]
    language = pool.document_language[out]
    above[rows, language] -= (left > scores[rows]) | (same & earlier)
    if len(tied):
        tied[rows[same], language[same], np.where(earlier[same], 0, 1)] -= 1


def _without(
    identical: Ints, best: Ints, scores: NDArray[np.float64]
) -> tuple[Ints, NDArray[np.float64]]:
    if best.shape[1] == 0:
        return best, scores
    # Moves it to the end, which is cut off.
    order = np.argsort((best == identical[:, None]) & (best >= 0), axis=1, kind="stable")
    return (
        np.take_along_axis(best, order, 1)[:, :-1],
        np.take_along_axis(scores, order, 1)[:, :-1],
    )


def _checked(embeddings: Any, ids: Sequence[str], what: str, dataset: Dataset) -> NDArray[Any]:
    """The array as the native scorer reads it: uint16 holds the bits of bfloat16."""
    array, bfloat16 = _array(embeddings)
    if array.ndim != 2 or len(array) != len(ids):
        raise DataError(
            f"{what} embeddings have shape {list(array.shape)}; expected "
            f"[{len(ids)}, dimension], one row for each {what} of {dataset.name}"
        )
    if not bfloat16 and array.dtype.kind != "f":
        raise DataError(f"{what} embeddings are {array.dtype}; expected floating point")
    if array.shape[1] == 0:
        raise DataError(f"{what} embeddings have no dimensions: shape {list(array.shape)}")
    if array.dtype.itemsize > 4 or not array.dtype.isnative:
        with np.errstate(over="ignore"):  # what becomes infinite is refused, by its row
            array = array.astype(np.float16 if array.dtype.itemsize == 2 else np.float32)
    in_place = array.strides[0] % array.itemsize == 0 and (
        array.shape[1] < 2 or array.strides[1] == array.itemsize
    )
    return array if in_place else np.ascontiguousarray(array)


def _array(embeddings: Any) -> tuple[NDArray[Any], bool]:
    """As numpy, and whether it holds bfloat16: a torch tensor's or that of ml_dtypes."""
    if hasattr(embeddings, "detach"):
        tensor = embeddings.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.uint16).numpy(), True
        return tensor.numpy(), False
    array = np.asarray(embeddings)
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16), True
    return array, False
