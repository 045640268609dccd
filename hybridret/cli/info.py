"""``hybridret info``: what this build is and what is installed."""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from typing import Any

from hybridret import _native
from hybridret.cli.common import add_command


def add(commands: Any) -> None:
    p = add_command(commands, "info", run, "version, build, instruction set, installed parts", "")
    p.add_argument("--json", action="store_true", help="print it as JSON")


_PARTS = ("numpy", "torch", "transformers", "tokenizers", "onnx", "onnxruntime",
          "onnxruntime-gpu", "bm25s")  # fmt: skip


def info() -> dict[str, Any]:
    """What ``hybridret info --json`` prints."""
    from hybridret.losses._library import describe

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


def run(o: argparse.Namespace) -> None:
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
