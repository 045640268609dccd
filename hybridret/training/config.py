"""Settings of a training run, readable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridret.errors import DataError
from hybridret.training.batches import SAMPLERS

PRECISIONS = ("fp32", "bf16", "auto")
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; "the paper" is arXiv 2408.10536.

    Attributes:
        sampler: one of :data:`hybridret.training.batches.SAMPLERS`.
        alpha: probability of a monolingual batch, used by ``hybrid`` only.
        steps: number of batches.
        batch_size: pairs per batch.
        learning_rate: peak value; None: 2e-2 for a static encoder, 3e-5 (as in the paper) for a
            transformer. Linear warm-up, then linear decay to zero.
        warmup: share of the steps used for warm-up.
        weight_decay: of AdamW (1e-2 as in the paper).
        temperature: of the loss.
        seed: of the sampler and of dropout.
        log_every: steps between log entries.
        checkpoint_every: steps between checkpoints; 0: no checkpoints.
        precision: of the encoder's matrix products: ``fp32``, ``bf16``, or ``auto``: bf16 where the
            processor or GPU multiplies it, else fp32. Weights, optimizer and loss are float32.
        sub_batch: texts in a forward pass, of like lengths, so that little is padding; the loss
            sees all of the batch. None: 8 for a transformer on a CPU, else the whole batch.
        sub_batch_tokens: tokens of a forward pass at most, padding included: long texts go in
            smaller sub-batches; None: any.
        accumulate: batches whose gradients are averaged before the weights change. The documents of
            one are no negatives of another.
        freeze_layers: 0: the table of token vectors is not trained; n: nor are the other embeddings
            and the first n layers.
        clip: largest length of the gradient of all parameters together; None: any.
        language_temperature, language_weights: see ``temperature`` and ``weights`` of
            :class:`hybridret.training.batches.Sampler`.
        evaluate_every: steps between evaluations, see :func:`hybridret.train`; 0: none.
        best: value of the evaluation, such as ``multi AP``, by which the best encoder is kept: it
            is what the run ends with. Of a ``rank distance`` or a ``loss`` the smallest is best.
        patience: evaluations without a better value after which the run ends; 0: none.
        trackers: of :data:`TRACKERS`: the log goes to these, too.
    """

    sampler: str = "hybrid"
    alpha: float = 0.5
    steps: int = 700
    batch_size: int = 256
    learning_rate: float | None = None
    warmup: float = 0.07
    weight_decay: float = 1e-2
    temperature: float = 0.05
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    precision: str = "auto"
    sub_batch: int | None = None
    sub_batch_tokens: int | None = None
    accumulate: int = 1
    freeze_layers: int | None = None
    clip: float | None = None
    language_temperature: float = 1.0
    language_weights: dict[str, float] | None = None
    evaluate_every: int = 0
    best: str | None = None
    patience: int = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seed", "log_every", "checkpoint_every"):
            if type(getattr(self, name)) is not int:
                raise DataError(f"{name} must be an integer, got {getattr(self, name)!r}")
        for name in ("alpha", "warmup", "weight_decay", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise DataError(f"{name} must be finite, got {value}")
        if self.sampler not in SAMPLERS:
            raise DataError(f"unknown sampler {self.sampler!r}; expected {', '.join(SAMPLERS)}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed must be at least 0 and below 2^63, got {self.seed}")
        for name in ("checkpoint_every", "weight_decay", "evaluate_every", "patience"):
            if not getattr(self, name) >= 0:
                raise DataError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.log_every < 1:
            raise DataError(f"log_every must be at least 1, got {self.log_every}")
        if self.steps < 0:
            raise DataError(f"steps must not be negative, got {self.steps}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise DataError(f"temperature must be positive and finite, got {self.temperature}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise DataError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.precision not in PRECISIONS:
            raise DataError(
                f"unknown precision {self.precision!r}; expected {', '.join(PRECISIONS)}"
            )
        for name, least in (("sub_batch", 1), ("sub_batch_tokens", 1), ("freeze_layers", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise DataError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.best is not None and not self.evaluate_every:
            raise DataError("best needs evaluate_every: without evaluations there is no best")
        if self.patience and self.best is None:
            raise DataError("patience needs best: the value that is to become better")
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise DataError(f"accumulate must be an integer of at least 1, got {self.accumulate!r}")
        for name in ("steps", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) % self.accumulate:
                raise DataError(
                    f"{name} is {getattr(self, name)}, and must be a multiple of accumulate, "
                    f"{self.accumulate}: between, the weights have not changed"
                )
        for name in self.trackers:
            if name not in TRACKERS:
                raise DataError(f"unknown tracker {name!r}; expected {', '.join(TRACKERS)}")
        if self.clip is not None and not self.clip > 0:
            raise DataError(f"clip must be above 0, got {self.clip}")
