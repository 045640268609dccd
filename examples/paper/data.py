"""Writes the parallel sentences that docs/studies.md trains on, from public files.

    python examples/paper/data.py SIB200 PUD OUT.jsonl

SIB200 holds <language>/{train,dev,test}.tsv of SIB-200 (dadelani/sib-200): sentences of FLORES-200.
PUD holds <language>_pud-ud-test.conllu of Universal Dependencies' UD_*-PUD treebanks, or
pud.<language>.tsv with an id and a text a line. A sentence is query and document: in a monolingual
batch an encoder finds the text itself, in a cross-lingual one its translation.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

Sentence = tuple[str, str, str]
"""Group, language and text."""


def main() -> None:
    sib, pud, out = map(Path, sys.argv[1:])
    with open(out, "w", encoding="utf-8") as file:
        for group, language, text in (*sentences_of_sib(sib), *sentences_of_pud(pud)):
            if text.strip():
                row = {"query": text, "positive": text, "language": language, "group": group}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sentences_of_sib(folder: Path) -> Iterator[Sentence]:
    for file in sorted(folder.glob("*/*.tsv")):
        with open(file, encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                language = file.parent.name.partition("_")[0]  # zho_Hans is the zh of PUD
                yield f"sib200 {row['index_id']}", language, row["text"]


def sentences_of_pud(folder: Path) -> Iterator[Sentence]:
    for file in sorted(folder.glob("*_pud-ud-test.conllu")):
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            found = dict(re.findall(r"^# (sent_id|text) = (.*)$", block, re.MULTILINE))
            if found:
                yield f"pud {found['sent_id']}", file.name.partition("_")[0], found["text"]
    for file in sorted(folder.glob("pud.*.tsv")):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition("\t")
            if name != "sent_id":
                yield f"pud {name}", file.name.split(".")[1], text


if __name__ == "__main__":
    main()
