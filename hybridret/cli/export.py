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
    model_options,
    torch_encoder,
)


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
    add_model_options(p, "the model's own")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret.encoder.exporting import check_output, export

    check_output(o.output, o.model, o.overwrite)
    encoder = encoder_class.load(o.model, **model_options(o))
    result = export(encoder, o.output, overwrite=o.overwrite, source=o.model)
    if o.json:
        print(json.dumps(asdict(result) | {"folder": str(result.folder)}))
        return
    print(
        f"{result.folder}: {result.dimension} dimensions, {result.megabytes:.1f} MB, largest "
        f"relative difference from torch {result.parity:.1e}"
    )
