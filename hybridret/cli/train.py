"""``hybridret train``: train an encoder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hybridret.cli.common import (
    TORCH_MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    model_options,
    torch_encoder,
)
from hybridret.errors import DataError


def add(commands: Any) -> None:
    from hybridret.data import DATA_HELP
    from hybridret.training.batches import SAMPLERS
    from hybridret.training.config import TrainingConfig

    d = TrainingConfig()
    p = add_command(
        commands,
        "train",
        run,
        "train an encoder with monolingual, cross-lingual, mixed or hybrid batches",
        "Writes OUTPUT/model (a sentence-transformers folder), OUTPUT/log.jsonl and "
        "OUTPUT/training.json.",
    )
    p.add_argument("--data", required=True, help=DATA_HELP)
    p.add_argument("--output", type=Path, required=True, help="folder for the results of the run")
    p.add_argument(
        "--model",
        default="static",
        help="'static' for a new encoder with static embeddings, or " + TORCH_MODEL_HELP,
    )
    p.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default=d.sampler,
        help="how the languages of a batch are chosen",
    )
    p.add_argument(
        "--alpha",
        type=float,
        default=d.alpha,
        help="hybrid sampler: probability that a batch is monolingual",
    )
    p.add_argument(
        "--languages",
        nargs="+",
        metavar="LANGUAGE",
        help="use only queries and documents in these languages",
    )
    p.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="keep this share of the documents out of training and evaluate the trained encoder "
        "on them, with the first question of each held-out document",
    )
    p.add_argument("--steps", type=int, default=d.steps, help="number of training steps (batches)")
    p.add_argument("--batch-size", type=int, default=d.batch_size, help="pairs per batch")
    p.add_argument(
        "--learning-rate",
        type=float,
        help="peak learning rate (default: 0.02 for a static encoder, otherwise 3e-5)",
    )
    p.add_argument(
        "--temperature", type=float, default=d.temperature, help="temperature of the loss"
    )
    p.add_argument(
        "--weight-decay", type=float, default=d.weight_decay, help="weight decay of AdamW"
    )
    p.add_argument(
        "--seed",
        type=int,
        default=d.seed,
        help="random seed of initial weights, dropout and batches",
    )
    p.add_argument(
        "--checkpoint-every",
        type=int,
        default=d.checkpoint_every,
        metavar="STEPS",
        help="steps between checkpoints; 0: no checkpoints",
    )
    p.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT"
    )
    p.add_argument(
        "--dimension", type=int, default=256, help="vector dimension of a new static encoder"
    )
    p.add_argument(
        "--vocabulary-size",
        type=int,
        default=8192,
        help="number of tokens of a new static encoder",
    )
    add_model_options(
        p,
        "the model's own; for a plain Hugging Face model 'Query: ', and 'Passage: ' for documents",
    )
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret._files import write_json
    from hybridret.data import load_dataset
    from hybridret.data.table import hold_out
    from hybridret.evaluation.judging import evaluate
    from hybridret.training import checkpoints
    from hybridret.training.config import TrainingConfig
    from hybridret.training.loop import train
    from hybridret.training.pairs import PairTable
    from hybridret.training.run import TRAINING_FILE

    dataset = load_dataset(o.data, languages=o.languages)
    development = None
    if o.hold_out is not None:
        dataset, development = hold_out(dataset, o.hold_out)
    table = PairTable.from_dataset(dataset)
    names = (
        "sampler",
        "alpha",
        "steps",
        "batch_size",
        "learning_rate",
        "temperature",
        "weight_decay",
        "seed",
        "checkpoint_every",
    )
    config = TrainingConfig(**{name: getattr(o, name) for name in names})
    given = model_options(o)
    _refuse_unused(o, given)
    checkpoint = o.output / "checkpoint"
    if o.resume and not checkpoint.is_dir():
        print(f"hybridret: no checkpoint in {o.output}: starting at step 0", file=sys.stderr)
    if o.resume and checkpoint.is_dir():
        checkpoints.check(checkpoint)  # before anything of it is read
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
            # arXiv 2408.10536's prompts and cosine, for a model that defines neither.
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

        print(f"on the held-out documents:\n{summary_text([report], DEFAULT_METRICS)}")


def _refuse_unused(o: argparse.Namespace, given: dict[str, Any]) -> None:
    """Raises DataError for an option that would have no effect."""
    if o.model == "static":
        unused, why = set(given) - {"max_length"}, "a new static encoder has its own"
    else:
        unused, why = (
            o.given & {"dimension", "vocabulary_size"},
            "they are for a new static encoder",
        )
    if "alpha" in o.given and o.sampler != "hybrid":
        unused, why = {"alpha"}, f"it is for the hybrid sampler, not {o.sampler}"
    if unused:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(unused))
        raise DataError(f"{names} would have no effect: {why}")
