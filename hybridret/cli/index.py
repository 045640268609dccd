"""``hybridret index``: embed documents into a store."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command, interactive


def add(commands: Any) -> None:
    p = add_command(
        commands,
        "index",
        run,
        "embed documents and add them to an encoder's index",
        'Each line of the file is {"id": ..., "text": ..., "language": ..., "title": ...}; only '
        "text is required, and what else it has are metadata to filter by. Documents that are in "
        "the index already are passed over, so that the same command goes on after an "
        "interruption. A running service sees the new documents.",
    )
    p.add_argument(
        "folder", type=Path, help="of an encoder, written by 'hybridret export', or of a store"
    )
    p.add_argument("documents", type=Path, help="a .jsonl or .jsonl.gz file")
    add_store(p)
    existing = p.add_mutually_exclusive_group()
    existing.add_argument(
        "--upsert", action="store_true", help="replace documents that are there with another text"
    )
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="as --upsert, and delete all documents that are not in the file",
    )
    p.add_argument("--batch-size", type=int, default=32, help="texts in a batch of the encoder")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def add_store(parser: Any) -> None:
    parser.add_argument(
        "--store", type=Path, metavar="FOLDER", help="of the index (default: FOLDER/index)"
    )


def run(o: argparse.Namespace) -> None:
    from hybridret._files import replayable
    from hybridret.data.jsonl import read_documents
    from hybridret.serving.retriever import Retriever, has_index

    there = has_index(o.folder, o.store)
    retriever = (Retriever.load if there else Retriever.create)(o.folder, store=o.store)
    before = len(retriever)
    replacing = o.upsert or o.overwrite
    with replayable(o.documents) as file:
        added = retriever.add_file(
            file,
            known="replace" if replacing else "skip",
            batch_size=o.batch_size,
            progress=interactive(),
        )
        ids = {d.document_id for d in read_documents(file)}
    deleted: list[str] = []
    if o.overwrite:
        deleted = [d.document_id for d in retriever.documents() if d.document_id not in ids]
        retriever.delete(deleted)
    retriever.index.link()
    counts: dict[str, Any] = {
        "added": added,
        "known": len(ids) - added,
        "replaced": max(0, added + before - len(deleted) - len(retriever)) if replacing else 0,
        "deleted": len(deleted),
        "documents": len(retriever),
        "languages": retriever.index.languages,
    }
    if o.json:
        print(json.dumps(counts))
        return
    by_language = ", ".join(f"{x} {count:,}" for x, count in counts["languages"].items())
    more = "".join(
        f", {counts[name]:,} {what}"
        for name, what in (
            ("replaced", "of them replaced"),
            ("known", "were there already"),
            ("deleted", "deleted"),
        )
        if counts[name]
    )
    print(
        f"{o.folder}: {added:,} documents added{more}; {len(retriever):,} in the index "
        f"({by_language})"
    )
