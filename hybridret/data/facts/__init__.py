"""The embedded data set: facts of the Unicode CLDR 47 as questions and passages in 11 languages.

Territories (currency, official language, M49 sub-region, first weekday), places that name a time
zone (country, time zone) and languages (script, main country). The facts are what the CLDR records;
see ``NOTICE`` for its licence. Questions and passages are made from templates.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal, get_args

from hybridret.data.facts.templates import (
    ANSWER_KIND,
    ENTITY_KIND,
    LANGUAGES,
    LIST_SEPARATOR,
    WORDINGS,
    Wording,
)
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError

__all__ = ["LANGUAGES", "Split", "load_facts"]

Split = Literal["train", "evaluation", "paraphrase"]

HELD_OUT = 0.2
"""Share of the entities of each kind that "train" does not have."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: ``names[i]`` and ``answers[i]`` are in language ``LANGUAGES[i]``."""

    kind: str
    key: str
    relation: str
    names: list[str]
    answers: list[str]

    @property
    def group_id(self) -> str:
        """Such as "territory/FR/currency"."""
        return f"{self.kind}/{self.key}/{self.relation}"


def load_facts(split: Split = "train") -> Dataset:
    """Facts of the Unicode CLDR 47 as one question and one passage per fact and language.

    A fifth of the territories, places and languages is held out of "train". "evaluation" has all
    facts of these, asked in the two wordings that "train" uses; "paraphrase" has the same facts,
    asked in a wording that "train" never uses. A held-out territory may still be named in training
    as an answer.

    Args:
        split: "train", "evaluation" or "paraphrase".

    Returns:
        The data set "facts-train", ... A group is a fact such as "territory/FR/currency"; it has
        one query ("territory/FR/currency/q/en") and one document ("territory/FR/currency/d/en") in
        each of ``LANGUAGES``. Each query is judged on the document of its language; the group makes
        the other languages' documents relevant. Every call returns the same rows in the same order.

    Raises:
        DataError: there is no such split.
    """
    if split not in get_args(Split):
        raise DataError(f"the facts have no split {split!r}, only {', '.join(get_args(Split))}")
    queries: list[Query] = []
    documents: list[Document] = []
    qrels: dict[str, dict[str, int]] = {}
    for fact in facts(split):
        group = fact.group_id
        for language, name, answer in zip(LANGUAGES, fact.names, fact.answers, strict=True):
            wording = WORDINGS[fact.relation][language]
            question = _question(wording, group, language, split).format(entity=name)
            passage = wording.passage.format(entity=name, answer=answer)
            queries.append(Query(f"{group}/q/{language}", question, language, group))
            documents.append(Document(f"{group}/d/{language}", passage, language, group))
            qrels[f"{group}/q/{language}"] = {f"{group}/d/{language}": 1}
    return Dataset(f"facts-{split}", queries, documents, qrels)


def facts(split: Split) -> Iterator[Fact]:
    """The facts of a split, ordered by relation and entity."""
    table = read_table()
    names = table["names"]
    wanted = {kind: _entities(kind, split) for kind in set(ENTITY_KIND.values())}
    for relation, answers in table["facts"].items():
        kind, answer_kind = ENTITY_KIND[relation], ANSWER_KIND[relation]
        for key, codes in answers.items():
            if key in wanted[kind]:
                told = [names[answer_kind][code] for code in codes]
                yield Fact(kind, key, relation, names[kind][key], _join(told))


@cache
def read_table() -> Any:
    """The shipped file as ``generate.generate`` describes it; shared, so not to be changed."""
    packed = files(__package__).joinpath("facts.json.xz").read_bytes()
    return json.loads(lzma.decompress(packed))


def _entities(kind: str, split: Split) -> set[str]:
    facts_of_kind = (a for r, a in read_table()["facts"].items() if ENTITY_KIND[r] == kind)
    keys = {key for answers in facts_of_kind for key in answers}
    # Ranked by hash, not drawn: the split is the same in every Python and on every platform.
    ranked = sorted(keys, key=lambda key: sha256(f"{kind}/{key}".encode()).digest())
    held_out = set(ranked[: round(HELD_OUT * len(ranked))])
    return keys - held_out if split == "train" else held_out


def _join(told: list[list[str]]) -> list[str]:
    return [LIST_SEPARATOR[language].join(row[i] for row in told) for i, language in _INDEXED]


_INDEXED = tuple(enumerate(LANGUAGES))


def _question(wording: Wording, group: str, language: str, split: Split) -> str:
    if split == "paraphrase":
        return wording.paraphrase
    odd = sha256(f"{group}/{language}".encode()).digest()[0] & 1
    return wording.question_2 if odd else wording.question_1
