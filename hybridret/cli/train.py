"""``hybridret train``: train an encoder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridret.cli.common import (
    DATA_HELP,
    TORCH_MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    model_options,
    torch_encoder,
)


def add(commands: Any) -> None:
    from hybridret.training.batches import SAMPLERS
    from hybridret.training.config import TrainingConfig

    d = TrainingConfig()
    p = add_command(
        commands, "train", run, "train an encoder with batches of chosen languages",
        "Writes OUTPUT/model (a sentence-transformers folder), OUTPUT/log.jsonl and "
        "OUTPUT/training.json.",
    )  # fmt: skip
    p.add_argument("--data", required=True, help=DATA_HELP)
    p.add_argument("--output", type=Path, required=True, help="folder of the run")
    p.add_argument(
        "--model",
        default="static",
        help="'static' for a new static-embedding encoder, or " + TORCH_MODEL_HELP,
    )
    p.add_argument("--sampler", choices=SAMPLERS, default=d.sampler, help="languages of a batch")
    p.add_argument("--alpha", type=float, default=d.alpha,
                   help="share of monolingual batches of the hybrid sampler")  # fmt: skip
    p.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="use only these")
    p.add_argument("--hold-out", type=float, metavar="SHARE",
                   help="keep this share of the documents out of training and judge the trained "
                   "encoder on it, by the first question of each held-out document")  # fmt: skip
    p.add_argument("--steps", type=int, default=d.steps, help="batches to train on")
    p.add_argument("--batch-size", type=int, default=d.batch_size, help="pairs in a batch")
    p.add_argument("--learning-rate", type=float, help="peak; by default 0.02 static, 3e-5 other")
    p.add_argument("--temperature", type=float, default=d.temperature, help="of the loss")
    p.add_argument("--weight-decay", type=float, default=d.weight_decay, help="AdamW's")
    p.add_argument("--seed", type=int, default=d.seed, help="of initial weights and batches")
    p.add_argument("--checkpoint-every", type=int, default=d.checkpoint_every, metavar="STEPS",
                   help="0 for none")  # fmt: skip
    p.add_argument("--resume", action="store_true", help="go on from OUTPUT's last checkpoint")
    p.add_argument("--dimension", type=int, default=256, help="of a new static encoder")
    p.add_argument("--vocabulary-size", type=int, default=8192, help="of a new static encoder")
    add_model_options(p, "Query: / Passage: for a Hugging Face model that names none")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret._files import write_json
    from hybridret.data import load_dataset
    from hybridret.data.table import hold_out
    from hybridret.evaluation.judging import evaluate
    from hybridret.training.batches import PairTable
    from hybridret.training.config import TrainingConfig
    from hybridret.training.loop import TRAINING_FILE, train

    dataset = load_dataset(o.data, languages=o.languages)
    development = None
    if o.hold_out is not None:
        dataset, development = hold_out(dataset, o.hold_out)
    table = PairTable.from_dataset(dataset)
    names = ("sampler", "alpha", "steps", "batch_size", "learning_rate", "temperature",
             "weight_decay", "seed", "checkpoint_every")  # fmt: skip
    config = TrainingConfig(**{name: getattr(o, name) for name in names})
    given = model_options(o)
    checkpoint = o.output / "checkpoint"
    if o.resume and checkpoint.is_dir():
        encoder = encoder_class.load(checkpoint)
    elif o.model == "static":
        encoder = encoder_class.new_static(
            [*table.query_texts, *table.document_texts],
            dimension=o.dimension,
            vocabulary_size=o.vocabulary_size,
            max_length=256 if o.max_length is None else o.max_length,
            seed=o.seed,
        )
    else:
        from hybridret.encoder.model_folder import MODULES_FILE, local_folder

        folder = local_folder(o.model)
        if not (folder / MODULES_FILE).is_file():
            # The paper's prefixes and cosine for an encoder that says nothing of either.
            paper = {"query_prompt": "Query: ", "document_prompt": "Passage: ", "normalize": True}
            given = paper | given
        encoder = encoder_class.load(folder, **given)
    result = train(encoder, table, o.output, config, resume=o.resume, progress=interactive())
    summary: dict[str, Any] = {"model": str(result.model), "steps": result.steps}
    if result.steps:
        summary["final_loss"] = result.final_loss
    if development is not None:
        report = evaluate(encoder, development, progress=interactive(), name="development")
        summary["development"] = report.summary
        state = json.loads((o.output / TRAINING_FILE).read_text(encoding="utf-8"))
        write_json(o.output / TRAINING_FILE, state | {"development": report.summary})
    if o.json:
        print(json.dumps(summary))
        return
    loss = f", final loss {result.final_loss:.4f}" if result.steps else ""
    print(f"trained {result.steps} steps{loss}: {result.model}")
    if development is not None:
        from hybridret.evaluation.metrics import DEFAULT_METRICS
        from hybridret.evaluation.text import summary_text

        print(f"on the documents held out:\n{summary_text([report], DEFAULT_METRICS)}")
