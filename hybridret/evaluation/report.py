"""Scores of one system in every setting."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._files import write_json
from hybridret._types import Floats, Ints
from hybridret.evaluation.bias import LanguageBias

KINDS = ("mono", "cross", "multi")
RANK_DISTANCE = "rank_distance"


@dataclass(frozen=True)
class Setting:
    """Mean scores of one setting over its n queries; ``document_language`` is None for multi.

    Attributes:
        ceilings: scores of the best possible ranking; for a query with 11 relevant documents
            recall@1 cannot exceed 1/11, for example.
    """

    setting: str
    query_language: str
    document_language: str | None
    n: int
    metrics: dict[str, float]
    ceilings: dict[str, float]


@dataclass(frozen=True)
class QueryScores:
    """Scores of single queries: G rows, one for each query of each setting.

    Attributes:
        setting: int64 [G], position of the setting in the report.
        query: int64 [G], position of the query in the data set.
        values: by metric, float64 [G].
    """

    setting: Ints
    query: Ints
    values: dict[str, Floats]


@dataclass
class Report:
    """Scores of one system: every setting, the three summaries, and the language bias.

    A summary is the mean over languages (cross: first over the document languages of each query
    language, then over query languages). ``summary["rank_distance"]`` is that of
    :mod:`hybridret.evaluation.bias`, None if no query has two relevant documents.
    """

    name: str
    dataset: str
    languages: list[str]
    settings: list[Setting]
    summary: dict[str, Any]
    bias: LanguageBias
    queries: QueryScores = field(repr=False)
    query_ids: list[str] = field(repr=False)
    clusters: Ints = field(repr=False)  # [Q], number of each query's translation group
    details: dict[str, Any] = field(default_factory=dict)

    def matrix(self, metric: str) -> Floats:
        """float64 [L, L], query language by document language; NaN if there are no queries."""
        place = {language: i for i, language in enumerate(self.languages)}
        values = np.full((len(place), len(place)), np.nan)
        for s in self.settings:
            if s.document_language is not None:
                values[place[s.query_language], place[s.document_language]] = s.metrics[metric]
        return values

    @property
    def ceilings(self) -> dict[str, dict[str, float]]:
        """The summaries of the best possible ranking, by kind and metric."""
        return {kind: summarize(self.settings, kind, "ceilings") for kind in KINDS}

    def to_dict(self, *, per_query: bool = False) -> dict[str, Any]:
        """The JSON form, ``{"schema": 1, "settings": [...], "summary": {...}, ...}``.

        Args:
            per_query: add ``"scores"`` to every setting: by metric, a value for each query id.
        """
        fields = ("setting", "query_language", "document_language", "n", "metrics")
        settings: list[dict[str, Any]] = [
            {name: getattr(s, name) for name in fields} for s in self.settings
        ]
        if per_query:
            for number, setting in enumerate(settings):
                rows = self.queries.setting == number
                ids = [self.query_ids[q] for q in self.queries.query[rows]]
                setting["scores"] = {
                    name: dict(zip(ids, values[rows].tolist(), strict=True))
                    for name, values in self.queries.values.items()
                }
        return {
            "schema": 1,
            "name": self.name,
            "dataset": self.dataset,
            "languages": self.languages,
            "settings": settings,
            "summary": self.summary,
            "ceilings": self.ceilings,
            "bias": self.bias.to_dict(),
            **self.details,
        }

    def save_json(self, path: str | Path, *, per_query: bool = False) -> None:
        write_json(path, json.loads(json.dumps(self.to_dict(per_query=per_query))))


def summarize(settings: list[Setting], kind: str, what: str = "metrics") -> dict[str, float]:
    """The mean of each metric over the settings of a kind, see :class:`Report`."""
    by_language: dict[str, list[dict[str, float]]] = {}
    for s in settings:
        if s.setting == kind:
            by_language.setdefault(s.query_language, []).append(getattr(s, what))
    names = next(iter(by_language.values()))[0] if by_language else ()
    return {
        name: float(np.mean([np.mean([m[name] for m in own]) for own in by_language.values()]))
        for name in names
    }
