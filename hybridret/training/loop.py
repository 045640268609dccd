"""Contrastive training of an encoder with batches of chosen languages.

A run is a folder::

    training.json     settings and state: what was asked for, the last step, the final loss
    log.jsonl         one line each few steps: step, loss, in-batch accuracy, kind, learning rate
    checkpoint/       the newest checkpoint: a whole encoder folder with the optimizer's state
    model/            the trained encoder, in the sentence-transformers layout, when the run is done

Samplers are pure functions of (seed, epoch), so a run resumed from its checkpoint sees the same
batches as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridret._files import atomic_folder, read_json, write_json
from hybridret._progress import progress_bar
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError, ModelError
from hybridret.losses.functional import infonce
from hybridret.training import checkpoints
from hybridret.training.batches import BatchSampler, PairTable, make_sampler
from hybridret.training.config import TrainingConfig

TRAINING_FILE = "training.json"
LOG_FILE = "log.jsonl"
_CACHED_TOKENS = 200_000_000  # int32: 0.8 GB; texts beyond are tokenised each time


@dataclass(frozen=True)
class TrainingResult:
    """Where the trained encoder is, and the mean loss of the last tenth of the steps."""

    folder: Path
    steps: int
    final_loss: float

    @property
    def model(self) -> Path:
        return self.folder / "model"


def train(
    encoder: TorchEncoder,
    table: PairTable,
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Trains ``encoder`` in place and writes the run to ``output``.

    Args:
        table: the pairs, see :meth:`PairTable.from_dataset`.
        resume: go on from the folder's checkpoint, if there is one.

    Raises:
        DataError: the table cannot fill a batch, ``output`` holds another run, or torchrun started
            several processes.
        ModelError: the loss became NaN or infinite; the last checkpoint is whole.
        OSError: a file cannot be written (a full disk); the last checkpoint is whole.
        KeyboardInterrupt: passed on; the last checkpoint is whole.
    """
    config = config or TrainingConfig()
    output = Path(output)
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":  # as torchrun and its like set it
        raise DataError(
            f"training runs in one process, but {processes} were started (WORLD_SIZE): each would "
            f"train the same and write the same folder"
        )
    sampler = make_sampler(
        config.sampler, table, config.batch_size, alpha=config.alpha, seed=config.seed
    )
    run = _Run(encoder, table, sampler, output, config)
    start = run.resume() if resume else run.begin()
    return run.go(start, progress)


class _Run:
    def __init__(
        self,
        encoder: TorchEncoder,
        table: PairTable,
        sampler: BatchSampler,
        output: Path,
        config: TrainingConfig,
    ) -> None:
        self.encoder = encoder
        self.table = table
        self.sampler = sampler
        self.output = output
        self.config = config
        self.peak = config.learning_rate or (2e-2 if encoder.model.is_static else 3e-5)
        self.optimizer = torch.optim.AdamW(
            encoder.model.parameters(), lr=self.peak, weight_decay=config.weight_decay, fused=True
        )
        self.data = _fingerprint(table)
        self.losses: list[float] = []
        self.log: list[dict[str, Any]] = []
        self.queries = _TokenCache(
            encoder.tokenizer, table.query_texts, encoder.config.query_prompt
        )
        self.documents = _TokenCache(
            encoder.tokenizer, table.document_texts, encoder.config.document_prompt
        )

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint"

    def begin(self) -> int:
        if (self.output / TRAINING_FILE).exists():
            raise DataError(
                f"{self.output} already holds a training run; choose another folder, or resume it"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        self._write_state(0)
        return 0

    def resume(self) -> int:
        if not (self.output / TRAINING_FILE).exists():
            return self.begin()
        begun = read_json(self.output / TRAINING_FILE, DataError)
        asked = asdict(self.config) | {"learning_rate": self.peak, "data": self.data}
        try:
            before = begun["config"] | {"data": begun["data"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.output / TRAINING_FILE}: damaged: {error!r}") from None
        changed = [name for name, value in asked.items() if before.get(name) != value]
        if changed:
            raise DataError(
                f"{self.output} was trained with other settings ({', '.join(changed)}); "
                f"a run can only be resumed with its own"
            )
        if (self.output / "model").exists():
            raise DataError(f"{self.output} is finished; there is nothing to resume")
        if not self.checkpoint.is_dir():
            return 0
        try:
            state = checkpoints.load(self.checkpoint, self.encoder, self.optimizer)
        except DataError as error:
            raise DataError(f"{error}; delete {self.output} to start anew") from None
        self.losses, self.log = state.losses, state.log
        return state.step

    def go(self, start: int, progress: bool) -> TrainingResult:
        config = self.config
        self.encoder.model.train()
        if start == 0:
            torch.manual_seed(config.seed)
        description = f"Training ({config.sampler})"
        with progress_bar(config.steps, description, enabled=progress, initial=start) as bar:
            for step, batch in self.sampler.steps(config.steps, start=start):
                loss, accuracy, rate = self._step(step, batch)
                self.losses.append(loss)
                if not math.isfinite(loss):
                    raise ModelError(
                        f"the loss became {loss} at step {step}; lower the learning rate "
                        f"(now {self.peak:g}) or raise the temperature"
                    )
                if step % config.log_every == 0 or step == config.steps - 1:
                    self.log.append(
                        {
                            "step": step,
                            "loss": loss,
                            "accuracy": accuracy,
                            "kind": batch.kind,
                            "learning_rate": rate,
                        }
                    )
                    bar.set_postfix(loss=f"{np.mean(self.losses[-50:]):.3f}")
                bar.update(1)
                done = step + 1
                if config.checkpoint_every and done % config.checkpoint_every == 0:
                    self._save_checkpoint(done)
        with atomic_folder(self.output / "model") as folder:
            self.encoder.save(folder)
        self._write_state(config.steps)
        return TrainingResult(self.output, config.steps, self._final_loss())

    def _step(self, step: int, batch: Any) -> tuple[float, float, float]:
        rate = self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        queries = self._embed(self.queries, self.table.queries[batch.rows, batch.query_languages])
        documents = self._embed(
            self.documents, self.table.documents[batch.rows, batch.document_languages]
        )
        cosine = self.encoder.config.similarity == "cosine"
        groups = torch.from_numpy(self.table.groups[batch.rows])
        loss, stats = infonce(
            queries,
            documents,
            temperature=self.config.temperature,
            query_groups=groups,
            document_groups=groups,
            normalize=cosine and not self.encoder.model.normalize,
            return_stats=True,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach()), float(stats.accuracy), rate

    def _embed(self, cache: _TokenCache, positions: NDArray[np.int64]) -> Tensor:
        input_ids, mask = self.encoder.tokenizer.pad(cache.ids(positions))
        vectors: Tensor = self.encoder.model(torch.from_numpy(input_ids), torch.from_numpy(mask))
        return vectors

    def _rate(self, step: int) -> float:
        warmup = max(1, round(self.config.warmup * self.config.steps))
        rising = (step + 1) / warmup
        falling = (self.config.steps - step) / max(1, self.config.steps - warmup)
        return self.peak * min(rising, falling, 1.0)

    def _save_checkpoint(self, step: int) -> None:
        state = checkpoints.RunState(step, self.losses, self.log)
        checkpoints.save(self.checkpoint, self.encoder, self.optimizer, state)
        self._write_state(step)

    def _write_state(self, step: int) -> None:
        write_json(
            self.output / TRAINING_FILE,
            {
                "schema": 1,
                "config": asdict(self.config) | {"learning_rate": self.peak},
                "data": self.data,
                "languages": self.table.languages,
                "rows": len(self.table),
                "parameters": sum(p.numel() for p in self.encoder.model.parameters()),
                "step": step,
                "pairs_seen": step * self.config.batch_size,
                "final_loss": self._final_loss() if self.losses else None,
            },
        )
        lines = "".join(json.dumps(entry) + "\n" for entry in self.log)
        (self.output / LOG_FILE).write_text(lines, encoding="utf-8")

    def _final_loss(self) -> float:
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :] or np.nan))


def _fingerprint(table: PairTable) -> str:
    """Changes with the rows, texts, languages and groups: other data, or another hold-out."""
    texts = (*table.languages, *table.query_texts, *table.document_texts)
    digest = sha256("\0".join(texts).encode())
    for array in (table.queries, table.documents, table.groups):
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


class _TokenCache:
    """Token ids of texts, made on first use and kept up to a bound."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.prompt = prompt
        self.kept: dict[int, NDArray[np.int32]] = {}
        self.tokens = 0

    def ids(self, positions: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        missing = [int(p) for p in np.unique(positions) if int(p) not in self.kept]
        made = dict(
            zip(
                missing,
                self.tokenizer.ids([self.prompt + self.texts[p] for p in missing]),
                strict=True,
            )
        )
        if self.tokens < _CACHED_TOKENS:
            self.kept.update(made)
            self.tokens += sum(map(len, made.values()))
        return [made[p] if p in made else self.kept[p] for p in map(int, positions)]
