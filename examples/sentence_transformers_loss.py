"""InfoNCELoss in sentence-transformers' trainer, in the place of MultipleNegativesRankingLoss.

    python examples/sentence_transformers_loss.py [--model FOLDER_OR_NAME]

Without ``--model`` a small static encoder is made on the spot. Needs sentence-transformers and
datasets.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

import hybridret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="default: a new static encoder")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()

    facts = hybridret.load_dataset("facts-train", languages=["de", "en"])
    documents = {d.document_id: d.full_text for d in facts.documents}
    pairs = [
        {"anchor": query.text, "positive": documents[next(iter(facts.qrels[query.query_id]))]}
        for query in facts.queries
    ]
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            texts = [text for pair in pairs for text in pair.values()]
            hybridret.TorchEncoder.new_static(texts).save(folder)
        model = SentenceTransformer(options.model or folder, device="cpu")
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(Path(folder) / "run"),
                max_steps=options.steps,
                per_device_train_batch_size=64,
                learning_rate=2e-2 if options.model is None else 2e-5,
                logging_steps=max(options.steps // 5, 1),
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=Dataset.from_list(pairs),
            loss=hybridret.InfoNCELoss(model, temperature=0.05),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
