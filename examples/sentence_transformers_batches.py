"""Hybrid batches and our loss in sentence-transformers' trainer.

    python examples/sentence_transformers_batches.py [--model FOLDER_OR_NAME]

Without ``--model`` a small, untrained static encoder is used. Needs the packages
sentence-transformers and datasets. Runs under torchrun, too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

import hybridret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="default: a new static encoder")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()

    table = hybridret.PairTable.from_dataset(hybridret.load_dataset("facts-train"))
    sampler = hybridret.make_sampler("hybrid", table, batch_size=64, alpha=0.5)
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            hybridret.TorchEncoder.new_static(table.query_texts + table.document_texts).save(folder)
        model = SentenceTransformer(options.model or folder, device="cpu")
        args = SentenceTransformerTrainingArguments(
            output_dir=str(Path(folder) / "run"),
            max_steps=options.steps,
            learning_rate=2e-2 if options.model is None else 2e-5,
            logging_steps=max(options.steps // 5, 1),
            save_strategy="no",
            report_to="none",
        )
        batches = hybridret.TrainerBatches(model, sampler)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=args,
            # These two lines instead of train_dataset= and MultipleNegativesRankingLoss(model).
            loss=hybridret.InfoNCELoss(model, temperature=0.05, labels_are_groups=True),
            **batches.arguments(args),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
