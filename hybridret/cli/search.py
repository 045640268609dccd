"""``hybridret search``: search an index."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridret.cli.common import add_command


def add(commands: Any) -> None:
    p = add_command(commands, "search", run, "search an encoder's index", "")
    p.add_argument("encoder", type=Path, help="folder with an index, see 'hybridret index'")
    p.add_argument("query", help="in any language the encoder knows")
    p.add_argument("-k", type=int, default=10, help="number of documents")
    p.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="only documents in these")
    p.add_argument("--exact", action="store_true", help="compare with every document")
    p.add_argument("--json", action="store_true", help="print the documents as JSON")


def run(o: argparse.Namespace) -> None:
    from hybridret.serving.retriever import Retriever

    hits = Retriever.load(o.encoder).search(o.query, o.k, languages=o.languages, exact=o.exact)
    if o.json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
        return
    for hit in hits:
        title = f"{hit.title}: " if hit.title else ""
        print(f"{hit.score:.3f}  {hit.language:<3} {hit.document_id}  {title}{hit.text}")
