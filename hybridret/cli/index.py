"""``hybridret index``: embed documents into an index."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command, interactive


def add(commands: Any) -> None:
    p = add_command(
        commands, "index", run, "embed documents and put them into an encoder's index",
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


def run(o: argparse.Namespace) -> None:
    from hybridret.errors import IndexFileError
    from hybridret.serving.retriever import Retriever, has_index

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
