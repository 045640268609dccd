"""Runs of a study in a folder: trained once, judged once, gone on with after an interruption.

::

    study.json                what the study is; another one is refused
    start/                    the encoder that training starts from
    start-without-directions/ the same without its language directions
    runs/TRIAL/               the folder of a training run, see :mod:`hybridret.training.run`
    runs/TRIAL/scores/        what it scores, a file for each data set; the model is deleted then
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from hybridret._files import atomic_folder, read_json, write_json
from hybridret.data.code_switching import code_switched, translated
from hybridret.data.table import Dataset, StreamedDocuments
from hybridret.encoder.debias import language_directions
from hybridret.encoder.distillation import distill
from hybridret.encoder.torch_encoder import TorchEncoder, load_with_prompts
from hybridret.errors import DataError, ModelError
from hybridret.evaluation.judging import EMBEDDING_FILES, Evaluation, embed, evaluate
from hybridret.evaluation.report import KINDS
from hybridret.losses.functional import infonce
from hybridret.studies.preparation import StudyData
from hybridret.studies.protocol import STOPS, Arm, Budget, Trial, sources, without_repeats
from hybridret.studies.results import PLAIN, SWITCHED, VARIANTS, WITHOUT
from hybridret.studies.scores import Scores
from hybridret.training.batches import make_sampler
from hybridret.training.loop import autocast, default_precision, train
from hybridret.training.pairs import PairTable

METRICS = ("AP", "nDCG@10", "recall@100")
_CHECKPOINTS = 40  # steps
_PATIENCE = 2  # how often the loss that ends a training may rise
_DIVERGED = "diverged"
_ROWS = 65_536  # embeddings at a time
_TEXTS = 16  # of a forward pass when judging: on a CPU faster than more


@dataclass
class Runs:
    """All that the runs of a study share.

    Attributes:
        folder: of the study.
        start: folder of the encoder that training starts from.
        max_length: tokens of a text; None: the encoder's own.
        weights: of the data sets, as the paper draws them; None: in equal shares.
    """

    folder: Path
    start: Path
    data: StudyData
    budget: Budget
    max_length: int | None = None
    weights: Mapping[str, float] | None = None
    progress: bool = False
    keep_models: bool = False
    _evaluations: dict[str, Evaluation] = field(default_factory=dict, repr=False)

    # ----------------------------------------------------------------------------- training

    def developed(self, trial: Trial) -> float:
        """Trains a trial, if that is not done, and scores it on the held-out groups of its data.

        The mean of AP in mono, cross and multi, as far as there are, and over the data sets; minus
        infinity if its loss did not stay finite.
        """
        done = self.of(trial) / "development.json"
        if not done.is_file():
            write_json(done, self._development(trial))
        scores = read_json(done, DataError)
        if _DIVERGED in scores:
            return -math.inf
        return float(np.mean([np.mean(list(found.values())) for found in scores.values()]))

    def _development(self, trial: Trial) -> dict[str, Any]:
        try:
            encoder = self.trained(trial)
        except ModelError as error:
            shutil.rmtree(self.of(trial) / "checkpoint", ignore_errors=True)
            return {_DIVERGED: str(error)}
        scores = {}
        with self._precision(trial):
            for name in trial.arm.data:
                report = evaluate(encoder, self.data.development[name], progress=self.progress)
                found = {kind: report.summary[kind].get("AP") for kind in KINDS}
                scores[name] = {kind: ap for kind, ap in found.items() if ap is not None}
        return scores

    def trained(self, trial: Trial) -> TorchEncoder:
        """The encoder of a trial, trained now if it is not there."""
        folder = self.of(trial)
        if (folder / "model").is_dir():
            return TorchEncoder.load(folder / "model")
        encoder = self.beginning(trial.arm)
        began, before = time.monotonic(), self.steps(trial)
        # A static encoder trains faster than a checkpoint of its large table is written.
        every = 0 if encoder.model.is_static else _CHECKPOINTS
        budget = self.budget
        if self.weights is None:
            budget = without_repeats(budget, self.data.tables, trial.arm)
        config = trial.config(budget, checkpoint_every=every)
        if self.data.stop_on is not None:
            every = max(1, budget.steps // STOPS)
            config = replace(config, evaluate_every=every, best="loss", patience=_PATIENCE)
        done = train(
            encoder,
            sources(self.data.tables, trial.arm, self.weights),
            folder,
            config,
            evaluation=self._stopping(trial),
            about={"arm": trial.arm.name},
            resume=True,
            progress=self.progress,
        )
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        shutil.rmtree(folder / "best", ignore_errors=True)
        if done.steps > before:  # else only the encoder was missing
            seconds = (time.monotonic() - began) * done.steps / (done.steps - before)
            write_json(folder / "seconds.json", {"training": seconds})
        return encoder

    def steps(self, trial: Trial) -> int:
        """That were trained; until its end, those of the last checkpoint."""
        path = self.of(trial) / "training.json"
        return int(read_json(path, DataError)["step"]) if path.is_file() else 0

    def _stopping(self, trial: Trial) -> Callable[[TorchEncoder], dict[str, float]] | None:
        """What a training is ended by."""
        dataset = self.data.stop_on
        if dataset is None:
            return None
        size, temperature = self.budget.batch_size, trial.temperature
        return lambda encoder: {"loss": development_loss(encoder, dataset, size, temperature)}

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
        encoder = TorchEncoder.load(folder, max_length=self.max_length)
        # What takes the directions out is not trained: the other arms have no such layer.
        encoder.model.dense[-1].requires_grad_(False)
        return encoder

    def of(self, trial: Trial) -> Path:
        return self.folder / "runs" / trial.name

    # ----------------------------------------------------------------------------- judging

    def scores(self, trial: Trial) -> dict[tuple[str, str], Scores]:
        """What a trial scores, by data set and variant; judged now if that is not done."""
        folder = self.of(trial) / "scores"
        if not folder.is_dir():
            encoder = self.trained(trial)
            with self._precision(trial):
                self._judge(encoder, folder)
        self.release(trial)
        return self._load(folder)

    def release(self, trial: Trial) -> None:
        """Deletes the encoder of a trial that is not needed any more, unless models are kept."""
        if not self.keep_models:
            shutil.rmtree(self.of(trial) / "model", ignore_errors=True)

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
        spoken = {d.language for d in self.data.directions}
        directions = self._directions(encoder) if len(spoken) > 1 else None
        with atomic_folder(folder) as temporary:
            for name, dataset in self.data.judged.items():
                with TemporaryDirectory(dir=temporary) as vectors:
                    found = self._variants(encoder, dataset, directions, Path(vectors))
                for variant, scores in found.items():
                    scores.save(temporary / _file(name, variant))
            write_json(temporary / "seconds.json", {"judging": time.monotonic() - began})

    def _variants(
        self, encoder: TorchEncoder, dataset: Dataset, directions: Any, vectors: Path
    ) -> dict[str, Scores]:
        """Judged as it comes, with switched queries, and without directions, as far as can be."""
        streamed = isinstance(dataset.documents, StreamedDocuments)
        queries, documents = embed(
            encoder,
            dataset,
            batch_size=_TEXTS,
            progress=self.progress,
            folder=vectors if streamed else None,
        )
        found = {PLAIN: self._scored(dataset, queries, documents, encoder)}
        if translated(dataset.queries):
            switched = code_switched(dataset)
            texts = [q.text for q in switched.queries]
            asked = encoder.encode_queries(texts, batch_size=_TEXTS, progress=self.progress)
            scores = self._scored(switched, asked, documents, encoder)
            found[SWITCHED] = scores.only([f"{metric} multi" for metric in METRICS])
        if directions is not None:
            if streamed:
                documents = np.load(vectors / EMBEDDING_FILES[1], mmap_mode="r+")
            for start in range(0, len(documents), _ROWS):  # in place: there may be many
                rows = slice(start, start + _ROWS)
                documents[rows] = directions.remove(documents[rows])
            found[WITHOUT] = self._scored(dataset, directions.remove(queries), documents, encoder)
        return found

    def _scored(
        self, dataset: Dataset, queries: Any, documents: Any, encoder: TorchEncoder
    ) -> Scores:
        if dataset.name not in self._evaluations:
            self._evaluations[dataset.name] = Evaluation(dataset, metrics=METRICS)
        evaluation = self._evaluations[dataset.name]
        ranks = evaluation.rank(queries, documents, encoder.config.similarity, best=0)
        return Scores.of(evaluation, ranks, evaluation.judge(ranks, dataset.name))

    def _load(self, folder: Path) -> dict[tuple[str, str], Scores]:
        files = {
            (name, variant): folder / _file(name, variant)
            for name in self.data.judged
            for variant in VARIANTS
        }
        return {key: Scores.load(file) for key, file in files.items() if file.is_file()}

    def _directions(self, encoder: TorchEncoder) -> Any:
        texts = self.data.directions
        return language_directions(
            encoder.encode_documents([d.full_text for d in texts]),
            [d.language for d in texts],
            groups=[d.group_id for d in texts],
        )

    @property
    def precision(self) -> str:
        """Of training and judging."""
        return default_precision(TorchEncoder.load(self.start))

    def _precision(self, trial: Trial) -> Any:
        state = read_json(self.of(trial) / "training.json", DataError)
        return _autocast(state["config"]["precision"])


def _file(name: str, variant: str) -> str:
    """Of the scores on a data set; any name will do."""
    return f"{quote(name, safe=' ')} {variant}.npz".replace(" ", "-")


def _autocast(precision: str) -> Any:
    return autocast(precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def development_loss(
    encoder: TorchEncoder, dataset: Dataset, batch_size: int, temperature: float
) -> float:
    """Mean InfoNCE loss of monolingual batches of a data set."""
    table = PairTable.from_dataset(dataset)
    batch_size = min(batch_size, len(np.unique(table.groups)))
    losses = []
    for batch in make_sampler("monolingual", table, batch_size).epoch(0):
        queries = encoder.encode_queries(batch.query_texts(table))
        documents = encoder.encode_documents(batch.document_texts(table))
        losses.append(float(infonce(queries, documents, temperature=temperature, normalize=True)))
    return float(np.mean(losses))


def start_encoder(
    folder: Path, start: str, model: str, max_length: int | None, progress: bool
) -> Path:
    """The folder of the encoder that training starts from; made once.

    Args:
        start: ``static``: distilled from the model.
    """
    made = folder / "start"
    if not made.is_dir():
        given = {} if max_length is None else {"max_length": max_length}
        encoder = load_with_prompts(model, **given)
        if start == "static":
            encoder = distill(encoder, dimension=min(256, encoder.dimension), progress=progress)
        with atomic_folder(made) as temporary:
            encoder.save(temporary)
    return made


def begin(folder: Path, what: dict[str, Any]) -> None:
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
