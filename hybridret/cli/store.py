"""``hybridret delete``, ``stats``, ``compact``, ``verify``, ``reindex``: of an index."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command, interactive, torch_encoder
from hybridret.cli.index import add_store
from hybridret.errors import DataError


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
    p = _command(
        commands,
        "reindex",
        run_reindex,
        "change the encoder that an index is searched with",
        "All documents are embedded with the other encoder from their stored texts, while running "
        "services go on searching and adding; then all of them search with it. After an "
        "interruption the same command goes on. New documents are embedded with both encoders, so "
        "that the way back takes no time, until --drop.",
    )
    p.add_argument(
        "--encoder",
        metavar="MODEL",
        help="the other encoder: a folder written by 'hybridret export', or a model that is "
        "exported first, such as a folder of 'hybridret debias'",
    )
    p.add_argument(
        "--drop",
        action="store_true",
        help="then remove what the index has for all other encoders; without --encoder, for those "
        "that are not searched with now",
    )
    p.add_argument("--batch-size", type=int, default=32, help="texts in a batch of the encoder")


def _command(commands: Any, name: str, run: Any, summary: str, more: str = "") -> Any:
    p = add_command(commands, name, run, summary, more)
    p.add_argument("folder", type=Path, help="of an exported encoder with an index, or of a store")
    add_store(p)
    return p


def _index(o: argparse.Namespace) -> Any:
    from hybridret.serving.index import Index
    from hybridret.serving.retriever import store_folder

    return Index.open(store_folder(o.folder, o.store))


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


def run_reindex(o: argparse.Namespace) -> None:
    from hybridret.encoder.manifest import is_exported
    from hybridret.encoder.onnx import OnnxEncoder
    from hybridret.serving.reindex import drop_others, reindex

    if o.encoder is None:
        if not o.drop:
            raise DataError("nothing to do: give --encoder, --drop, or both")
        index = _index(o)
        dropped = drop_others(index.store)
        print(f"{index.store.folder}: {len(dropped)} other encoders dropped")
        return
    index = _index(o)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(o.encoder)
        if not is_exported(source):
            torch_encoder()
            from hybridret.encoder.exporting import export

            source = export(o.encoder, Path(folder) / "encoder").folder
        done = reindex(
            index.store,
            OnnxEncoder(source),
            drop=o.drop,
            batch_size=o.batch_size,
            progress=interactive(),
        )
    live = index.store.head().live
    print(
        f"{index.store.folder}: {done.documents:,} documents embedded; {live:,} are searched with "
        f"{o.encoder}"
    )


def run_compact(o: argparse.Namespace) -> None:
    index = _index(o)
    before = index.stats()["bytes"]
    index.compact()
    print(f"{index.store.folder}: {before:,} bytes before, {index.stats()['bytes']:,} now")


def run_verify(o: argparse.Namespace) -> None:
    index = _index(o)
    index.verify()
    print(f"{index.store.folder}: whole, {len(index):,} documents")
