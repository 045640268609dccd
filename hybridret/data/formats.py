"""What a reader says of itself, so that :func:`hybridret.data.load_dataset` can choose it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybridret.data.table import Dataset

Candidates = Literal["sentence", "sentence-with-context"]


@dataclass(frozen=True)
class Source:
    """A data set on this machine, and what was asked of it.

    Attributes:
        path: file or folder.
        second: folder with the rest of a set that the hub keeps in two repositories: BEIR's
            judgements, MIRACL's corpora.
        candidates: as of :func:`hybridret.data.read_squad`.
        languages: only these; a reader may ignore it, :func:`hybridret.data.load_dataset` does not.
    """

    path: Path
    second: Path | None = None
    candidates: Candidates = "sentence"
    languages: Sequence[str] | None = None


@dataclass(frozen=True)
class Format:
    """One way data sets are laid out in files.

    Attributes:
        name: such as "BEIR".
        layout: what its files are, such as "a folder with corpus.jsonl", for help and errors.
        matches: whether a path, which exists, has this layout, by the names of its files alone.
        read: the reader.
    """

    name: str
    layout: str
    matches: Callable[[Path], bool]
    read: Callable[[Source], Dataset]
