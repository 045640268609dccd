"""``hybridret search``: search an index."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command
from hybridret.cli.index import add_store
from hybridret.errors import DataError


def add(commands: Any) -> None:
    p = add_command(commands, "search", run, "search the index of an encoder", "")
    p.add_argument(
        "folder",
        type=Path,
        help="of an exported encoder with an index ('hybridret index'), or of a store",
    )
    add_store(p)
    p.add_argument("query", help="text, in any language the encoder supports")
    p.add_argument("-k", type=int, default=10, help="number of documents to return")
    p.add_argument(
        "--languages", nargs="+", metavar="LANGUAGE", help="only documents in these languages"
    )
    p.add_argument(
        "--where",
        metavar="JSON",
        help='only documents whose metadata are so, such as \'{"year": {"gte": 2024}}\'',
    )
    p.add_argument(
        "--mode",
        choices=("dense", "words", "hybrid"),
        default="dense",
        help="documents closest in meaning, those with the query's words (BM25; in the query's "
        "script alone), or both rankings fused",
    )
    p.add_argument(
        "--recall",
        type=float,
        metavar="SHARE",
        help="of the best documents that the HNSW graph has to find, as measured on the index's "
        "own vectors, such as .99 (default: the index's ef_search)",
    )
    p.add_argument(
        "--exact",
        action="store_true",
        help="compare the query with every document instead of searching the HNSW graph",
    )
    p.add_argument("--json", action="store_true", help="print the documents as JSON")


def run(o: argparse.Namespace) -> None:
    from hybridret.serving.retriever import Retriever

    where = None
    if o.where is not None:
        try:
            where = json.loads(o.where)
        except ValueError as error:
            raise DataError(f"--where: not JSON: {error}") from None
    hits = Retriever.load(o.folder, store=o.store).search(
        o.query,
        o.k,
        languages=o.languages,
        where=where,
        recall=o.recall,
        exact=o.exact,
        mode=o.mode,
    )
    if o.json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for hit in hits:
        title = f"{hit.title}: " if hit.title else ""
        text = " ".join(f"{title}{hit.text}".split())
        line = f"{hit.score:.3f}  {hit.language:<3} {hit.document_id}  {text}"
        print(line if not width or len(line) <= width else f"{line[: max(width - 1, 20)]}…")
