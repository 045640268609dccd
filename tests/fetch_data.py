"""Fetches the public data that tests, benchmarks and studies read: ``python fetch_data.py FOLDER``.

Every file comes from its publisher, at one revision, and is checked against data/public.sha256;
what is there already is not fetched again. Then HYBRIDRET_TEST_DATA=FOLDER. It needs Python alone.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HASHES = Path(__file__).parent / "data" / "public.sha256"
HOST = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Source:
    """A data set: its folder here, and where its files are published."""

    folder: str
    repository: str
    revision: str
    remote: str  # folder in the repository
    license: str


SOURCES = {
    "xquad-r": Source(
        "xquad-r",
        "google-research-datasets/lareqa",
        "5405d2a77e83d5ccb47623a3f9e5604c3f103193",
        "xquad-r",
        "CC BY-SA 4.0; for evaluation",
    ),
    "mlqa-r": Source(
        "mlqa-r",
        "google-research-datasets/lareqa",
        "354d67d1cd066854cdfbf5ad0e6105528976141d",
        "mlqa-r",
        "CC BY-NC 4.0; for evaluation",
    ),
    "tatoeba": Source(
        "tatoeba",
        "facebookresearch/LASER",
        "fec5c7d63daa2bea9d127e8252b10e87278586c0",
        "data/tatoeba/v1",
        "CC BY 2.0 FR; for evaluation",
    ),
    "ntrex": Source(
        "train/parallel/ntrex",
        "MicrosoftTranslator/NTREX",
        "c9f006f2c132c932b83ccd7aaa6a35930dd9c370",
        "NTREX-128",
        "CC BY-SA 4.0",
    ),
    "ntrex-documents": Source(
        "train/parallel/ntrex",
        "MicrosoftTranslator/NTREX",
        "fa9e8c9e3bb875a39b0d3f36394c54e2d0f67cc7",
        "",
        "CC BY-SA 4.0",
    ),
    "sib200": Source(
        "train/parallel/sib200",
        "dadelani/sib-200",
        "e7a172159963fd28c65f1ea53a0cea931bd08719",
        "data/annotated",
        "Apache-2.0; the text of FLORES-200: CC BY-SA 4.0",
    ),
}
# Named in the documentation, and not to be had as files of one address.
ELSEWHERE = {
    "pud": "sent_id and text of UniversalDependencies/UD_*-PUD (CoNLL-U), as pud.<language>.tsv",
    "miracl": "topics and judgements: castorini/anserini-tools; the corpora: miracl/miracl-corpus "
    "on the Hugging Face hub",
    "beir": "BeIR/* on the Hugging Face hub",
    "mmarco": "unicamp-dl/mmarco on the Hugging Face hub",
}


def files(name: str) -> Iterator[tuple[str, str, str]]:
    """(path below the folder, address, SHA-256) of each file of a data set."""
    source = SOURCES[name]
    for line in HASHES.read_text(encoding="utf-8").splitlines():
        checksum, owner, path = line.split(maxsplit=2)
        if owner == name:
            remote = "/".join(filter(None, (source.remote, path)))
            address = f"{HOST}/{source.repository}/{source.revision}/{remote}"
            yield f"{source.folder}/{path}", address, checksum


def fetch(name: str, folder: Path) -> list[str]:
    """Fetches what is missing or another file; returns a sentence about each that failed."""
    failed = []
    for path, address, checksum in files(name):
        target = folder / path
        if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == checksum:
            continue
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                content = answer.read()
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            failed.append(f"{path}: {address}: {error}")
            continue
        found = hashlib.sha256(content).hexdigest()
        if found != checksum:
            failed.append(f"{path}: {address} is another file now (SHA-256 {found[:12]}...)")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(target)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch public data sets, and check them.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}; all")
    options = parser.parse_args(arguments)
    failures = 0
    for name in options.names or SOURCES:
        if name in ELSEWHERE:
            print(f"{name}: cannot be fetched by this script: {ELSEWHERE[name]}")
            failures += 1
            continue
        if name not in SOURCES:
            parser.error(f"unknown data set {name!r}; expected {', '.join((*SOURCES, *ELSEWHERE))}")
        failed = fetch(name, options.folder)
        failures += len(failed)
        count = len(list(files(name)))
        print(f"{name}: {count - len(failed)} of {count} files ({SOURCES[name].license})")
        print(*failed[:3], sep="\n", end="\n" if failed else "")
        if len(failed) > 3:
            print(f"... and {len(failed) - 3} more")
    if not options.names:
        for name, where in ELSEWHERE.items():
            print(f"{name}: not fetched: {where}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
