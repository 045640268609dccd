"""Runs of a study in a folder: trained once, judged once, gone on with after an interruption.

::

    study.json                what the study is; another one is refused
    start/                    the encoder that training starts from, if it is made here
    start-without-directions/ the same without its language directions
    runs/TRIAL/               the folder of a training run, see :mod:`hybridret.training.run`
    runs/TRIAL/scores/        what it scores, a file for each data set; the model is deleted then
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridret._files import atomic_folder, read_json, write_json
from hybridret.data.code_switching import code_switched
from hybridret.data.table import Dataset, Document
from hybridret.encoder.debias import language_directions
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation, embed, evaluate
from hybridret.evaluation.report import KINDS
from hybridret.studies.protocol import Arm, Budget, Trial, sources
from hybridret.studies.scores import Scores
from hybridret.training.loop import autocast, default_precision, train
from hybridret.training.pairs import PairTable

PLAIN, WITHOUT, SWITCHED = "as it comes", "without directions", "code-switched"
VARIANTS = (PLAIN, WITHOUT, SWITCHED)
METRICS = ("AP", "nDCG@10", "recall@100")
_CHECKPOINTS = 40  # steps
_TEXTS = 16  # of a forward pass when judging: on a CPU faster than more


@dataclass
class Runs:
    """All that the runs of a study share.

    Attributes:
        folder: of the study.
        start: the encoder that training starts from.
        tables: what is trained on, by name.
        development: held-out groups of each, by the same names.
        directions: texts that language directions are estimated from.
        judged: data sets to judge on, by name.
        max_length: tokens of a text; None: the encoder's own.
    """

    folder: Path
    start: Path
    tables: dict[str, PairTable]
    development: dict[str, Dataset]
    directions: Sequence[Document]
    judged: dict[str, Dataset]
    budget: Budget
    max_length: int | None = None
    progress: bool = False
    keep_models: bool = False
    _evaluations: dict[str, Evaluation] = field(default_factory=dict, repr=False)

    # ----------------------------------------------------------------------------- training

    def developed(self, trial: Trial) -> float:
        """Trains a trial, if that is not done, and scores it on the held-out groups of its data.

        The mean of AP in mono, cross and multi, and over the data sets.
        """
        done = self.of(trial) / "development.json"
        if not done.is_file():
            encoder = self.trained(trial)
            scores = {}
            with self._precision(trial):
                for name in trial.arm.data:
                    report = evaluate(encoder, self.development[name], progress=self.progress)
                    summary = {kind: report.summary[kind]["AP"] for kind in KINDS}
                    scores[name] = summary
            write_json(done, scores)
        scores = read_json(done, DataError)
        return float(np.mean([list(found.values()) for found in scores.values()]))

    def trained(self, trial: Trial) -> TorchEncoder:
        """The encoder of a trial, trained now if it is not there."""
        folder = self.of(trial)
        if (folder / "model").is_dir():
            return TorchEncoder.load(folder / "model")
        encoder = self.beginning(trial.arm)
        began = time.monotonic()
        train(
            encoder,
            sources(self.tables, trial.arm),
            folder,
            trial.config(self.budget, checkpoint_every=_CHECKPOINTS),
            about={"arm": trial.arm.name},
            resume=True,
            progress=self.progress,
        )
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        write_json(folder / "seconds.json", {"training": time.monotonic() - began})
        return encoder

    def beginning(self, arm: Arm) -> TorchEncoder:
        """What the training of an arm starts from."""
        if not arm.before:
            return TorchEncoder.load(self.start, max_length=self.max_length)
        folder = self.folder / "start-without-directions"
        if not folder.is_dir():
            encoder = TorchEncoder.load(self.start, max_length=self.max_length)
            encoder.add_linear(self._directions(encoder).matrix())
            with atomic_folder(folder) as temporary:
                encoder.save(temporary)
        return TorchEncoder.load(folder, max_length=self.max_length)

    def of(self, trial: Trial) -> Path:
        return self.folder / "runs" / trial.name

    # ----------------------------------------------------------------------------- judging

    def scores(self, trial: Trial) -> dict[tuple[str, str], Scores]:
        """What a trial scores, by data set and variant; judged now if that is not done."""
        self.developed(trial)
        folder = self.of(trial)
        if not (folder / "scores").is_dir():
            encoder = self.trained(trial)
            with self._precision(trial):
                self._judge(encoder, folder / "scores")
        if not self.keep_models:
            shutil.rmtree(folder / "model", ignore_errors=True)
        return self._load(folder / "scores")

    def scores_of_start(self) -> dict[tuple[str, str], Scores]:
        """What the encoder scores that training starts from."""
        folder = self.folder / "runs" / "untrained" / "scores"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            encoder = TorchEncoder.load(self.start, max_length=self.max_length)
            with _autocast(default_precision(encoder)):
                self._judge(encoder, folder)
        return self._load(folder)

    def _judge(self, encoder: TorchEncoder, folder: Path) -> None:
        began = time.monotonic()
        directions = self._directions(encoder)
        with atomic_folder(folder) as temporary:
            for number, dataset in enumerate(self.judged.values()):
                queries, documents = embed(
                    encoder, dataset, batch_size=_TEXTS, progress=self.progress
                )
                switched = code_switched(dataset)
                mixed = encoder.encode_queries(
                    [q.text for q in switched.queries],
                    batch_size=_TEXTS,
                    progress=self.progress,
                )
                found = {
                    PLAIN: self._scored(dataset, queries, documents, encoder),
                    WITHOUT: self._scored(
                        dataset, directions.remove(queries), directions.remove(documents), encoder
                    ),
                    SWITCHED: self._scored(switched, mixed, documents, encoder).only(
                        [f"{metric} multi" for metric in METRICS]
                    ),
                }
                for variant, scores in found.items():
                    scores.save(temporary / f"{number}-{variant.replace(' ', '-')}.npz")
            write_json(temporary / "seconds.json", {"judging": time.monotonic() - began})

    def _scored(
        self, dataset: Dataset, queries: Any, documents: Any, encoder: TorchEncoder
    ) -> Scores:
        if dataset.name not in self._evaluations:
            self._evaluations[dataset.name] = Evaluation(dataset, metrics=METRICS)
        evaluation = self._evaluations[dataset.name]
        ranks = evaluation.rank(queries, documents, encoder.config.similarity, best=0)
        return Scores.of(evaluation, ranks, evaluation.judge(ranks, dataset.name))

    def _load(self, folder: Path) -> dict[tuple[str, str], Scores]:
        return {
            (name, variant): Scores.load(folder / f"{number}-{variant.replace(' ', '-')}.npz")
            for number, name in enumerate(self.judged)
            for variant in VARIANTS
        }

    def _directions(self, encoder: TorchEncoder) -> Any:
        texts = list(self.directions)
        return language_directions(
            encoder.encode_documents([d.full_text for d in texts]),
            [d.language for d in texts],
            groups=[d.group_id for d in texts],
        )

    def _precision(self, trial: Trial) -> Any:
        state = read_json(self.of(trial) / "training.json", DataError)
        return _autocast(state["config"]["precision"])


def _autocast(precision: str) -> Any:
    return autocast(precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def open_folder(folder: Path, what: dict[str, Any]) -> None:
    """Begins a study in a folder, or goes on with it.

    Raises:
        DataError: the folder has another study, or other files.
    """
    path = folder / "study.json"
    what = json.loads(json.dumps(what))
    if path.is_file():
        before = read_json(path, DataError)
        changed = sorted(n for n in {*before, *what} if before.get(n) != what.get(n))
        if changed:
            raise DataError(
                f"{folder} has a study with other settings ({', '.join(changed)}); choose another "
                f"folder, or go on with the same settings"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty, and not the folder of a study")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, what)
