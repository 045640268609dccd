"""What a study reads: training data, held-out groups, data sets to judge on; what they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from hybridret._types import Ints
from hybridret.data.leakage import Leakage, leakage
from hybridret.data.load import load_dataset
from hybridret.data.table import Dataset, Document, StreamedDocuments, hold_out
from hybridret.errors import DataError
from hybridret.studies.protocol import complete_rows, covers, held_out_texts
from hybridret.training.pairs import PairTable

LEAKS = ("refuse", "remove", "allow")
DEVELOPMENT_POOL = 1000
"""Documents that held-out queries are searched in, at least."""


@dataclass(frozen=True)
class StudyData:
    """All texts of a study.

    Attributes:
        tables: what is trained on, by name.
        development: held-out groups of each, by the same names.
        directions: held-out texts that language directions are estimated from.
        judged: data sets to judge on, by name.
        stop_on: whose loss ends a training, if there is one.
        leaks: what training and evaluation shared.
        leaks_were: ``remove`` or ``allow``: what was done about it.
    """

    tables: dict[str, PairTable]
    development: dict[str, Dataset]
    directions: list[Document]
    judged: dict[str, Dataset]
    leaks: Leakage
    leaks_were: str
    stop_on: Dataset | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the page, and to recognise the same data again."""
        return {
            "training": {
                name: {
                    "rows": len(table),
                    "languages": table.languages,
                    "content": _hash(
                        (*table.query_texts, *table.document_texts),
                        (table.queries, table.documents, table.query_groups, table.document_groups),
                    ),
                }
                for name, table in self.tables.items()
            },
            "held out": {
                name: {
                    "queries": len(found.queries),
                    "documents": len(found.documents),
                    "content": _content(found),
                }
                for name, found in self.development.items()
            },
            "judged on": {
                name: {
                    "queries": len(found.queries),
                    "documents": len(found.documents),
                    "languages": found.languages,
                    "content": _content(found),
                }
                for name, found in self.judged.items()
            },
            "directions": len(self.directions),
            "stop on": _content(self.stop_on) if self.stop_on else None,
            "order": [*self.tables, *self.judged],
        }


def read(
    training: Mapping[str, str],
    judged: Sequence[str],
    *,
    languages: Sequence[str],
    share: float,
    leaks: str = "refuse",
    stop_on: str | None = None,
    complete: bool = True,
    progress: bool = False,
) -> StudyData:
    """Reads and checks all texts of a study.

    Args:
        training: path or name of each data set, by the name it gets.
        judged: paths or names of data sets, or NAME=PATH.
        languages: to train on.
        share: of the documents of each data set that is held out.
        stop_on: path or name of a data set whose loss ends a training.
        leaks: what to do if training and evaluation share texts: one of :data:`LEAKS`.
        complete: keep only groups that exist in every language, so that all arms draw the same
            rows.

    Raises:
        DataError: what :func:`hybridret.load_dataset` and :func:`hybridret.data.table.hold_out`
            raise, two data sets of one name, or texts that are in both.
    """
    tests: dict[str, Dataset] = {}
    for item in judged:
        name, _, path = item.rpartition("=")
        dataset = load_dataset(path)
        name = name or dataset.name
        if name in tests:
            raise DataError(f"two data sets to judge on are named {name!r}; give NAME=PATH")
        tests[name] = replace(dataset, name=name)
    whole = {name: load_dataset(path) for name, path in training.items()}
    stopping = load_dataset(stop_on) if stop_on else None
    shared = leakage(whole.values(), tests.values(), progress=progress)
    if shared and leaks == "refuse":
        raise DataError(_refusal(shared))
    if stopping and leaks != "allow" and (both := leakage([stopping], tests.values())):
        raise DataError(f"{stop_on}: it ends the training, and is judged on: {_refusal(both)}")
    if leaks == "remove":
        whole = {name: shared.without(dataset) for name, dataset in whole.items()}
    tables, development = {}, {}
    texts: list[Document] = []
    spoken = sorted({language for dataset in tests.values() for language in dataset.languages})
    for name, dataset in whole.items():
        found = (
            complete_rows(dataset, languages)
            if complete
            else dataset.only_languages([x for x in languages if covers(dataset.languages, x)])
        )
        trained, held = hold_out(found, share, pool=DEVELOPMENT_POOL)
        tables[name], development[name] = PairTable.from_dataset(trained), held
        found_texts = held_out_texts(dataset, held, spoken)
        if len({d.language for d in found_texts}) > len({d.language for d in texts}):
            texts = found_texts
    return StudyData(tables, development, texts, tests, shared, leaks, stopping)


def _hash(texts: Iterable[str], arrays: Iterable[Ints] = ()) -> str:
    digest = sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _content(dataset: Dataset) -> str:
    """A hash of queries, documents (of a streamed corpus their ids) and judgements."""
    streamed = isinstance(dataset.documents, StreamedDocuments)
    documents = () if streamed else (f"{d.group_id}\t{d.full_text}" for d in dataset.documents)
    queries = (f"{q.group_id}\t{q.text}" for q in dataset.queries)
    return _hash((*queries, *dataset.document_ids, *documents, json.dumps(dataset.qrels)))


def _refusal(shared: Leakage) -> str:
    found = {x: f.equal + f.near for x, f in shared.languages.items() if f.equal + f.near}
    counts = ", ".join(f"{count} in {language}" for language, count in found.items())
    judged, trained, _ = next(f.examples[0] for f in shared.languages.values() if f.examples)
    return (
        f"training and evaluation share texts: {counts}. For example {judged[:80]!r}, trained on "
        f"as {trained[:80]!r}. --leaks remove takes their groups out of the training data, "
        f"--leaks allow goes on with them"
    )
