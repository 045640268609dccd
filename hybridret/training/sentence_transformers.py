"""Our batches in sentence-transformers' trainer.

The trainer's data set is one of batches: item i of it is a part of a batch, for one process, and
the collator makes its texts. So every process works on the same batch, and a run that is resumed
goes on with the batch that was next, in later epochs, too (with several processes the trainer's own
samplers begin an interrupted epoch with the order of the first one).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hybridret._extras import require
from hybridret.errors import DataError
from hybridret.training.batches import Sampler
from hybridret.training.pairs import Batch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments

_ENDLESS = 2**62
_base: Any = require("sentence_transformers.base.sampler", "trainer", "TrainerBatches")


class TrainerBatches:
    """The batches of a sampler, as arguments of ``SentenceTransformerTrainer``.

    ::

        batches = TrainerBatches(model, sampler)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=args,
            loss=hybridret.InfoNCELoss(model, labels_are_groups=True),
            **batches.arguments(args),        # instead of train_dataset=...
        )

    An epoch of the trainer has as many batches as the sampler's first; batches are counted through.
    The sampler's batch size is that of all processes together. Prompts are those of the data sets,
    or the model's for ``query`` and for ``document`` or ``passage``.
    """

    def __init__(self, model: SentenceTransformer, sampler: Sampler) -> None:
        self.sampler = sampler
        self.epoch = 0
        self.length = sampler.epoch_length(0)
        self._model = model
        self._next = -1
        self._steps: Iterator[tuple[int, Batch]] = iter(())

    def arguments(self, args: SentenceTransformerTrainingArguments) -> dict[str, Any]:
        """``train_dataset``, ``data_collator`` and ``callbacks``; sets the batch sampler of args.

        Raises:
            DataError: the batch size cannot be divided by the number of processes, or a data set
                has a temperature of its own or no in-batch negatives.
        """
        datasets = require("datasets", "trainer", "TrainerBatches")
        for source in self.sampler.sources:
            if source.temperature is not None or not source.in_batch_negatives:
                raise DataError(
                    f"{source.name}: the loss of the trainer has one temperature, and in-batch "
                    f"negatives; leave temperature and in_batch_negatives as they are"
                )
        self.processes = args.world_size
        if self.sampler.batch_size % self.processes:
            raise DataError(
                f"batch_size is {self.sampler.batch_size}, all processes together, and cannot be "
                f"divided among {self.processes}"
            )
        args.batch_sampler = InOrder
        args.per_device_train_batch_size = 1
        items = datasets.Dataset.from_dict({"batch": range(self.length * self.processes)})
        return {
            "train_dataset": items,
            "data_collator": self,
            "callbacks": [_EpochCallback(self)],
        }

    # What the trainer expects of a collator.
    valid_label_columns = ("label",)
    prompts = None
    router_mapping = None
    preprocess_fn = None

    def __call__(self, items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Token ids of queries and documents, and the documents' groups as labels [K, 1]."""
        (item,) = items
        number, process = divmod(int(item["batch"]), self.processes)
        batch = self._batch(self.epoch * self.length + number)
        source = self.sampler.sources[batch.source]
        table = source.table
        own = batch.part(process, self.processes)
        known: Any = self._model.prompts
        query = source.query_prompt
        if query is None:
            query = known.get("query") or ""
        document = source.document_prompt
        if document is None:
            document = known.get("document") or known.get("passage") or ""
        found: dict[str, torch.Tensor] = {}
        for column, texts, prompt in (
            ("query", own.query_texts(table), query),
            ("document", own.document_texts(table), document),
        ):
            features = self._model.preprocess([prompt + text for text in texts])
            found |= {f"{column}_{name}": value for name, value in features.items()}
        groups = batch.groups(table)[batch.columns(process, self.processes)]
        return found | {"label": torch.from_numpy(groups[:, None])}

    def _batch(self, step: int) -> Batch:
        if step != self._next:
            self._steps = self.sampler.steps(_ENDLESS, start=step)
        _, batch = next(self._steps)
        self._next = step + 1
        return batch


class InOrder(_base.DefaultBatchSampler):  # type: ignore[misc]
    """The items as they come."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([n] for n in range(len(self)))

    def __len__(self) -> int:
        return len(self.sampler)


class _EpochCallback(TrainerCallback):  # type: ignore[misc]
    """Tells the batches which epoch it is."""

    def __init__(self, batches: TrainerBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.batches.epoch = int((state.epoch or 0) + 1e-6)
