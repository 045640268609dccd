"""Trains a few steps, under torchrun or alone, and saves the first step's gradient."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import torch

from hybridret.data import load_dataset
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.training.config import TrainingConfig
from hybridret.training.loop import train
from hybridret.training.optimizer import RowAdamW
from hybridret.training.pairs import PairTable, TrainingData


def no_thread_is_left() -> None:
    """A thread of the process group that outlives Python aborts the process, now and then."""
    names = [x.read_text().strip() for x in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in names if "gloo" in name]:
        print(f"still running: {left}", file=sys.stderr, flush=True)
        os._exit(3)


def main() -> None:
    atexit.register(no_thread_is_left)  # runs last
    torch.set_num_threads(1)
    data, model, output, settings = sys.argv[1:]
    table = PairTable.from_dataset(load_dataset(data))
    if model == "static":
        texts = [*table.query_texts, *table.document_texts]
        encoder = TorchEncoder.new_static(texts, dimension=32, vocabulary_size=1000)
    else:
        encoder = TorchEncoder.load(model, normalize=True)
    for module in encoder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = json.loads(settings)
    if options.pop("other_weights", False) and os.environ.get("RANK") == "1":
        next(iter(encoder.model.parameters())).data[0] += 1.0
    source = TrainingData("data", table, in_batch_negatives=options.pop("in_batch_negatives", True))
    step = RowAdamW.step
    seen: dict[str, torch.Tensor] = {}

    def saving(self, *args, **kwargs):
        for name, parameter in encoder.model.named_parameters():
            if parameter.grad is not None and name not in seen:
                seen[name] = parameter.grad.to_dense().clone()
        return step(self, *args, **kwargs)

    RowAdamW.step = saving
    resume = options.pop("resume", False)
    config = TrainingConfig(**options)
    train(encoder, [source], output, config, resume=resume, progress=False)
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    torch.save(seen, Path(output) / "gradient.pt")


if __name__ == "__main__":
    main()
