"""``hybridret train``: train an encoder."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridret._files import read_json
from hybridret.cli import run_file
from hybridret.cli.common import (
    TORCH_MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    model_options,
    torch_encoder,
)
from hybridret.errors import DataError

if TYPE_CHECKING:
    from hybridret.training.config import TrainingConfig


def add(commands: Any) -> None:
    from hybridret.data import DATA_HELP
    from hybridret.training.batches import SAMPLERS
    from hybridret.training.config import PRECISIONS, TRACKERS, TrainingConfig

    d = TrainingConfig()
    p = add_command(
        commands,
        "train",
        run,
        "train an encoder with monolingual, cross-lingual, mixed or hybrid batches",
        "Writes OUTPUT/model (a sentence-transformers folder), OUTPUT/log.jsonl, OUTPUT/plots.png "
        "and OUTPUT/training.json.",
    )
    p.epilog = _LINES
    p.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="a file with any of these options as fields, and a table [[data]] for each data set; "
        "options given here go first",
    )
    p.add_argument(
        "--data",
        nargs="+",
        action="append",
        metavar=("PATH", "FIELD=VALUE"),
        help=DATA_HELP + "; then what is different for this data set: name, weight, alpha, "
        "languages, stream (the texts stay on disk: true for a .jsonl file of 500 MB or more), "
        "hard_negatives, in_batch_negatives, temperature, query_prompt, "
        "document_prompt. Give it again for another data set",
    )
    p.add_argument("--output", type=Path, help="folder for the results of the run")
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
        help="hybrid sampler: share of the batches that are monolingual",
    )
    p.add_argument(
        "--language-temperature",
        type=float,
        default=d.language_temperature,
        metavar="T",
        help="a language of n rows is drawn in proportion to n^(1/T): 1 by its rows, inf all alike",
    )
    p.add_argument(
        "--language-weights",
        nargs="+",
        metavar="LANGUAGE=WEIGHT",
        help="draw languages in proportion to these instead; others are not drawn",
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
    p.add_argument(
        "--hold-out-pool",
        type=int,
        default=2000,
        metavar="DOCUMENTS",
        help="documents that these are searched in at least: beside held-out ones, if they are "
        "fewer, some that are trained on",
    )
    p.add_argument(
        "--evaluate",
        nargs="+",
        metavar="PATH",
        help="data sets to evaluate the encoder on, beside held-out documents",
    )
    p.add_argument(
        "--evaluate-every",
        type=int,
        default=d.evaluate_every,
        metavar="STEPS",
        help="steps between evaluations; 0: at the end alone",
    )
    p.add_argument(
        "--best",
        metavar="VALUE",
        help="keep the encoder with the best value of an evaluation, such as 'multi AP', "
        "'rank distance' or 'de-en AP' (with several data sets 'NAME: multi AP')",
    )
    p.add_argument(
        "--patience",
        type=int,
        default=d.patience,
        metavar="N",
        help="stop after N evaluations without a better value; 0: never",
    )
    p.add_argument("--steps", type=int, default=d.steps, help="number of training steps (batches)")
    p.add_argument(
        "--batch-size",
        type=int,
        default=d.batch_size,
        help="pairs per batch, of all processes together",
    )
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
        "--precision",
        choices=PRECISIONS,
        default=d.precision,
        help="of the encoder's matrix products; auto: bf16 where the processor or GPU multiplies "
        "it. Weights, optimizer and loss are float32",
    )
    p.add_argument(
        "--sub-batch",
        type=int,
        metavar="TEXTS",
        help="texts of like lengths in a forward pass, so that little is padding (default: 8 for a "
        "transformer on a CPU, else all of a batch)",
    )
    p.add_argument(
        "--sub-batch-tokens",
        type=int,
        metavar="TOKENS",
        help="tokens of a forward pass at most, padding included (default: any)",
    )
    p.add_argument(
        "--accumulate",
        type=int,
        default=d.accumulate,
        metavar="N",
        help="change the weights after every N batches, by the mean of their gradients",
    )
    p.add_argument(
        "--freeze-layers",
        type=int,
        metavar="N",
        help="0: the table of token vectors is not trained; N: nor are the other embeddings and "
        "the first N layers",
    )
    p.add_argument(
        "--clip", type=float, metavar="LENGTH", help="largest length of the gradient (default: any)"
    )
    p.add_argument("--warmup", type=float, default=d.warmup, help="share of the steps for warm-up")
    p.add_argument(
        "--log-every",
        type=int,
        default=d.log_every,
        metavar="STEPS",
        help="steps between entries of log.jsonl",
    )
    p.add_argument(
        "--trackers",
        nargs="+",
        choices=TRACKERS,
        default=[],
        help="where the log goes beside log.jsonl",
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
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in OUTPUT; with more --steps also a finished run",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the first epoch would draw, and do not train",
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
    p.set_defaults(parser=p)


_STREAMED = 500_000_000  # bytes
_VOCABULARY_TEXTS = 1_000_000

_DATA_FIELDS: dict[str, type] = {
    "name": str,
    "languages": list,
    "stream": bool,
    "weight": float,
    "alpha": float,
    "hard_negatives": int,
    "in_batch_negatives": bool,
    "temperature": float,
    "query_prompt": str,
    "document_prompt": str,
}


_LINES = """\
lines of a .jsonl file; all but query and positive is optional:
  {"query": "...", "positive": "...", "language": "de", "group": "17"}
  {"query": "...", "positive": "...", "query_language": "de", "positive_language": "en"}
  {"query": "...", "positive": "...", "negatives": ["...", "..."], "negative_language": "en"}
Lines of one group are translations of each other.
"""


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    if o.config is not None:
        run_file.apply(o.config, o, o.parser)
    for name in ("data", "output"):
        if not getattr(o, name):
            raise DataError(f"--{name} is missing: give it, or a --config that has it")
    from hybridret.training import checkpoints
    from hybridret.training.config import TrainingConfig
    from hybridret.training.loop import train

    o.output = Path(o.output)
    sources, judged = _data(o)
    names = [field.name for field in fields(TrainingConfig)]
    settings = {name: getattr(o, name) for name in names}
    settings |= {
        "trackers": tuple(o.trackers),
        "language_weights": run_file.weights(o.language_weights),
    }
    config = TrainingConfig(**settings)
    if config.evaluate_every and not judged:
        raise DataError("--evaluate-every needs --evaluate or --hold-out: something to evaluate on")
    given = model_options(o)
    _refuse_unused(o, given)
    checkpoint = o.output / "checkpoint"
    first = int(os.environ.get("RANK") or 0) == 0  # of the processes that torchrun started
    if o.resume and not checkpoint.is_dir() and first:
        print(f"hybridret: no checkpoint in {o.output}: starting at step 0", file=sys.stderr)
    if o.resume and checkpoint.is_dir():
        checkpoints.check(checkpoint)  # before anything of it is read
        encoder = encoder_class.load(checkpoint)
        _refuse_others(o, given, encoder)
    else:
        encoder = _new_encoder(o, encoder_class, given, sources)
    if o.dry_run:
        _dry_run(o, config, sources, encoder)
        return
    about = {
        "model": o.model,
        "data_sets": [run_file.data_fields(given, _DATA_FIELDS) for given in o.data],
        "held_out": o.hold_out,
        "command": sys.argv,
        "versions": {n: version(n) for n in ("hybridret", "torch", "transformers", "numpy")},
        "encoder": asdict(encoder.config),
    }
    judge = _Judge(judged)
    result = train(
        encoder,
        sources,
        o.output,
        config,
        evaluation=judge if judged else None,
        about=about,
        resume=o.resume,
        progress=interactive(),
    )
    if first:
        _say(o, result, judge.report(encoder, again=config.best is not None))


def _data(o: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """What is trained on, and data sets to evaluate on."""
    from hybridret.data import load_dataset
    from hybridret.data.table import hold_out
    from hybridret.training.pairs import PairTable, TrainingData
    from hybridret.training.streaming import stream_pairs

    sources, judged = [], []
    for given in o.data:
        found = run_file.data_fields(given, _DATA_FIELDS)
        path, languages = found.pop("path"), found.pop("languages", o.languages)
        if _streams(path, found.pop("stream", None)):
            if o.hold_out is not None:
                raise DataError(
                    f"{path}: --hold-out needs the data in memory, and this file is streamed; hold "
                    f"documents out into a file of their own and give it to --evaluate"
                )
            found.setdefault("name", Path(path).name)
            table = stream_pairs(path, languages, progress=interactive())
        else:
            dataset = load_dataset(path, languages=languages)
            found.setdefault("name", dataset.name)
            if o.hold_out is not None:
                dataset, development = hold_out(dataset, o.hold_out, pool=o.hold_out_pool)
                judged.append(replace(development, name=f"{found['name']} (held out)"))
            table = PairTable.from_dataset(dataset)
        sources.append(TrainingData(table=table, **found))
    judged += [load_dataset(path, languages=o.languages) for path in o.evaluate or ()]
    return sources, judged


def _streams(path: str, asked: bool | None) -> bool:
    """Whether the texts of a data set stay on disk."""
    from hybridret.data import jsonl

    can = Path(path).exists() and jsonl.FORMAT.matches(Path(path))
    if asked and not can:
        raise DataError(f"{path}: stream is for a file of lines, .jsonl or .jsonl.gz")
    return can and (Path(path).stat().st_size >= _STREAMED if asked is None else asked)


def _texts(sources: list[Any]) -> list[str]:
    """Texts that a vocabulary is made from: all, or every n-th."""
    columns = [c for s in sources for c in (s.table.query_texts, s.table.document_texts)]
    step = 1 + sum(map(len, columns)) // _VOCABULARY_TEXTS
    return [column[n] for column in columns for n in range(0, len(column), step)]


def _new_encoder(
    o: argparse.Namespace, encoder_class: Any, given: dict[str, Any], sources: list[Any]
) -> Any:
    if o.model == "static":
        return encoder_class.new_static(
            _texts(sources),
            dimension=o.dimension,
            vocabulary_size=o.vocabulary_size,
            max_length=256 if o.max_length is None else o.max_length,
            seed=o.seed,
        )
    from hybridret.encoder.torch_encoder import load_with_prompts

    return load_with_prompts(o.model, **given)


class _Judge:
    """Evaluates an encoder on several data sets, and keeps the last reports."""

    def __init__(self, judged: list[Any]) -> None:
        self.judged = judged
        self.reports: list[Any] = []

    def report(self, encoder: Any, *, again: bool) -> list[Any]:
        """The reports of an encoder; ``again``: it is not the one that was evaluated last."""
        from hybridret.evaluation.judging import evaluate

        if again or not self.reports:
            self.reports = [
                evaluate(encoder, x, progress=interactive(), name=x.name) for x in self.judged
            ]
        return self.reports

    def __call__(self, encoder: Any) -> dict[str, float]:
        """Values by name, of all settings of every data set."""
        found: dict[str, float] = {}
        for report in self.report(encoder, again=True):
            prefix = f"{report.dataset}: " if len(self.judged) > 1 else ""
            for kind in ("mono", "cross", "multi"):
                for metric, value in report.summary[kind].items():
                    found[f"{prefix}{kind} {metric}"] = value
            if report.summary["rank_distance"] is not None:
                found[f"{prefix}rank distance"] = report.summary["rank_distance"]
            for s in report.settings:
                if s.document_language is not None:
                    pair = f"{s.query_language}-{s.document_language}"
                    found[f"{prefix}{pair} AP"] = s.metrics["AP"]
        return {name: value for name, value in found.items() if not math.isnan(value)}


def _dry_run(
    o: argparse.Namespace, config: TrainingConfig, sources: list[Any], encoder: Any
) -> None:
    from hybridret.evaluation.text import text_table
    from hybridret.training.batches import Sampler
    from hybridret.training.preview import preview

    sampler = Sampler.from_config(sources, config)
    found = preview(sampler, encoder.tokenizer)
    if o.json:
        print(json.dumps(found.to_dict()))
        return
    total = sum(found.batches.values())
    kinds = ", ".join(f"{n} {kind} ({n / total:.1%})" for kind, n in found.batches.items())
    print(f"An epoch: {total} batches of {config.batch_size} pairs: {kinds}")
    print(f"{config.steps} steps are {config.steps / total:.1f} epochs")
    rows = []
    for name, pairs in found.rows.items():
        drawn, there = found.distinct[name]
        most = sorted(pairs.items(), key=lambda item: -item[1])[:6]
        rows.append(
            [
                name,
                f"{drawn:,} of {there:,}",
                f"{found.negatives[name]:.1f}",
                f"{found.truncated[name]:.1%}",
                " ".join(f"{pair} {n}" for pair, n in most)
                + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""),
            ]
        )
    header = ["data set", "rows", "hard negatives", "truncated", "rows by query-document language"]
    print(text_table(header, rows))


def _say(o: argparse.Namespace, result: Any, reports: list[Any]) -> None:
    from hybridret._files import write_json
    from hybridret.training.card import write_card
    from hybridret.training.run import TRAINING_FILE

    summary: dict[str, Any] = {"model": str(result.model), "steps": result.steps}
    if result.steps:
        summary["final_loss"] = result.final_loss
    if reports:
        found: dict[str, Any] = {"evaluation": {r.dataset: r.summary for r in reports}}
        if o.hold_out is not None:
            found["development"] = reports[0].summary
        summary |= found
        state = json.loads((o.output / TRAINING_FILE).read_text(encoding="utf-8"))
        write_json(o.output / TRAINING_FILE, state | found)
        write_card(o.output, "\n\n".join(map(_measured, reports)))
    if o.json:
        print(json.dumps(summary))
        return
    loss = f", final loss {result.final_loss:.4f}" if result.steps else ""
    print(f"trained {result.steps} steps{loss}: {result.model}")
    for report in reports:
        print(_measured(report))


def _measured(report: Any) -> str:
    from hybridret.evaluation.metrics import DEFAULT_METRICS
    from hybridret.evaluation.text import summary_text

    return f"on {report.dataset}:\n{summary_text([report], DEFAULT_METRICS)}"


def _refuse_others(o: argparse.Namespace, given: dict[str, Any], encoder: Any) -> None:
    """Raises DataError where a checkpoint is of another model, or has other settings of it."""
    from hybridret.training.run import TRAINING_FILE

    state = read_json(o.output / TRAINING_FILE, DataError)
    model = state.get("model", o.model) if isinstance(state, dict) else o.model
    if model != o.model:
        raise DataError(f"{o.output} was started with --model {model}, not {o.model}")
    for name, value in given.items():
        holder = encoder.model if name in ("pooling", "normalize") else encoder.config
        if getattr(holder, name) != value:
            raise DataError(
                f"{o.output} was started with {name} {getattr(holder, name)!r}, not {value!r}"
            )


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
