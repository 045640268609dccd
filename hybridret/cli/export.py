"""``hybridret export``: write an encoder as ONNX."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
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
from hybridret.encoder.quantization import LARGEST_LOSS, PRECISIONS
from hybridret.errors import DataError


def add(commands: Any) -> None:
    p = add_command(
        commands,
        "export",
        run,
        "write an encoder as ONNX, including pooling and normalisation",
        "The result is checked against torch. Running it needs neither torch nor transformers.",
    )
    p.add_argument("model", help=TORCH_MODEL_HELP)
    p.add_argument("output", type=Path, help="folder to write")
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the encoder in the output folder; an index there is kept if the new encoder "
        "gives the same vectors, otherwise the export is refused",
    )
    p.add_argument(
        "--no-fuse",
        action="store_true",
        help="use nodes that every ONNX runtime has, instead of the faster ones of ONNX Runtime",
    )
    smaller = p.add_argument_group(
        "a smaller encoder (what it costs in retrieval is measured by language, and written into "
        "the folder)"
    )
    smaller.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the weights: int8 is a quarter of the size and faster on a processor, float16 "
        "half of the size, for GPUs",
    )
    smaller.add_argument(
        "--trim",
        action="store_true",
        help="leave out the tokens that texts in the languages of --evaluate cannot have, by "
        "their scripts; vectors of such texts stay the same",
    )
    smaller.add_argument(
        "--evaluate",
        metavar="DATA",
        help="data set that the loss is measured on, of any format that 'hybridret evaluate' reads",
    )
    smaller.add_argument(
        "--languages",
        nargs="+",
        metavar="LANGUAGE",
        help="use only the queries and documents of --evaluate in these languages",
    )
    smaller.add_argument(
        "--largest-loss",
        type=float,
        default=LARGEST_LOSS,
        metavar="X",
        help="of nDCG@10 in the language that loses most; more is refused",
    )
    smaller.add_argument(
        "--force", action="store_true", help="export it whatever it loses, and unmeasured"
    )
    add_model_options(p, "the model's own")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    _check(o)
    encoder_class = torch_encoder()
    from hybridret.data.load import load_dataset
    from hybridret.encoder.exporting import check_output, export
    from hybridret.encoder.vocabulary import trim_vocabulary
    from hybridret.evaluation.gate import LossTooLarge, RetrievalGate

    check_output(o.output, o.model, o.overwrite)
    gate = dataset = None
    if o.evaluate is not None:
        dataset = load_dataset(o.evaluate, languages=o.languages)
        gate = RetrievalGate(dataset, o.largest_loss, not o.force, progress=interactive())
    encoder = encoder_class.load(o.model, **model_options(o))
    before = encoder.model.table.num_embeddings
    if o.trim:
        assert dataset is not None  # checked above
        texts: dict[str, list[str]] = {}
        for query in dataset.queries:
            texts.setdefault(query.language, []).append(query.text)
        for document in dataset.documents:
            texts.setdefault(document.language, []).append(document.full_text)
        encoder = trim_vocabulary(encoder, texts)
    try:
        result = export(
            encoder,
            o.output,
            overwrite=o.overwrite,
            source=o.model,
            precision=o.precision,
            gate=gate,
            unmeasured=o.force,
            fuse=not o.no_fuse,
        )
    except LossTooLarge as error:
        if not o.json:  # it took minutes to measure
            _print_quality(error.quality)
        raise
    if o.json:
        print(json.dumps(asdict(result) | {"folder": str(result.folder)}))
        return
    print(
        f"{result.folder}: {result.dimension} dimensions, {result.megabytes:.1f} MB "
        f"({result.precision}), largest relative difference from torch {result.parity:.1e}"
    )
    if result.not_fused:
        print(f"without fused nodes, so slower: {result.not_fused}")
    if o.trim:
        print(f"{encoder.model.table.num_embeddings:,} of {before:,} tokens")
    if result.quality:
        _print_quality(result.quality)


def _check(o: argparse.Namespace) -> None:
    if o.evaluate is None:
        given = [name for name in ("languages", "trim") if getattr(o, name)]
        if given:
            raise DataError(f"--{given[0]} needs --evaluate: the texts come from there")
    elif o.precision == "float32" and not o.trim:
        raise DataError("--evaluate measures a smaller encoder: give --precision or --trim, too")
    if not 0 <= o.largest_loss <= 1:
        raise DataError(f"--largest-loss must be from 0 to 1, got {o.largest_loss:g}")


def _print_quality(quality: dict[str, Any]) -> None:
    worst = quality["worst"]
    print(f"\n{quality['metric']} on {quality['dataset']}, before and after:")
    for language, row in sorted(quality["languages"].items()):
        gain = row["after"] - row["before"]
        print(
            f"  {language:10} {row['before']:.4f}  {row['after']:.4f}  {gain:+.4f}  "
            f"({row['setting']}, {row['queries']:,} queries)"
        )
    print(f"largest loss: {worst['loss']:.4f} in {worst['language']}")
