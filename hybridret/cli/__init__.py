"""The command line: ``hybridret COMMAND``, each command with its own ``--help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from hybridret import _native
from hybridret.cli.common import (
    DATA_HELP,
    TORCH_MODEL_HELP,
    add_command,
    add_model_options,
    interactive,
    model_options,
    torch_encoder,
)
from hybridret.cli.evaluate import add_evaluate
from hybridret.errors import DataError, HybridretError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 on an error, 130 on ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        _check_isa()
        options.run(options)
    except HybridretError as error:
        print(f"hybridret: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"hybridret: stopped{_resume_hint(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `hybridret search ... | head`
        sys.stderr.close()
        return 1
    except OSError as error:  # a path that cannot be made, read or written; a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"hybridret: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _check_isa() -> None:
    try:
        _native.isa()
    except RuntimeError as error:  # HYBRIDRET_ISA names one this machine cannot run
        raise DataError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hybridret",
        description="Train, judge and serve multilingual dense retrievers.",
        epilog="Start with: hybridret quickstart. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"hybridret {_native.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_quickstart, _add_train, add_evaluate, _add_export, _add_index, _add_search,
                _add_info):  # fmt: skip
        add(commands)
    return parser


def _add_quickstart(commands: Any) -> None:
    p = add_command(
        commands, "quickstart", _quickstart,
        "the whole job on embedded data: train, judge, export, index, search",
        "Needs no network and no GPU, and takes about two minutes on two cores.",
    )  # fmt: skip
    p.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to write to")
    p.add_argument("--steps", type=int, default=1500, help="training steps of each sampler")
    p.add_argument("--seed", type=int, default=0, help="of initial weights and batches")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier quick start")


def _add_train(commands: Any) -> None:
    from hybridret.batches import SAMPLERS
    from hybridret.training_config import TrainingConfig

    d = TrainingConfig()
    p = add_command(
        commands, "train", _train, "train an encoder with batches of chosen languages",
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


def _add_export(commands: Any) -> None:
    p = add_command(
        commands, "export", _export, "write an encoder as ONNX, pooling and normalisation inside",
        "The result is checked against torch and needs neither torch nor transformers.",
    )  # fmt: skip
    p.add_argument("model", help=TORCH_MODEL_HELP)
    p.add_argument("output", type=Path, help="folder to write")
    p.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    add_model_options(p, "the model's own")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_index(commands: Any) -> None:
    p = add_command(
        commands, "index", _index, "embed documents and put them into an encoder's index",
        'A line of DOCUMENTS is {"id": ..., "text": ..., "language": ..., "title": ...}; only text '
        "is required. The index is written into the encoder's folder.",
    )  # fmt: skip
    p.add_argument("encoder", type=Path, help="folder written by 'hybridret export'")
    p.add_argument("documents", type=Path, help="a .jsonl or .jsonl.gz file")
    there = p.add_mutually_exclusive_group()
    there.add_argument("--add", action="store_true", help="add to the index that is there")
    there.add_argument("--overwrite", action="store_true", help="replace the index that is there")
    p.add_argument("--batch-size", type=int, default=32, help="texts embedded at a time")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_search(commands: Any) -> None:
    p = add_command(commands, "search", _search, "search an encoder's index", "")
    p.add_argument("encoder", type=Path, help="folder with an index, see 'hybridret index'")
    p.add_argument("query", help="in any language the encoder knows")
    p.add_argument("-k", type=int, default=10, help="number of documents")
    p.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="only documents in these")
    p.add_argument("--exact", action="store_true", help="compare with every document")
    p.add_argument("--json", action="store_true", help="print the documents as JSON")


def _add_info(commands: Any) -> None:
    p = add_command(commands, "info", _info, "version, build, instruction set, installed parts", "")
    p.add_argument("--json", action="store_true", help="print it as JSON")


def _quickstart(o: argparse.Namespace) -> None:
    from hybridret._extras import require

    for module in ("torch", "onnx", "onnxruntime", "bm25s"):
        require(module, "all", "the quick start")
    from hybridret.quickstart import quickstart

    quickstart(o.output, steps=o.steps, seed=o.seed, overwrite=o.overwrite)


def _train(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret._files import write_json
    from hybridret.batches import PairTable
    from hybridret.data import load_dataset
    from hybridret.data.table import hold_out
    from hybridret.evaluation import evaluate
    from hybridret.training import TRAINING_FILE, train
    from hybridret.training_config import TrainingConfig

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
        from hybridret.model_folder import MODULES_FILE, local_folder

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
        from hybridret.metrics import DEFAULT_METRICS
        from hybridret.report import summary_text

        print(f"on the documents held out:\n{summary_text([report], DEFAULT_METRICS)}")


def _export(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret.exporting import check_output, export

    check_output(o.output, o.model, o.overwrite)
    encoder = encoder_class.load(o.model, **model_options(o))
    result = export(encoder, o.output, overwrite=o.overwrite, source=o.model)
    if o.json:
        print(json.dumps(asdict(result) | {"folder": str(result.folder)}))
        return
    print(
        f"{result.folder}: {result.dimension} dimensions, {result.megabytes:.1f} MB, differs from "
        f"torch by {result.parity:.1e} at most"
    )


def _index(o: argparse.Namespace) -> None:
    from hybridret.errors import IndexFileError
    from hybridret.retriever import Retriever, has_index

    if has_index(o.encoder) and not (o.add or o.overwrite):
        raise IndexFileError(f"{o.encoder} already has an index; pass --add or --overwrite")
    retriever = Retriever.load(o.encoder) if o.add else Retriever.create(o.encoder)
    added = retriever.add_file(o.documents, batch_size=o.batch_size, progress=interactive())
    retriever.save()
    counts = retriever.index.languages
    if o.json:
        print(json.dumps({"added": added, "documents": len(retriever), "languages": counts}))
        return
    by_language = ", ".join(f"{language} {count:,}" for language, count in counts.items())
    print(
        f"{o.encoder}: {added:,} documents added, {len(retriever):,} in the index ({by_language})"
    )


def _search(o: argparse.Namespace) -> None:
    from hybridret.retriever import Retriever

    hits = Retriever.load(o.encoder).search(o.query, o.k, languages=o.languages, exact=o.exact)
    if o.json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
        return
    for hit in hits:
        title = f"{hit.title}: " if hit.title else ""
        print(f"{hit.score:.3f}  {hit.language:<3} {hit.document_id}  {title}{hit.text}")


_PARTS = ("numpy", "torch", "transformers", "tokenizers", "onnx", "onnxruntime",
          "onnxruntime-gpu", "bm25s")  # fmt: skip


def info() -> dict[str, Any]:
    """What ``hybridret info --json`` prints."""
    from hybridret._cuda import describe

    parts: dict[str, str | None] = {}
    for name in _PARTS:
        try:
            parts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            parts[name] = None
    return {
        "version": _native.__version__,
        "build": {"compiler": _native.compiler, "hnswlib": _native.hnswlib_version},
        "isa": _native.isa(),
        "usable_isas": _native.usable_isas(),
        "threads": _native.default_threads(),
        "cuda": describe(),
        "parts": parts,
    }


def _info(o: argparse.Namespace) -> None:
    found = info()
    if o.json:
        print(json.dumps(found))
        return
    print(f"hybridret {found['version']} ({found['build']['compiler']}, hnswlib "
          f"{found['build']['hnswlib']})")  # fmt: skip
    print(f"instruction set {found['isa']} (usable: {', '.join(found['usable_isas'])}; "
          f"HYBRIDRET_ISA forces one)")  # fmt: skip
    print(f"threads {found['threads']}")
    cuda = found["cuda"]
    built = f"kernels for {', '.join(cuda['architectures'])}" if cuda["compiled"] else "no kernels"
    print(f"CUDA {built}; {'a device is there' if cuda['available'] else cuda['reason']}")
    for name, version in found["parts"].items():
        print(f"{name} {version or 'not installed'}")


def _resume_hint(o: argparse.Namespace) -> str:
    if o.command != "train":
        return ""
    if (o.output / "checkpoint").is_dir():
        return f"; {o.output}/checkpoint is whole: the same command with --resume goes on from it"
    return " before the first checkpoint"
