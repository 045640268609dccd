"""Reads the index that version 0.1 wrote: a manifest, a graph with its vectors, documents."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._files import check_files, read_json, sync
from hybridret._types import Similarity, Vectors
from hybridret.data.table import Document
from hybridret.errors import IndexFileError

MANIFEST = "manifest.json"
_FILES = re.compile(r"graph-\d+\.hnsw|documents-\d+\.jsonl")


@dataclass(frozen=True)
class Old:
    """The documents that were not removed, with their vectors [N, dimension]."""

    documents: list[Document]
    vectors: Vectors
    dimension: int
    similarity: Similarity
    encoder: str
    settings: dict[str, int]


def is_index(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process converts; 0.1 locked the same file when it saved."""
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(folder: Path) -> Old:
    """Raises IndexFileError: it is damaged, or of another version."""
    path = folder / MANIFEST
    manifest = read_json(path, IndexFileError)
    if not isinstance(manifest, dict) or not {"schema", "encoder"} <= manifest.keys():
        raise IndexFileError(f"{path}: damaged: not the manifest of an index")
    if manifest["schema"] != 1:
        raise IndexFileError(
            f"{path}: schema {manifest['schema']}, but this version reads schema 1"
        )
    try:
        names = manifest["graph"], manifest["documents"]
        for name in names:
            if not _FILES.fullmatch(name):
                raise ValueError(f"{name!r} is not a file of an index")
        check_files(folder, {name: manifest["files"][name] for name in names}, IndexFileError)
        settings = {("M" if n == "links" else n): int(v) for n, v in manifest["settings"].items()}
        dimension = int(manifest["dimension"])
        with (folder / names[1]).open(encoding="utf-8") as lines:
            documents = [Document(**row) if (row := json.loads(x)) else None for x in lines]
        vectors = _vectors(folder / names[0], dimension, settings["M"], len(documents))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, IndexFileError):
            raise
        raise IndexFileError(f"{folder}: damaged: {error}") from None
    kept = [n for n, d in enumerate(documents) if d is not None]
    return Old(
        [d for d in documents if d is not None],
        vectors[kept],
        dimension,
        manifest["similarity"],
        manifest["encoder"],
        settings,
    )


def _vectors(path: Path, dimension: int, links: int, count: int) -> Vectors:
    """The vectors by label, from a graph as hnswlib 0.8 writes it."""
    element = np.dtype(
        [("links", "<u4", 1 + 2 * links), ("vector", "<f4", dimension), ("label", "<u8")]
    )
    sizes = np.fromfile(path, dtype="<u8", count=6)
    if not count:
        return np.empty((0, dimension), dtype=np.float32)
    if len(sizes) < 6 or int(sizes[2]) != count or int(sizes[3]) != element.itemsize:
        raise ValueError(f"{path.name}: another number or dimension of vectors")
    header = 6 * 8 + 4 + 4 + 3 * 8 + 8 + 8
    found: Any = np.fromfile(path, dtype=element, count=count, offset=header)
    if sorted(found["label"].tolist()) != list(range(count)):
        raise ValueError(f"{path.name}: labels are not those of its {count} vectors")
    vectors = np.empty((count, dimension), dtype=np.float32)
    vectors[found["label"]] = found["vector"]
    return vectors


def move(made: Path, folder: Path) -> None:
    """Moves a store that was made of the index to its place, the database last."""
    for file in sorted(made.iterdir(), key=lambda f: f.name.startswith("store.db")):
        file.rename(folder / file.name)
    sync(folder)


def clean(folder: Path) -> None:
    """Removes the files of the index, the manifest last."""
    for file in folder.iterdir():
        if _FILES.fullmatch(file.name):
            file.unlink()
    (folder / MANIFEST).unlink()
