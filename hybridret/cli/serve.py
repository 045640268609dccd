"""``hybridret serve``: search, embeddings and documents over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hybridret import _native
from hybridret.cli.common import add_command
from hybridret.cli.index import add_store


def add(commands: Any) -> None:
    p = add_command(
        commands,
        "serve",
        run,
        "answer searches over HTTP",
        "A search page is at /, the description of the interface at /docs. Documents can be added "
        "beside it with 'hybridret index', the encoder changed with 'hybridret reindex'.",
    )
    p.add_argument(
        "folder",
        type=Path,
        help="of an exported encoder with an index ('hybridret index'), or of a store",
    )
    add_store(p)
    p.add_argument("--host", default="127.0.0.1", help="address to listen at")
    p.add_argument("--port", type=int, default=8000, help="0: any that is free, which is printed")
    p.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="keys, one in each line; requests send one of them (Authorization: Bearer KEY). "
        "Needed at an address that other machines reach",
    )
    g = p.add_argument_group("limits")
    g.add_argument(
        "--threads",
        type=int,
        default=0,
        help="batches that are computed at the same time, each with its share of the processors "
        "(default: 1 for every two processors, at least 2)",
    )
    g.add_argument(
        "--timeout", type=float, default=30.0, help="seconds until a request is given up"
    )
    g.add_argument(
        "--max-waiting",
        type=int,
        default=512,
        help="requests that may wait; more are answered with 429",
    )
    g.add_argument("--max-body", type=int, default=16, help="megabytes of a request")


def run(o: argparse.Namespace) -> None:
    from hybridret.serving.http.server import serve

    serve(
        o.folder,
        store=o.store,
        host=o.host,
        port=o.port,
        key_file=o.key_file,
        threads=o.threads or max(2, _native.default_threads() // 2),
        timeout=o.timeout,
        max_waiting=o.max_waiting,
        max_body=o.max_body << 20,
    )
