"""Contrastive training of an encoder: the training loop.

Samplers are pure functions of (seed, epoch), so a run resumed from its checkpoint sees the same
batches as an uninterrupted one. Under torchrun every process draws the same global batch, embeds
its own part of it, and compares its queries with the documents of all.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridret import _native
from hybridret._progress import progress_bar
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError, ModelError
from hybridret.training.batches import Sampler
from hybridret.training.checkpoints import random_state
from hybridret.training.config import TrainingConfig
from hybridret.training.features import Collator, Features, Towers
from hybridret.training.objective import contrastive_loss
from hybridret.training.optimizer import RowAdamW, clip_gradients
from hybridret.training.pairs import Batch, PairTable, TrainingData
from hybridret.training.processes import accelerator as new_accelerator
from hybridret.training.processes import average_gradients, check_same, share_weights
from hybridret.training.run import Run, locked, recorded_precision
from hybridret.training.tracking import tracked


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
    data: PairTable | Sequence[TrainingData],
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    evaluation: Callable[[TorchEncoder], dict[str, float]] | None = None,
    about: dict[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Trains ``encoder`` in place and writes the run to ``output``.

    Under torchrun in several processes; all of them return the trained encoder, the first writes.

    Args:
        data: the pairs, see :meth:`PairTable.from_dataset`, or several data sets.
        evaluation: gives values by name, such as ``multi AP``; called every
            ``config.evaluate_every`` steps and at the end.
        about: what else is written to ``training.json``: where data and model come from.
        resume: continue from the checkpoint in ``output``, if there is one; also of a finished run,
            if ``config`` has more steps.

    Raises:
        DataError: the data cannot fill a batch, ``output`` contains another run or is in use, or
            the batch cannot be divided by the number of processes.
        MissingExtraError: accelerate or a tracker is not installed.
        ModelError: the loss became NaN or infinite.
        OSError: a file cannot be written (e.g. the disk is full).
        KeyboardInterrupt: passed on.

    After each of these errors the last checkpoint is complete.
    """
    config = config or TrainingConfig()
    sources = [TrainingData("data", data)] if isinstance(data, PairTable) else list(data)
    sampler = Sampler.from_config(sources, config)
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    if config.batch_size % processes:
        raise DataError(
            f"batch_size is {config.batch_size}, all processes together, and cannot be divided "
            f"among {processes}"
        )
    output = Path(output)
    accelerator = new_accelerator(config.trackers, output)
    with locked(output) if accelerator.is_main_process else nullcontext():
        config = _resolved(recorded_precision(output, config) if resume else config, encoder)
        run = Run(output, config, _about(encoder, sources) | (about or {}))
        trained = [(p, p.requires_grad) for p in encoder.model.parameters()]
        encoder.model.table.sparse = True  # its gradient has the rows that were read
        try:
            return _train(encoder, sampler, run, evaluation, accelerator, resume, progress)
        finally:
            encoder.model.table.sparse = False
            for parameter, before in trained:
                parameter.requires_grad_(before)


def _train(
    encoder: TorchEncoder,
    sampler: Sampler,
    run: Run,
    evaluation: Callable[[TorchEncoder], dict[str, float]] | None,
    accelerator: Any,
    resume: bool,
    progress: bool,
) -> TrainingResult:
    config, main = run.config, accelerator.is_main_process
    encoder.model.to(accelerator.device)
    freeze(encoder, config.freeze_layers)
    trained = [p for p in encoder.model.parameters() if p.requires_grad]
    table: Any = encoder.model.table.weight
    optimizer = RowAdamW(
        trained,
        table if table.requires_grad else None,
        lr=config.learning_rate or 0.0,
        weight_decay=config.weight_decay,
    )
    torch.manual_seed(config.seed + accelerator.process_index)
    start = run.resume(encoder, optimizer, accelerator.process_index) if resume else 0
    if start == 0 and main:
        run.begin() if not resume else run.write_state(0)
    accelerator.wait_for_everyone()
    check_same("data", run.about["data"])
    share_weights(encoder.model)
    losses = _Losses(encoder, sampler.sources, config, accelerator)
    pairs = _PairLog(sampler.sources)

    encoder.model.train()
    with (
        tracked(accelerator, run.folder, asdict(config)) as track,
        progress_bar(
            config.steps,
            f"Training ({config.sampler})",
            enabled=progress and main,
            initial=start,
        ) as bar,
    ):
        for step, batch in sampler.steps(config.steps, start=start):
            done = step + 1
            logs = step % config.log_every == 0 or done == config.steps
            own = batch.part(accelerator.process_index, accelerator.num_processes)
            features = losses.features(own)
            optimizer.read(ids for ids, _ in features.parts)
            loss, metrics, of_each = losses(batch, own, features, each=logs)
            mean_loss = accelerator.reduce(loss.detach(), "mean").item()
            run.losses.append(mean_loss)
            if not math.isfinite(mean_loss):
                source = sampler.sources[batch.source]
                raise ModelError(_not_finite(mean_loss, step, batch, source, config))
            pairs.add(own, metrics.rank, of_each)

            torch.autograd.backward(loss / config.accumulate)
            rate = _rate(config, step)
            if done % config.accumulate == 0:
                average_gradients(trained)
                if config.clip is not None:
                    clip_gradients(trained, config.clip)
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            if logs:
                entry = {
                    "step": step,
                    "loss": mean_loss,
                    "accuracy": accelerator.reduce(metrics.accuracy, "mean").item(),
                    "kind": batch.kind,
                    "data_set": sampler.sources[batch.source].name,
                    "learning_rate": rate,
                    "pairs": pairs.take(accelerator),
                }
                if main:
                    run.add(entry)
                track(entry)
            bar.set_postfix(
                loss=f"{np.mean(run.losses[-50:]):.3f}",
                kind=batch.kind,
                pairs=f"{bar.rate * config.batch_size:.1f}/s",
            )
            bar.update(1)

            last = done == config.steps
            if evaluation and config.evaluate_every and (last or not done % config.evaluate_every):
                optimizer.settle()
                if main:
                    track(run.add_evaluation(done, evaluation(encoder), encoder))
                encoder.model.train()
                stop = torch.tensor(float(main and run.out_of_patience), device=accelerator.device)
                last = last or bool(accelerator.reduce(stop, "sum").item())
            if config.checkpoint_every and (last or not done % config.checkpoint_every):
                optimizer.settle()
                states = accelerator.gather(random_state()[None].to(accelerator.device))
                if main:
                    run.save_checkpoint(done, encoder, optimizer, list(states.cpu()))
                accelerator.wait_for_everyone()
            if last:
                break
    optimizer.settle()
    if main:
        run.finish(encoder, len(run.losses))
    accelerator.wait_for_everyone()
    return TrainingResult(run.folder, len(run.losses), run.final_loss)


class _Losses:
    """The loss of this process's part of a batch, compared with the documents of all."""

    def __init__(
        self,
        encoder: TorchEncoder,
        sources: Sequence[TrainingData],
        config: TrainingConfig,
        accelerator: Any,
    ) -> None:
        self.sources, self.config, self.accelerator = sources, config, accelerator
        self.towers = Towers(encoder.model)
        self.features = Collator(
            encoder,
            sources,
            sub_batch=config.sub_batch,
            sub_batch_tokens=config.sub_batch_tokens,
            device=accelerator.device,
        )
        self.normalize = encoder.config.similarity == "cosine" and not encoder.model.normalize

    def __call__(
        self, batch: Batch, own: Batch, features: Features, *, each: bool
    ) -> tuple[Tensor, Any, Tensor | None]:
        """Mean loss, metrics, and if asked for the loss of each row."""
        source, device = self.sources[batch.source], self.accelerator.device
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        groups = batch.groups(source.table)[batch.columns(process, processes)]
        with autocast(self.config.precision, device):
            vectors = self.towers(features.parts, features.order).float()
        arguments: dict[str, Any] = {
            "groups": torch.from_numpy(groups).to(device),
            "temperature": source.temperature or self.config.temperature,
            "normalize": self.normalize,
            "negative_counts": _tensor(own.negative_counts, device),
            "in_batch_negatives": source.in_batch_negatives,
        }
        queries, documents = vectors[: features.queries], vectors[features.queries :]
        loss, metrics = contrastive_loss(queries, documents, **arguments)
        of_each = None
        if each:
            with torch.no_grad():
                of_each = contrastive_loss(queries, documents, **arguments, reduction="none")[0]
        return loss, metrics, of_each


def _resolved(config: TrainingConfig, encoder: TorchEncoder) -> TrainingConfig:
    """The settings with values in the place of ``auto`` and None."""
    static = encoder.model.is_static
    rate = config.learning_rate or (2e-2 if static else 3e-5)
    precision, sub_batch = config.precision, config.sub_batch
    if precision == "auto":
        precision = default_precision(encoder)
    if sub_batch is None and not static and not torch.cuda.is_available():
        sub_batch = 8
    return replace(config, learning_rate=rate, precision=precision, sub_batch=sub_batch)


def default_precision(encoder: TorchEncoder) -> str:
    """Of an encoder's matrix products; a static encoder has none."""
    return "fp32" if encoder.model.is_static else fastest_precision()


def fastest_precision() -> str:
    """``bf16`` where the processor or GPU multiplies it, else ``fp32``."""
    multiplies = (
        torch.cuda.is_bf16_supported()
        if torch.cuda.is_available()
        else not {"avx512_bf16", "amx"}.isdisjoint(_native.usable_isas())
    )
    return "bf16" if multiplies else "fp32"


def freeze(encoder: TorchEncoder, layers: int | None) -> None:
    """Leaves embeddings and the first layers as they are.

    Raises:
        DataError: the encoder has fewer layers, or none.
    """
    if layers is None:
        return
    backbone: Any = encoder.model.backbone
    lists = [m for m in backbone.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks: Any = max(lists, key=len, default=[])
    if encoder.model.is_static or layers > len(blocks):
        raise DataError(
            f"freeze_layers is {layers}, but the encoder has {len(blocks)} layers"
            + (" (it is static)" if encoder.model.is_static else "")
        )
    frozen = [encoder.model.table]
    if layers:
        frozen += [getattr(backbone, "embeddings", frozen[0]), *blocks[:layers]]
    for module in frozen:
        module.requires_grad_(False)


def autocast(precision: str, device: torch.device) -> Any:
    """The context of forward passes in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up to the peak, then linearly to zero."""
    assert config.learning_rate is not None
    warmup = max(1, round(config.warmup * config.steps))
    rising = (step + 1) / warmup
    falling = (config.steps - step) / max(1, config.steps - warmup)
    return config.learning_rate * min(rising, falling, 1.0)


class _PairLog:
    """Accuracy since the last entry of the log, and loss at that step, by pair of languages."""

    def __init__(self, sources: Sequence[TrainingData]) -> None:
        self.sources = sources
        self.clear()

    def clear(self) -> None:
        self.found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])

    def add(self, batch: Batch, rank: Tensor, losses: Tensor | None) -> None:
        languages = self.sources[batch.source].table.languages
        first = (rank == 1).cpu().numpy()
        of_each = None if losses is None else losses.cpu().numpy()
        width = len(languages)
        number = batch.query_languages * width + batch.document_languages
        for pair in np.unique(number):
            rows = number == pair
            entry = self.found[f"{languages[pair // width]}-{languages[pair % width]}"]
            entry[0] += int(rows.sum())
            entry[1] += int(first[rows].sum())
            if of_each is not None:
                entry[2] += int(rows.sum())
                entry[3] += float(of_each[rows].sum())

    def take(self, accelerator: Any) -> dict[str, dict[str, float]]:
        """The entry of the log, over all processes; begins anew."""
        found: dict[str, list[float]] = dict(self.found)
        if accelerator.num_processes > 1:
            parts: list[Any] = [None] * accelerator.num_processes
            torch.distributed.all_gather_object(parts, found)
            found = {}
            for part in parts:
                for pair, entry in part.items():
                    before = found.get(pair, [0, 0, 0, 0.0])
                    found[pair] = [a + b for a, b in zip(before, entry, strict=True)]
        self.clear()
        return {
            pair: {"rows": rows, "accuracy": correct / rows}
            | ({"loss": total / now} if now else {})
            for pair, (rows, correct, now, total) in sorted(found.items())
        }


def _about(encoder: TorchEncoder, sources: Sequence[TrainingData]) -> dict[str, Any]:
    return {
        "data": _fingerprint(sources),
        "languages": sorted({x for source in sources for x in source.table.languages}),
        "rows": sum(len(source.table) for source in sources),
        "rows_by_data_set": {source.name: len(source.table) for source in sources},
        "parameters": sum(p.numel() for p in encoder.model.parameters()),
    }


def _fingerprint(sources: Sequence[TrainingData]) -> str:
    """A hash of rows, texts, languages, groups and policies; it differs for other data."""
    digest = sha256()
    for source in sources:
        table = source.table
        policy = [f"{k}={v}" for k, v in sorted(vars(source).items()) if k != "table"]
        digest.update("\0".join((*policy, *table.languages)).encode())
        for text in chain(table.query_texts, table.document_texts):
            digest.update(b"\0" + text.encode())
        for array in (table.queries, table.documents, table.query_groups, table.document_groups):
            digest.update(array.tobytes())
        for query, negatives in table.negatives.items():
            digest.update(np.array([query, len(negatives), *negatives]).tobytes())
    return digest.hexdigest()[:32]


def _tensor(array: Any, device: torch.device) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).to(device)


def _not_finite(
    loss: float, step: int, batch: Batch, source: TrainingData, config: TrainingConfig
) -> str:
    first = [text[:60] for text in batch.query_texts(source.table)[:2]]
    return (
        f"the loss became {loss} at step {step} ({batch.kind} batch of {source.name}, with "
        f"{' and '.join(map(repr, first))}); lower the learning rate (now "
        f"{config.learning_rate:g}) or raise the temperature; the last checkpoint is from before"
    )
