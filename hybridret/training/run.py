"""The folder of a training run: begun once, locked while it runs, resumed from its checkpoint.

::

    training.json     the settings, the last step, the final loss
    log.jsonl         every ``log_every`` steps: loss, in-batch accuracy, kind of batch, learning
                      rate, and accuracy and loss of each pair of languages
    checkpoint/       the latest checkpoint: a complete encoder folder and the optimizer's state
    best/             the best encoder so far, if one is kept
    plots.png         the log as plots, drawn at every checkpoint and at the end
    model/            the trained encoder, in the sentence-transformers layout, written at the end,
                      with a model card (README.md)
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridret._files import atomic_folder, read_json, write_json, write_text
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError
from hybridret.training import checkpoints
from hybridret.training.card import write_card
from hybridret.training.config import TrainingConfig
from hybridret.training.plots import write_plots

TRAINING_FILE = "training.json"
LOG_FILE = "log.jsonl"
PLOTS_FILE = "plots.png"
SUMMARY = ("mono AP", "cross AP", "multi AP", "rank distance")
_MAY_CHANGE = {"steps", "log_every", "checkpoint_every", "evaluate_every", "best", "patience"}
_MAY_CHANGE |= {"trackers"}


@dataclass
class Run:
    """A run's folder and what is written there.

    Attributes:
        config: settings as they are used: precision and learning rate are resolved.
        about: what else identifies the run: fingerprint and size of the data, parameters.
    """

    folder: Path
    config: TrainingConfig
    about: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def begin(self) -> int:
        """Raises DataError if the folder has a run."""
        if (self.folder / TRAINING_FILE).exists():
            raise DataError(
                f"{self.folder} already contains a training run; choose another folder, or resume "
                f"it (--resume, resume=True)"
            )
        self.write_state(0)
        return 0

    def resume(self, encoder: TorchEncoder, optimizer: torch.optim.Optimizer, process: int) -> int:
        """Restores the last checkpoint.

        Returns:
            The next step; ``config.steps`` if only the encoder was not written any more.

        Raises:
            DataError: another run, or a finished one that is not to be extended.
        """
        path = self.folder / TRAINING_FILE
        if not path.exists():
            return 0
        state = read_json(path, DataError)
        settings = asdict(self.config) | {"data": self.about["data"]}
        try:
            before = asdict(TrainingConfig()) | state["config"] | {"data": state["data"]}
            done = int(state["step"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: damaged: {error!r}") from None
        changed = [
            name
            for name, value in settings.items()
            if name not in _MAY_CHANGE and before.get(name) != value
        ]
        if changed:
            raise DataError(
                f"{self.folder} was started with different settings ({', '.join(changed)}); "
                f"resume it with the original ones"
            )
        if self.model.exists() and (self.config.steps <= done or not self.checkpoint.is_dir()):
            raise DataError(
                f"{self.folder} is already finished; there is nothing to resume. To extend it, "
                f"give more steps than {done}"
            )
        if not self.checkpoint.is_dir():
            return 0
        try:
            saved = checkpoints.load(self.checkpoint, encoder, optimizer, process)
        except DataError as error:
            raise DataError(f"{error}; delete {self.folder} to start again") from None
        self.losses, self.log = saved.losses, saved.log
        if self.out_of_patience and self.model.exists():
            raise DataError(
                f"{self.folder} is already finished: {self.config.patience} evaluations were not "
                f"better than the best; to go on, give more patience"
            )
        if process == 0:
            self._write_log()
        return self.config.steps if self.out_of_patience else saved.step

    def save_checkpoint(
        self,
        step: int,
        encoder: TorchEncoder,
        optimizer: torch.optim.Optimizer,
        random_states: list[torch.Tensor],
    ) -> None:
        state = checkpoints.RunState(step, self.losses, self.log)
        checkpoints.save(self.checkpoint, encoder, optimizer, state, random_states)
        self.write_state(step)
        if step < self.config.steps:
            self.write_plots()

    def add(self, entry: dict[str, Any]) -> None:
        """Logs an entry, at once."""
        self.log.append(entry)
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def add_evaluation(
        self, step: int, values: dict[str, float], encoder: TorchEncoder
    ) -> dict[str, Any]:
        """Logs an evaluation, and keeps the encoder if it is the best one so far.

        Raises:
            DataError: there is no value of the name that the best is chosen by.
        """
        before = self._best()
        entry = {"step": step, "evaluation": values}
        self.add(entry)
        name = self.config.best
        if name is None:
            return entry
        if name not in values:
            raise DataError(f"no value {name!r} in the evaluation; it has {', '.join(values)}")
        if before is None or self._better(values[name], before[1]):
            with atomic_folder(self.folder / "best") as folder:
                encoder.save(folder)
        return entry

    @property
    def out_of_patience(self) -> bool:
        """Whether the last evaluations were not better than one before."""
        steps = [entry["step"] for entry in self.log if "evaluation" in entry]
        best = self._best()
        if not self.config.patience or best is None:
            return False
        return sum(int(step) > best[0] for step in steps) >= int(self.config.patience)

    def _best(self) -> tuple[int, float] | None:
        """Step and value of the best evaluation so far."""
        best: tuple[int, float] | None = None
        for entry in self.log:
            value: float | None = entry.get("evaluation", {}).get(self.config.best)
            if value is not None and (best is None or self._better(value, best[1])):
                best = int(entry["step"]), value
        return best

    def _better(self, value: float, before: float) -> bool:
        smaller = any(name in str(self.config.best) for name in ("rank distance", "loss"))
        return value < before if smaller else value > before

    def finish(self, encoder: TorchEncoder, steps: int) -> None:
        """Writes the encoder, or the best one, which ``encoder`` becomes."""
        if self.config.best is not None and (self.folder / "best").is_dir():
            best = TorchEncoder.load(self.folder / "best")
            encoder.model.load_state_dict(best.model.state_dict())
        with atomic_folder(self.model) as folder:
            encoder.save(folder)
        self.write_state(steps)
        self.write_plots()
        write_card(self.folder, self._last_evaluation())

    def write_plots(self) -> None:
        """Draws what has been logged."""
        sampler = self.config.sampler
        title = f"{self.folder.name}: {sampler} batches of {self.config.batch_size}"
        write_plots(self.folder / PLOTS_FILE, self.log, title)

    def _last_evaluation(self) -> str:
        judged = [entry["evaluation"] for entry in self.log if "evaluation" in entry]
        values: dict[str, float] = judged[-1] if judged else {}
        summary = {n: v for n, v in values.items() if n.rpartition(": ")[2] in SUMMARY}
        width = max(map(len, summary), default=0)
        return "\n".join(f"{name:{width}}  {value:.4f}" for name, value in summary.items())

    def write_state(self, step: int) -> None:
        best = self._best()
        write_json(
            self.folder / TRAINING_FILE,
            {
                "schema": 1,
                "config": asdict(self.config),
                **self.about,
                "step": step,
                "pairs_seen": step * self.config.batch_size,
                "final_loss": self.final_loss if self.losses else None,
                **(
                    {"best": dict(zip(("step", self.config.best), best, strict=True))}
                    if best
                    else {}
                ),
            },
        )
        self._write_log()

    def _write_log(self) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.log)
        write_text(self.folder / LOG_FILE, lines)

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :] or np.nan))


def recorded_precision(folder: Path, config: TrainingConfig) -> TrainingConfig:
    """The settings with the precision that a run in the folder was begun with, if that is open."""
    path = folder / TRAINING_FILE
    if config.precision != "auto" or not path.exists():
        return config
    state = read_json(path, DataError)
    found = state.get("config") if isinstance(state, dict) else None
    if not isinstance(found, dict):
        raise DataError(f"{path}: damaged: no settings")
    return replace(config, precision=str(found.get("precision", "fp32")))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, which is made, for this process.

    Raises:
        DataError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another training run writes there") from None
        yield
    finally:
        os.close(handle)
