"""Trains with sentence-transformers' trainer, under torchrun or alone, and saves the weights."""

from __future__ import annotations

import atexit
import gc
import sys

import torch
import torch.distributed.nn.functional  # before the group: see hybridret.training.processes
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from test_st_trainer import sampler

import hybridret


def end() -> None:
    """Ends the threads of the group: also the trainer, in its cycles, has a reference to it."""
    gc.collect()
    torch.distributed.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    folder, output, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = SentenceTransformer(folder, device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=output,
        max_steps=steps,
        learning_rate=0.02,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        loss=hybridret.InfoNCELoss(model, temperature=0.05, labels_are_groups=True),
        **hybridret.TrainerBatches(model, sampler()).arguments(args),
    )
    trainer.train()
    if torch.distributed.is_initialized():
        atexit.register(end)
        if torch.distributed.get_rank():
            return
    weights = next(iter(model.parameters())).detach()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    torch.save({"weights": weights, "losses": torch.tensor(losses)}, f"{output}.pt")


if __name__ == "__main__":
    main()
