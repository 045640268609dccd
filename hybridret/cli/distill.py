"""``hybridret distill``: a static encoder from a pretrained one."""

from __future__ import annotations

import argparse
import json
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
    p = add_command(
        commands,
        "distill",
        run,
        "make a static encoder from a pretrained one, without texts",
        "One vector for each token, without context: it trains in a minute, embeds thousands of "
        "texts in a second, and finds less. Writes a sentence-transformers folder.",
    )
    p.add_argument("model", help=TORCH_MODEL_HELP)
    p.add_argument("output", type=Path, help="folder to write")
    p.add_argument("--dimension", type=int, default=256, help="of the vectors")
    add_model_options(p, "none")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(o: argparse.Namespace) -> None:
    encoder_class = torch_encoder()
    from hybridret._files import atomic_folder
    from hybridret.encoder.distillation import distill

    if o.output.exists():
        raise DataError(f"{o.output} exists already; choose another folder")
    encoder = encoder_class.load(o.model, **model_options(o))
    static = distill(encoder, dimension=o.dimension, progress=interactive())
    with atomic_folder(o.output) as folder:
        static.save(folder)
    result = {"folder": str(o.output), "tokens": static.model.table.num_embeddings}
    result["dimension"] = static.dimension
    if o.json:
        print(json.dumps(result))
    else:
        print(f"{o.output}: {result['tokens']:,} tokens, {static.dimension} dimensions")
