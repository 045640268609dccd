"""Queries that change the language in the middle, made from translations of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from hybridret.data.table import Dataset, Query
from hybridret.errors import DataError


def code_switched(dataset: Dataset, *, into: str = "en") -> Dataset:
    """The data set with queries that begin in their own language and end in another.

    The first half of a query's words, then the second half of those of its translation; of a text
    without spaces, half of its characters. A query in ``into`` ends in the next of its group's
    languages. Real speakers switch at other places: this shows how far an encoder depends on one
    language a query, no more. Queries without a translation are left out.

    Args:
        into: the language that queries end in.

    Raises:
        DataError: no query has a translation.
    """
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for query in dataset.queries:
        texts[query.group_id][query.language] = query.text
    switched = []
    for query in dataset.queries:
        own = texts[query.group_id]
        others = sorted(own.keys() - {query.language}, key=lambda x: (x <= query.language, x))
        if others:
            other = into if into in others else others[0]
            text = f"{_half(query.text, first=True)} {_half(own[other], first=False)}"
            switched.append(replace(query, text=text))
    if not switched:
        raise DataError(f"{dataset.name}: no query has a translation, so none can switch languages")
    kept = {query.query_id for query in switched}
    qrels = {query: judged for query, judged in dataset.qrels.items() if query in kept}
    return Dataset(f"{dataset.name}, code-switched", switched, dataset.documents, qrels)


def translated(queries: Sequence[Query]) -> bool:
    """Whether a query has a translation."""
    pairs = {(query.group_id, query.language) for query in queries}
    return len({group for group, _ in pairs}) < len(pairs)


def _half(text: str, *, first: bool) -> str:
    words = text.split()
    if len(words) < 3:
        at = (len(text) + 1) // 2
        return text[:at] if first else text[at:]
    at = (len(words) + 1) // 2
    return " ".join(words[:at] if first else words[at:])
