"""``hybridret delete``, ``stats``, ``compact``, ``verify``: of the index of an encoder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command
from hybridret.cli.index import add_store
from hybridret.encoder.manifest import INDEX_FOLDER


def add(commands: Any) -> None:
    p = _command(commands, "delete", run_delete, "delete documents from an encoder's index")
    p.add_argument("ids", nargs="+", metavar="ID", help="of the documents")
    p = _command(commands, "stats", run_stats, "print what is in an encoder's index")
    p.add_argument("--json", action="store_true", help="print it as JSON")
    _command(
        commands,
        "compact",
        run_compact,
        "take deleted documents out of the files of an encoder's index, and make its graph anew",
    )
    _command(
        commands,
        "verify",
        run_verify,
        "read all of an encoder's index and compare it with its checksums",
    )


def _command(commands: Any, name: str, run: Any, summary: str) -> Any:
    p = add_command(commands, name, run, summary)
    p.add_argument("encoder", type=Path, help="folder of an exported encoder with an index")
    add_store(p)
    return p


def _index(o: argparse.Namespace) -> Any:
    from hybridret.serving.index import Index

    return Index.open(o.store or o.encoder / INDEX_FOLDER)


def run_delete(o: argparse.Namespace) -> None:
    index = _index(o)
    index.delete(o.ids)
    print(f"{index.store.folder}: {len(set(o.ids)):,} deleted, {len(index):,} in the index")


def run_stats(o: argparse.Namespace) -> None:
    found = _index(o).stats()
    if o.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count:,}" for key, count in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(value) or "none"
        print(f"{name:16} {value:,}" if isinstance(value, int) else f"{name:16} {value}")


def run_compact(o: argparse.Namespace) -> None:
    index = _index(o)
    before = index.stats()["bytes"]
    index.compact()
    print(f"{index.store.folder}: {before:,} bytes before, {index.stats()['bytes']:,} now")


def run_verify(o: argparse.Namespace) -> None:
    index = _index(o)
    index.verify()
    print(f"{index.store.folder}: whole, {len(index):,} documents")
