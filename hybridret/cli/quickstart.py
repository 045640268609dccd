"""``hybridret quickstart``: all steps from training to search on built-in data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command


def add(commands: Any) -> None:
    p = add_command(
        commands,
        "quickstart",
        run,
        "run all steps on built-in data: train, evaluate, export, index, search",
        "Needs no network and no GPU, and takes about two minutes on two cores.",
    )
    p.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to write to")
    p.add_argument("--steps", type=int, default=1500, help="training steps of each sampler")
    p.add_argument("--seed", type=int, default=0, help="random seed of initial weights and batches")
    p.add_argument(
        "--overwrite", action="store_true", help="replace the output of an earlier quick start"
    )


def run(o: argparse.Namespace) -> None:
    from hybridret._extras import require

    for module in ("torch", "onnx", "onnxruntime", "bm25s"):
        require(module, "all", "the quick start")
    from hybridret.quickstart import quickstart

    quickstart(o.output, steps=o.steps, seed=o.seed, overwrite=o.overwrite)
