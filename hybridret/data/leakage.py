"""Texts that are in two data sets: what an encoder was trained on must not be what it is judged on.

Two texts of one language are equal if they have the same letters and digits, whatever their case,
punctuation and spaces; they are near duplicates if at least :data:`NEAR` of the pieces of the
shorter one, its runs of eight characters (four of Chinese and Japanese, where that is a word or
two), are pieces of the longer one. So a sentence is found in the passage that it was taken from.
Texts of fewer than twenty pieces are compared for equality alone: most short questions have near
duplicates by chance. Translations are not found: compare the data in the language that they were
translated from.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._progress import progress_bar
from hybridret._types import Ints
from hybridret.data.table import Dataset, Document, StreamedDocuments

NEAR = 0.9
"""Share of the shorter text's pieces from which two texts are near duplicates."""
_PIECE = 8  # characters
_SHORTER = {"zh": 4, "ja": 4}  # where a character is a syllable or a word
_LEAST = 20  # pieces of a text that can be a near duplicate: shorter ones would be by chance
_EXAMPLES = 20


@dataclass
class Found:
    """What two data sets share in one language.

    Attributes:
        trained, judged: distinct texts that were compared.
        equal, near: judged texts that equal a trained one, or are near duplicates of one.
        short: judged texts that are too short to be near duplicates.
        texts: the trained texts that are meant.
        examples: pairs (judged text, trained text, share of pieces), the nearest first.
    """

    trained: int = 0
    judged: int = 0
    equal: int = 0
    near: int = 0
    short: int = 0
    texts: set[str] = field(default_factory=set)
    examples: list[tuple[str, str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Leakage:
    """What training and evaluation share, by language."""

    languages: dict[str, Found]

    def __bool__(self) -> bool:
        return any(found.equal or found.near for found in self.languages.values())

    @property
    def count(self) -> int:
        """Judged texts that were trained on."""
        return sum(found.equal + found.near for found in self.languages.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            language: {name: value for name, value in vars(found).items() if name != "texts"}
            for language, found in self.languages.items()
        }

    def without(self, dataset: Dataset) -> Dataset:
        """A trained data set without the groups that have such a text, in whatever language."""
        texts = {text for found in self.languages.values() for text in found.texts}
        documents = {d.group_id for d in dataset.documents if d.full_text in texts}
        told = {d.document_id for d in dataset.documents if d.group_id in documents}
        relevant = dataset.relevant_by_group()
        asked = {q.group_id for q in dataset.queries if q.text in texts}
        kept = dataset.only_query_groups(
            group
            for group, answers in relevant.items()
            if group not in asked and told.isdisjoint(answers)
        )
        return kept.without_documents(documents)  # some are hard negatives


def leakage(
    trained: Iterable[Dataset], judged: Iterable[Dataset], *, progress: bool = False
) -> Leakage:
    """Queries and documents of the judged data sets that are among those of the trained ones.

    Of a streamed corpus only documents that answer a query are compared.
    """
    texts = _by_language(trained), _by_language(judged)
    found = {}
    shared = sorted(texts[0].keys() & texts[1].keys())
    with progress_bar(
        sum(len(texts[0][language]) for language in shared), "Leakage", enabled=progress
    ) as bar:
        for language in shared:
            piece = _SHORTER.get(language, _PIECE)
            found[language] = _compare(texts[0][language], texts[1][language], piece, bar)
    return Leakage(found)


def _by_language(datasets: Iterable[Dataset]) -> dict[str, list[str]]:
    """Distinct texts by the first part of their language tags, as a dict keeps them."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for dataset in datasets:
        for query in dataset.queries:
            found[query.language.partition("-")[0]][query.text] = None
        documents: Iterable[Document] = dataset.documents
        if isinstance(dataset.documents, StreamedDocuments):  # too many: those that answer a query
            answers = {d for judged in dataset.qrels.values() for d, g in judged.items() if g > 0}
            documents = (d for d in dataset.documents if d.document_id in answers)
        for document in documents:
            found[document.language.partition("-")[0]][document.full_text] = None
    return {language: list(texts) for language, texts in found.items()}


def _compare(trained: list[str], judged: list[str], piece: int, bar: Any) -> Found:
    plain = [_plain(text) for text in judged]
    known = {text for text in plain if text}
    pieces = [_pieces(text, piece) for text in plain]
    sizes = np.array([len(p) for p in pieces])
    of = np.repeat(np.arange(len(pieces)), sizes)
    every = np.concatenate([np.empty(0, np.uint64), *pieces])
    order = np.argsort(every, kind="stable")
    every, of = every[order], of[order]
    equal: dict[str, str] = {}  # a trained text by its letters and digits
    shared: set[str] = set()
    best: dict[int, tuple[float, str]] = {}  # of near duplicates, by position
    for text in trained:
        bar.update(1)
        same = _plain(text)
        if same in known:
            equal[same] = text
            shared.add(text)
        own = _pieces(same, piece)
        if len(own) < _LEAST:
            continue
        low, high = np.searchsorted(every, own, "left"), np.searchsorted(every, own, "right")
        hits = _concatenated(of, low, high)
        if not len(hits):
            continue
        numbers, counts = np.unique(hits, return_counts=True)
        shares = counts / np.minimum(sizes[numbers], len(own))
        for at in np.flatnonzero((shares >= NEAR) & (sizes[numbers] >= _LEAST)):
            number, share = int(numbers[at]), float(shares[at])
            shared.add(text)
            if share > best.get(number, (0.0, ""))[0]:
                best[number] = share, text
    both = {number for number, text in enumerate(plain) if text in equal}
    near = {number: found for number, found in best.items() if number not in both}
    examples = [(judged[n], equal[plain[n]], 1.0) for n in sorted(both)]
    for number, (share, text) in sorted(near.items(), key=lambda item: -item[1][0]):
        examples.append((judged[number], text, share))
    return Found(
        len(trained),
        len(judged),
        len(both),
        len(near),
        int((sizes < _LEAST).sum()) if len(sizes) else 0,
        shared,
        examples[:_EXAMPLES],
    )


def _concatenated(values: Ints, low: Ints, high: Ints) -> Ints:
    """values[low[0]:high[0]], values[low[1]:high[1]], ... as one array."""
    counts = high - low
    starts = np.repeat(low - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
    return np.asarray(values[starts + np.arange(counts.sum())])


def _plain(text: str) -> str:
    """Letters with their marks, and digits, in lower case; single spaces between words."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in normal)
    return " ".join(kept.split())


def _pieces(text: str, length: int) -> NDArray[np.uint64]:
    """Hashes of the distinct runs of characters."""
    letters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(letters) < length:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(letters, length)
    powers = np.array([pow(0x9E3779B97F4A7C15, n, 1 << 64) for n in range(length)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        return np.unique((windows * powers).sum(1, dtype=np.uint64))
