"""The scores of one run, summed over the translations of each question, and their bootstrap.

Translations of one question are not independent: questions are drawn with replacement, each with
all its translations (a cluster bootstrap; Field and Welsh 2007), the same for all runs of a data
set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._files import atomic_file
from hybridret._types import Floats, Ints
from hybridret.errors import DataError
from hybridret.evaluation.bias import preferences, rank_distances
from hybridret.evaluation.judging import Evaluation
from hybridret.evaluation.ranking import Ranks
from hybridret.evaluation.report import KINDS, Report

RANK_DISTANCE, PREFERENCE = "rank distance", "preference"
DRAWS = 10_000
_BLOCK = 1000  # draws at a time: of a thousand questions 8 MB
LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """One run on one data set: C questions, K columns.

    Attributes:
        columns: measure, language of the queries, language of the documents (None: all).
        sums: float64 [C, K], of the queries of a question.
        counts: int64 [C, K], queries in each sum.
        ceilings: the best possible value of each column.
    """

    columns: list[tuple[str, str, str | None]]
    sums: Floats
    counts: Ints
    ceilings: list[float | None]

    @classmethod
    def of(cls, evaluation: Evaluation, ranks: Ranks, report: Report) -> Scores:
        """``AP mono`` and so on for each metric, rank distance and preference."""
        pool, metrics = evaluation.pool, list(report.queries.values)
        clusters = report.clusters
        columns: list[tuple[str, str, str | None]] = []
        ceilings: list[float | None] = []
        parts: list[tuple[Ints, Ints, Floats]] = []  # question, column, value
        for metric in metrics:
            first = len(columns)
            for s in report.settings:
                columns.append((f"{metric} {s.setting}", s.query_language, s.document_language))
                ceilings.append(s.ceilings[metric])
            of = clusters[report.queries.query]
            parts.append((of, report.queries.setting + first, report.queries.values[metric]))
        for name, (values, known) in (
            (RANK_DISTANCE, rank_distances(pool, ranks)),
            (PREFERENCE, preferences(pool, ranks)),
        ):
            language = pool.query_language
            for number in np.unique(language[known]):
                rows = np.flatnonzero(known & (language == number))
                parts.append((clusters[rows], np.full(len(rows), len(columns)), values[rows]))
                columns.append((name, pool.languages[number], None))
                ceilings.append(None)
        question, column, value = (np.concatenate(found) for found in zip(*parts, strict=True))
        shape = (int(clusters.max()) + 1, len(columns))
        sums, counts = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        np.add.at(sums, (question, column), value)
        np.add.at(counts, (question, column), 1)
        return cls(columns, sums, counts, ceilings)

    def only(self, measures: Iterable[str]) -> Scores:
        """The columns of these measures."""
        names = set(measures)
        keep = [n for n, column in enumerate(self.columns) if column[0] in names]
        return Scores(
            [self.columns[n] for n in keep],
            self.sums[:, keep],
            self.counts[:, keep],
            [self.ceilings[n] for n in keep],
        )

    @property
    def measures(self) -> list[str]:
        return list(dict.fromkeys(measure for measure, _, _ in self.columns))

    @property
    def values(self) -> Floats:
        """float64 [K], the mean of each column over its queries."""
        return np.asarray(self.sums.sum(0) / np.maximum(self.counts.sum(0), 1))

    def mean(self, measure: str, languages: Sequence[str] | None = None) -> float:
        """Over the languages of the queries, in cross first over those of the documents.

        Args:
            languages: of the queries, and of the documents; None: all.
        """
        weights = self._weights(measure, languages)
        return float(self.values @ weights) if weights.any() else float("nan")

    def ceiling(self, measure: str) -> float | None:
        """The best possible value; None where there is none, as of a rank distance."""
        weights = self._weights(measure, None)
        known = [0.0 if c is None else c for c in self.ceilings]
        top = all(c is not None for c, w in zip(self.ceilings, weights, strict=True) if w)
        return float(np.array(known) @ weights) if top and weights.any() else None

    def n(self, measure: str) -> int:
        """Queries in the means of a measure."""
        return int(self.counts[:, self._weights(measure, None) > 0].sum())

    def matrix(self, metric: str, languages: Sequence[str]) -> tuple[Floats, Ints]:
        """Values and numbers of queries [L, L + 1] of a metric, by languages of queries and
        documents; the last column is the pool of all."""
        values = self._matrix(self.values, metric, languages)
        counts = np.nan_to_num(self._matrix(self.counts.sum(0), metric, languages))
        return values, counts.astype(np.int64)

    def ceiling_matrix(self, metric: str, languages: Sequence[str]) -> Floats:
        """The best possible values of :meth:`matrix`."""
        known = [np.nan if c is None else c for c in self.ceilings]
        return self._matrix(np.array(known), metric, languages)

    def _matrix(self, of_columns: Floats | Ints, metric: str, languages: Sequence[str]) -> Floats:
        place = {language: n for n, language in enumerate(languages)}
        found = np.full((len(place), len(place) + 1), np.nan)
        names = {f"{metric} {kind}" for kind in KINDS}
        for value, (name, asked, told) in zip(of_columns, self.columns, strict=True):
            if name in names:
                found[place[asked], len(place) if told is None else place[told]] = value
        return found

    def draws(self, measure: str, *, seed: int = 0) -> Floats:
        """float64 [DRAWS]: the means over questions drawn with replacement.

        The same questions are drawn for every measure and every run of a data set.
        """
        weights = self._weights(measure, None)
        used = np.flatnonzero(weights)
        sums, counts, weights = self.sums[:, used], self.counts[:, used], weights[used]
        times = _times(len(sums), seed)
        found = np.empty(DRAWS)
        alike = bool((counts == counts[:1]).all())  # as in XQuAD-R: every question in every column
        for start in range(0, DRAWS, _BLOCK):
            some = times[start : start + _BLOCK].astype(np.float64)
            if alike:
                found[start : start + _BLOCK] = some @ (sums @ (weights / counts[0])) / len(sums)
                continue
            drawn = some @ counts
            means = np.tile(self.values[used], (len(some), 1))  # where no query of it was drawn
            np.divide(some @ sums, drawn, out=means, where=drawn > 0)
            found[start : start + _BLOCK] = means @ weights
        return found

    def _weights(self, measure: str, languages: Sequence[str] | None) -> Floats:
        names = [
            (asked if languages is None or {asked, told or asked} <= {*languages} else None)
            if name == measure
            else None
            for name, asked, told in self.columns
        ]
        counts = {name: names.count(name) for name in names if name}
        return np.array([1 / (len(counts) * counts[x]) if x else 0.0 for x in names])

    def save(self, path: Path) -> None:
        """Writes a ``.npz`` file without pickles."""
        about = json.dumps({"columns": self.columns, "ceilings": self.ceilings})
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(about.encode(), dtype=np.uint8),
                sums=self.sums.astype(np.float32),
                counts=self.counts.astype(np.uint16),
            )

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Reads what :meth:`save` has written.

        Raises:
            DataError: another file, or a damaged one.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                about: dict[str, Any] = json.loads(found["about"].tobytes().decode())
                sums = found["sums"].astype(np.float64)
                counts = found["counts"].astype(np.int64)
            columns = [(str(a), str(b), c if c is None else str(c)) for a, b, c in about["columns"]]
        except Exception as error:  # zipfile, json and numpy have a dozen of them
            raise DataError(f"{path}: not the scores of a run, or damaged: {error!r}") from None
        return cls(columns, sums, counts, about["ceilings"])


@lru_cache(maxsize=4)
def _times(clusters: int, seed: int) -> NDArray[np.uint16]:
    """[DRAWS, clusters]: how often each question is drawn."""
    rng, even = np.random.default_rng(seed), np.full(clusters, 1 / clusters)
    times = np.empty((DRAWS, clusters), dtype=np.uint16)
    for start in range(0, DRAWS, _BLOCK):
        times[start : start + _BLOCK] = rng.multinomial(clusters, even, _BLOCK)
    return times
