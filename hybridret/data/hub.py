"""Data sets of the Hugging Face hub by their identifiers, in the files their authors put there.

``miracl/miracl`` comes with its corpora from ``miracl/miracl-corpus`` (by language: all of them are
tens of gigabytes), ``BeIR/<name>`` with its judgements from ``BeIR/<name>-qrels``; any other
repository is taken as a folder of a known format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridret._extras import require
from hybridret._hub import hub_reason
from hybridret.data.languages import normalize_language
from hybridret.errors import DataError

MIRACL = "miracl/miracl"
BEIR = "BeIR/"
ELSEWHERE = {
    "google-research-datasets/xquad_r": "its hub form has no sentences; take the folder xquad-r of "
    "github.com/google-research-datasets/lareqa",
}

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*", re.ASCII)
_FILE = re.compile(r".*\.(jsonl?|tsv|csv|txt|gz|zip|parquet)", re.ASCII)


def is_hub_name(source: str) -> bool:
    """``owner/name``, which is no name of a file: a mistyped path is not looked for on the hub."""
    return _NAME.fullmatch(source) is not None and not _FILE.fullmatch(source)


def download(source: str, languages: Sequence[str] | None = None) -> tuple[Path, Path | None]:
    """The local folder of a hub data set, and that of its second repository, if it has one.

    Raises:
        DataError: the hub does not give it, or not in a form that can be read.
        MissingExtraError: huggingface_hub is not installed.
    """
    if source in ELSEWHERE:
        raise DataError(f"{source}: {ELSEWHERE[source]}")
    hub = require("huggingface_hub", "train", f"reading {source} from the hub")
    if source == MIRACL:
        codes = [normalize_language(language) for language in languages or ()] or ["*"]
        topics = [f"miracl-v1.0-{code}/*" for code in codes]
        corpora = [f"miracl-corpus-v1.0-{code}/*" for code in codes]
        return _snapshot(hub, source, topics), _snapshot(hub, f"{source}-corpus", corpora)
    if source.startswith(BEIR):
        return _snapshot(hub, source, ["*.jsonl*"]), _snapshot(hub, f"{source}-qrels", ["*.tsv"])
    return _snapshot(hub, source, None), None


def _snapshot(hub: Any, name: str, patterns: list[str] | None) -> Path:
    try:
        return Path(hub.snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # the client raises what its libraries raise
        raise DataError(
            f"{name}: no such file or folder, and not to be had from the hub: {hub_reason(error)}"
        ) from None
