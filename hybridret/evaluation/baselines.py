"""What a model has to beat: chance, and word matching."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._extras import require
from hybridret._progress import progress_bar
from hybridret.data.table import Dataset
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation
from hybridret.evaluation.metrics import DEFAULT_METRICS
from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings
from hybridret.evaluation.report import Report

BASELINES = ("random", "bm25")
# Scripts written without spaces have no words to match: there a term is a pair of characters.
_UNSPACED = r"\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u3040-\u30FF\u3400-\u4DBF\u4E00-\u9FFF"
_FIRST_UNSPACED = re.compile(rf"[{_UNSPACED}]")
# Short vowels and the stretching stroke, which Arabic writes or leaves out as it likes.
_ARABIC_OPTIONAL = dict.fromkeys([0x0640, *range(0x064B, 0x0653)])


@cache
def _runs() -> re.Pattern[str]:
    r"""Words. Python's \w leaves out combining marks, without which Hindi is single consonants."""
    marks = [chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c))[0] == "M"]
    letters = rf"(?:[^\W{_UNSPACED}]|[{re.escape(''.join(marks))}])"
    return re.compile(rf"[{_UNSPACED}]+|{letters}+")


def baseline_ranks(name: str, pool: Pool, *, seed: int = 0, progress: bool = False) -> Ranks:
    """Ranks of ``random`` (random vectors) or ``bm25``.

    Raises:
        DataError: no such baseline.
        MissingExtraError: bm25s is not installed.
    """
    if name not in BASELINES:
        raise DataError(f"unknown baseline {name!r}; expected one of {', '.join(BASELINES)}")
    return _random_ranks(pool, seed) if name == "random" else _bm25_ranks(pool, progress)


def evaluate_baseline(
    name: str,
    dataset: Dataset,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Judges a baseline on a data set; see :func:`baseline_ranks`."""
    evaluation = Evaluation(dataset, metrics=metrics)
    ranks = baseline_ranks(name, evaluation.pool, seed=seed, progress=progress)
    return evaluation.judge(ranks, name)


def _random_ranks(pool: Pool, seed: int) -> Ranks:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal(
        (len(pool.query_language) + len(pool.document_language), 32), dtype=np.float32
    )
    return rank_embeddings(
        pool, vectors[: len(pool.query_language)], vectors[len(pool.query_language) :]
    )


def terms(text: str) -> list[str]:
    """Lower-case words; pairs of neighbouring characters in Thai, Lao, Burmese, Khmer, CJK."""
    found = []
    normal = unicodedata.normalize("NFC", text.lower()).translate(_ARABIC_OPTIONAL)
    for run in _runs().findall(normal):
        if _FIRST_UNSPACED.match(run) and len(run) > 1:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
    return found


def _bm25_ranks(pool: Pool, progress: bool) -> Ranks:
    """BM25 (k1 1.5, b 0.75; Lucene's form) with statistics of the pool that is searched."""
    dataset = pool.dataset
    documents = [terms(d.full_text) for d in dataset.documents]
    queries = [terms(q.text) for q in dataset.queries]
    target_language = pool.document_language[pool.targets]
    in_language = np.zeros(len(pool.targets), dtype=np.int64)
    in_all = np.zeros(len(pool.targets), dtype=np.int64)
    everything = np.arange(len(documents))
    work = [(everything, in_all, np.ones(len(pool.targets), dtype=bool))]
    for language in range(len(pool.languages)):
        members = np.flatnonzero(pool.document_language == language)
        if len(members):
            work.append((members, in_language, target_language == language))
    with progress_bar(len(work) * len(queries), "BM25", enabled=progress) as bar:
        for members, ranks, wanted in work:
            index = _index([documents[m] for m in members])
            place = np.full(len(documents), -1, dtype=np.int64)
            place[members] = np.arange(len(members))
            ties = pool.tie_order[members]
            for q, words in enumerate(queries):
                span = slice(pool.target_begin[q], pool.target_begin[q + 1])
                targets = np.flatnonzero(wanted[span]) + span.start
                if len(targets):
                    scores = _scores(index, words, len(members))
                    ranks[targets] = _ranks(scores, place[pool.targets[targets]], ties)
                bar.update(1)
    return Ranks(in_language, in_all)


def _index(documents: list[list[str]]) -> Any:
    bm25s = require("bm25s", "bm25", "the BM25 baseline")
    if not any(documents):
        return None
    index = bm25s.BM25(method="lucene")
    index.index(documents, show_progress=False)
    return index


def _scores(index: Any, words: list[str], count: int) -> NDArray[np.float32]:
    known = [w for w in words if index is not None and w in index.vocab_dict]
    if not known:
        return np.zeros(count, dtype=np.float32)
    return np.asarray(index.get_scores(known), dtype=np.float32)


def _ranks(
    scores: NDArray[np.float32], targets: NDArray[np.int64], tie_order: NDArray[np.int64]
) -> NDArray[np.int64]:
    own = scores[targets][:, None]
    tied = (scores == own) & (tie_order < tie_order[targets][:, None])
    return np.asarray(1 + ((scores > own) | tied).sum(1))
