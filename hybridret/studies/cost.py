"""What a study costs, before it is run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hybridret.data.table import Dataset, StreamedDocuments
from hybridret.studies.preparation import StudyData
from hybridret.studies.protocol import STOPS, Arm, Budget, without_repeats

_CHARACTERS = 3.5  # of a token of a multilingual vocabulary, on average over many languages
_USED = 0.3  # of the speed of a plain matrix product, by a training step or an encoder
_SAMPLE = 2000  # texts whose lengths stand for all
_STATIC = 3000  # texts a second of a static encoder, tokenisation included


@dataclass(frozen=True)
class Cost:
    """Of a whole study.

    Attributes:
        runs: trainings, of which ``trials`` choose settings.
        pairs: in all of them.
        judged: texts that are embedded to judge the encoders, held-out groups and what ends a
            training included.
        flops: of the encoder's layers; 0 for a static encoder.
        seconds: of training and judging.
        measured: whether by runs that are done, else by a matrix product of this machine.
        done: trainings that are done.
    """

    runs: int
    trials: int
    pairs: int
    judged: int
    flops: float
    seconds: float
    measured: bool
    done: int

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def text(self) -> str:
        """In words."""
        by = (
            f"by the {self.done} runs that are done"
            if self.measured
            else "roughly, by a matrix product measured now"
        )
        return (
            f"{self.runs} trainings ({self.trials} of them trials of settings), {self.pairs:,} "
            f"pairs; {self.judged:,} texts embedded to judge; {self.flops:.1e} operations; "
            f"{_hours(self.seconds)} in all, {by}"
        )


def cost(
    arms: Sequence[Arm],
    budget: Budget,
    data: StudyData,
    *,
    layers: int,
    max_length: int | None,
    folder: Path,
    weights: Mapping[str, float] | None = None,
) -> Cost:
    """The cost of a study; loads no model.

    Args:
        layers: parameters of the encoder's layers, those that are multiplied; 0: a static one.
        folder: of the study; runs that are done there give the times.
        weights: see :class:`hybridret.studies.runs.Runs`.
    """
    runs, trials = len(arms) * budget.runs, len(arms) * budget.trials
    most = max_length or 512
    length = {n: _tokens((t.query_texts, t.document_texts), most) for n, t in data.tables.items()}
    pair = statistics.fmean(sum(length[n]) for arm in arms for n in arm.data)
    held = {n: len(d.queries) + len(d.documents) for n, d in data.development.items()}
    tokens_held = {n: _all(d, most) for n, d in data.development.items()}
    each = sum(2 * len(d.queries) + len(d.documents) for d in data.judged.values())
    tokens_each = sum(_all(d, most) for d in data.judged.values())
    finals = len(arms) * len(budget.seeds) + 1
    pairs = sum(
        budget.runs * (budget if weights else without_repeats(budget, data.tables, arm)).pairs
        for arm in arms
    )
    developed = sum(held[n] for arm in arms for n in arm.data) * budget.trials
    tokens_developed = sum(tokens_held[n] for arm in arms for n in arm.data) * budget.trials
    training = 6.0 * layers * pair * pairs
    judged, tokens_judged = developed + each * finals, tokens_developed + tokens_each * finals
    if data.stop_on is not None:
        judged += runs * STOPS * (len(data.stop_on.queries) + len(data.stop_on.documents))
        tokens_judged += runs * STOPS * _all(data.stop_on, most)
    judging = 2.0 * layers * tokens_judged
    found = [_seconds(folder, what) for what in ("training", "judging")]
    if all(found):
        seconds = runs * statistics.fmean(found[0]) + finals * statistics.fmean(found[1])
    elif layers:
        seconds = (training + judging) / (_USED * _speed())
    else:
        seconds = (2 * pairs + judged) / _STATIC
    return Cost(
        runs,
        trials,
        pairs,
        judged,
        training + judging,
        seconds,
        all(found),
        len(found[0]),
    )


def layer_parameters(config: Any) -> int:
    """Parameters of a transformer's layers, from its configuration."""
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", 4 * width)
    return int(config.num_hidden_layers * (4 * width * width + 2 * width * inner))


def _tokens(columns: Sequence[Sequence[str]], most: int) -> list[float]:
    """Tokens of a text of each column on average, as its characters tell."""
    samples = [column[:: 1 + len(column) // _SAMPLE] for column in columns]
    return [statistics.fmean(min(most, len(x) / _CHARACTERS) for x in texts) for texts in samples]


def _all(dataset: Dataset, most: int) -> float:
    documents = dataset.documents
    some = islice(documents, _SAMPLE) if isinstance(documents, StreamedDocuments) else documents
    lengths = _tokens(([q.text for q in dataset.queries], [d.full_text for d in some]), most)
    return len(dataset.queries) * lengths[0] + len(documents) * lengths[1]


def _seconds(folder: Path, what: str) -> list[float]:
    files = [*folder.glob("runs/*/seconds.json"), *folder.glob("runs/*/scores/seconds.json")]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [entry[what] for entry in found if what in entry]


def _speed() -> float:
    """Operations a second of a matrix product as training does it, in about half a second."""
    import torch

    from hybridret.training.loop import fastest_precision

    a = torch.ones(1024, 1024)
    a = a.bfloat16() if fastest_precision() == "bf16" else a
    a @ a
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        a @ a
        count += 1
    return 2 * 1024**3 * count / (time.monotonic() - began)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
