"""``hybridret quickstart``: the whole job on embedded data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command


def add(commands: Any) -> None:
    p = add_command(
        commands, "quickstart", run,
        "the whole job on embedded data: train, judge, export, index, search",
        "Needs no network and no GPU, and takes about two minutes on two cores.",
    )  # fmt: skip
    p.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to write to")
    p.add_argument("--steps", type=int, default=1500, help="training steps of each sampler")
    p.add_argument("--seed", type=int, default=0, help="of initial weights and batches")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier quick start")


def run(o: argparse.Namespace) -> None:
    from hybridret._extras import require

    for module in ("torch", "onnx", "onnxruntime", "bm25s"):
        require(module, "all", "the quick start")
    from hybridret.quickstart import quickstart

    quickstart(o.output, steps=o.steps, seed=o.seed, overwrite=o.overwrite)
