"""Contrastive training of an encoder: the training loop.

A run is a folder::

    training.json     the settings, the last step, the final loss
    log.jsonl         every ``log_every`` steps: step, loss, in-batch accuracy, kind of batch,
                      learning rate
    checkpoint/       the latest checkpoint: a complete encoder folder and the optimizer's state
    model/            the trained encoder, in the sentence-transformers layout, written at the end

Samplers are pure functions of (seed, epoch), so a run resumed from its checkpoint sees the same
batches as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
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
from hybridret.training.batches import Sampler, make_sampler
from hybridret.training.config import TrainingConfig, require_one_process
from hybridret.training.pairs import PairTable

TRAINING_FILE = "training.json"
LOG_FILE = "log.jsonl"
_CACHED_TOKENS = 200_000_000  # int32: 0.8 GB; further texts are tokenised on every use


@dataclass(frozen=True)
class TrainingResult:
    """The run's folder, its steps, and ``final_loss``: mean loss of the last tenth of the steps."""

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
        resume: continue from the checkpoint in ``output``, if there is one.

    Raises:
        DataError: the table cannot fill a batch, ``output`` contains another run, or torchrun
            started several processes.
        ModelError: the loss became NaN or infinite.
        OSError: a file cannot be written (e.g. the disk is full).
        KeyboardInterrupt: passed on.

    After each of these errors the last checkpoint is complete.
    """
    config = config or TrainingConfig()
    output = Path(output)
    require_one_process()
    sampler = make_sampler(
        config.sampler, table, config.batch_size, alpha=config.alpha, seed=config.seed
    )
    run = _Run(encoder, table, sampler, output, config)
    start = run.resume() if resume else run.begin()
    return run.train(start, progress)


class _Run:
    """One training run: encoder, optimizer, data, and the state that checkpoints save."""

    def __init__(
        self,
        encoder: TorchEncoder,
        table: PairTable,
        sampler: Sampler,
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
                f"{self.output} already contains a training run; choose another folder, or resume "
                f"it (--resume, resume=True)"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        self._write_state(0)
        return 0

    def resume(self) -> int:
        if not (self.output / TRAINING_FILE).exists():
            return self.begin()
        state = read_json(self.output / TRAINING_FILE, DataError)
        settings = asdict(self.config) | {"learning_rate": self.peak, "data": self.data}
        try:
            before = state["config"] | {"data": state["data"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.output / TRAINING_FILE}: damaged: {error!r}") from None
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if changed:
            raise DataError(
                f"{self.output} was started with different settings ({', '.join(changed)}); "
                f"resume it with the original ones"
            )
        if (self.output / "model").exists():
            raise DataError(f"{self.output} is already finished; there is nothing to resume")
        if not self.checkpoint.is_dir():
            return 0
        try:
            saved = checkpoints.load(self.checkpoint, self.encoder, self.optimizer)
        except DataError as error:
            raise DataError(f"{error}; delete {self.output} to start again") from None
        self.losses, self.log = saved.losses, saved.log
        return saved.step

    def train(self, start: int, progress: bool) -> TrainingResult:
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
        queries = self._embed(self.queries, batch.queries(self.table))
        documents = self._embed(self.documents, batch.documents(self.table))
        cosine = self.encoder.config.similarity == "cosine"
        groups = torch.from_numpy(batch.groups(self.table))
        loss, stats = infonce(
            queries,
            documents,
            temperature=self.config.temperature,
            query_groups=groups[: len(batch.rows)],
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
    """A hash of rows, texts, languages and groups; it differs for other data or hold-out."""
    texts = (*table.languages, *table.query_texts, *table.document_texts)
    digest = sha256("\0".join(texts).encode())
    for array in (table.queries, table.documents, table.query_groups, table.document_groups):
        digest.update(array.tobytes())
    for query, negatives in table.negatives.items():
        digest.update(np.array([query, len(negatives), *negatives]).tobytes())
    return digest.hexdigest()[:32]


class _TokenCache:
    """Token ids of texts, tokenised on first use; at most ``_CACHED_TOKENS`` are kept."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], prompt: str) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.prompt = prompt
        self.kept: dict[int, NDArray[np.int32]] = {}
        self.tokens = 0

    def ids(self, positions: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        missing = [int(p) for p in np.unique(positions) if int(p) not in self.kept]
        new = dict(
            zip(
                missing,
                self.tokenizer.ids([self.prompt + self.texts[p] for p in missing]),
                strict=True,
            )
        )
        if self.tokens < _CACHED_TOKENS:
            self.kept.update(new)
            self.tokens += sum(map(len, new.values()))
        return [new[p] if p in new else self.kept[p] for p in map(int, positions)]
