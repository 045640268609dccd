"""An index on disk: an HNSW graph of vectors and the documents they stand for.

::

    index/manifest.json           what belongs together: files with sizes and checksums, the
                                  encoder, the graph's settings
    index/graph-<n>.hnsw          vectors and links
    index/documents-<n>.jsonl     one line a document, in the order of the graph's labels

New files get a new number and the manifest is replaced last, in one step: a crash at any moment
leaves the old index whole. Nothing is unpickled, and nothing is read that the manifest's checksums
do not vouch for.

One graph holds all languages. A search over few documents (one rare language) is an exact scan.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret import _native
from hybridret._files import atomic_file, sha256, write_json
from hybridret.data.table import Document
from hybridret.encoder import Similarity
from hybridret.errors import DataError, IndexFileError

INDEX_MANIFEST = "manifest.json"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """One search result; ``score`` is the cosine or the inner product, higher is better."""

    document_id: str
    text: str
    language: str
    score: float
    title: str = ""


@dataclass(frozen=True)
class GraphSettings:
    """HNSW's parameters (Malkov and Yashunin, arXiv 1603.09320).

    ``links`` is M, ``ef_construction`` and ``ef_search`` the widths of the candidate lists: more
    costs time and raises recall.
    """

    links: int = 16
    ef_construction: int = 200
    ef_search: int = 128
    seed: int = 0


class Index:
    """Documents with their vectors. Thread-safe: searches run beside each other, changes alone.

    Args:
        dimension: of the vectors.
        similarity: ``cosine`` normalises every vector, ``dot`` takes them as they are.
        encoder: fingerprint of the encoder that makes the vectors.
    """

    def __init__(
        self,
        dimension: int,
        *,
        similarity: Similarity = "cosine",
        encoder: str = "",
        settings: GraphSettings | None = None,
    ) -> None:
        self.dimension = dimension
        self.similarity = similarity
        self.encoder = encoder
        self.settings = settings or GraphSettings()
        self._graph = _native.HnswIndex(dimension, **asdict(self.settings))
        # By label. A removed document stays until the next load: a search may just have found it.
        self._documents: list[Document | None] = []
        self._labels: dict[str, int] = {}
        self._languages: dict[str, int] = {}
        self._change = threading.RLock()

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, document_id: str) -> bool:
        return document_id in self._labels

    @property
    def languages(self) -> dict[str, int]:
        """Number of documents in each language."""
        with self._change:
            counts = dict.fromkeys(self._languages, 0)
            for label in self._labels.values():
                document = self._documents[label]
                assert document is not None
                counts[document.language] += 1
        return {language: n for language, n in sorted(counts.items()) if n}

    def add(self, documents: Sequence[Document], vectors: Floats, *, threads: int = 0) -> None:
        """Adds documents with their vectors, float32 [N, dimension].

        Raises:
            DataError: an id is already there or stands twice, or a vector has the wrong dimension,
                a value that is not finite, or (for cosine) no length. Then nothing is added.
        """
        rows = self._prepared(vectors, [f"document {d.document_id!r}" for d in documents])
        with self._change:
            fresh: set[str] = set()
            for document in documents:
                if document.document_id in self._labels or document.document_id in fresh:
                    raise DataError(
                        f"document {document.document_id!r} is already in the index; "
                        f"delete it first to replace it"
                    )
                fresh.add(document.document_id)
            numbers = [
                self._languages.setdefault(d.language, len(self._languages)) for d in documents
            ]
            first = len(self._documents)
            self._documents.extend(documents)
            try:
                self._graph.add(rows, np.array(numbers, dtype=np.int32), threads=threads)
            except BaseException:
                del self._documents[first:]
                raise
            for label, document in enumerate(documents, first):
                self._labels[document.document_id] = label

    def delete(self, document_ids: Iterable[str]) -> None:
        """Takes documents out of all later searches.

        Raises:
            DataError: an id is not in the index; then nothing is deleted.
        """
        with self._change:
            ids = list(dict.fromkeys(document_ids))
            for document_id in ids:
                if document_id not in self._labels:
                    raise DataError(f"no document {document_id!r} in the index")
            for document_id in ids:
                self._graph.remove(self._labels.pop(document_id))

    def search(
        self,
        vector: Floats,
        k: int = 10,
        *,
        languages: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The k documents most similar to a query vector, float32 [dimension], best first.

        Args:
            languages: only documents in these; None for all.
            exact: scan all of them instead of walking the graph.

        Raises:
            DataError: k is below 1, a language has no documents, or the vector cannot be searched.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        query = self._prepared(np.asarray(vector)[None], ["the query"])[0]
        numbers = None if languages is None else [self._number(name) for name in languages]
        labels, scores = self._graph.search(query, k, languages=numbers, exact=exact)
        hits = []
        for label, value in zip(labels.tolist(), scores.tolist(), strict=True):
            document = self._documents[label]
            assert document is not None
            hits.append(
                Hit(document.document_id, document.text, document.language, value, document.title)
            )
        return hits

    def _number(self, language: str) -> int:
        if language not in self._languages:
            there = ", ".join(sorted(self._languages)) or "none"
            raise DataError(f"no document in language {language!r}; the index has {there}")
        return self._languages[language]

    def _prepared(self, vectors: Floats, names: list[str]) -> Floats:
        if vectors.ndim != 2 or vectors.shape != (len(names), self.dimension):
            raise DataError(
                f"expected {len(names)} vectors of dimension {self.dimension}, "
                f"got shape {list(vectors.shape)}"
            )
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
        if not np.isfinite(norms).all():
            name = names[int(np.argmin(np.isfinite(norms)))]
            raise DataError(
                f"the vector of {name} has a value that is not finite (NaN or infinity)"
            )
        if self.similarity == "dot":
            return rows
        if not norms.all():
            name = names[int(np.argmin(norms))]
            raise DataError(
                f"the vector of {name} is zero: the encoder knows no token of this text"
            )
        return np.asarray(rows / norms[:, None], dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes the index; the one that was there stays whole until the last moment.

        Raises:
            IndexFileError: the files could not be written (a full disk).
        """
        folder = Path(folder)
        with self._change:
            live = set(self._labels.values())
            kept = [d if label in live else None for label, d in enumerate(self._documents)]
            number = _next_number(folder)
            graph, documents = f"graph-{number}.hnsw", f"documents-{number}.jsonl"
            try:
                with atomic_file(folder / graph) as temporary:
                    self._graph.save(str(temporary))
                with (
                    atomic_file(folder / documents) as temporary,
                    temporary.open("w", encoding="utf-8") as file,
                ):
                    for document in kept:
                        record = asdict(document) if document else None
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
                manifest = {
                    "schema": 1,
                    "hybridret": _native.__version__,
                    "encoder": self.encoder,
                    "dimension": self.dimension,
                    "similarity": self.similarity,
                    "settings": asdict(self.settings),
                    "languages": list(self._languages),
                    "labels": len(kept),
                    "removed": kept.count(None),
                    # A removed document's language no longer matters.
                    "language_of_label": _run_lengths(
                        [self._languages[d.language] if d else 0 for d in kept]
                    ),
                    "files": {
                        name: {"bytes": (folder / name).stat().st_size,
                               "sha256": sha256(folder / name)}
                        for name in (graph, documents)
                    },
                }  # fmt: skip
                write_json(folder / INDEX_MANIFEST, manifest)
            except (OSError, RuntimeError) as error:
                raise IndexFileError(f"{folder}: the index could not be written: {error}") from None
            for left_over in folder.iterdir():
                name = left_over.name.removeprefix(".")  # a temporary file of a killed save
                if name.startswith(("graph-", "documents-")) and left_over.name not in (
                    graph,
                    documents,
                ):
                    left_over.unlink()

    @classmethod
    def load(cls, folder: str | Path, *, encoder: str | None = None) -> Index:
        """Reads an index.

        Args:
            encoder: fingerprint of the encoder that will make the query vectors.

        Raises:
            IndexFileError: no index there, damaged, or made by another encoder.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        if encoder is not None and manifest["encoder"] != encoder:
            raise IndexFileError(
                f"{folder}: this index was made by another encoder (fingerprint "
                f"{manifest['encoder'] or 'none'}, this one is {encoder}); index the documents "
                f"again"
            )
        for name, expected in manifest["files"].items():
            _check_file(folder / name, expected)
        graph, documents = manifest["files"]
        index = cls(
            manifest["dimension"],
            similarity=manifest["similarity"],
            encoder=manifest["encoder"],
            settings=GraphSettings(**manifest["settings"]),
        )
        index._languages = {name: n for n, name in enumerate(manifest["languages"])}
        with (folder / documents).open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                index._documents.append(Document(**record) if record else None)
        index._labels = {d.document_id: n for n, d in enumerate(index._documents) if d}
        numbers = [n for n, count in manifest["language_of_label"] for _ in range(count)]
        if not len(numbers) == len(index._documents) == manifest["labels"]:
            raise IndexFileError(f"{folder}: damaged: {documents} and {INDEX_MANIFEST} disagree")
        try:
            index._graph.load(str(folder / graph), np.array(numbers, dtype=np.int32))
        except (RuntimeError, ValueError) as error:
            raise IndexFileError(str(error)) from None
        return index


def _run_lengths(values: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return runs


def _next_number(folder: Path) -> int:
    names = [f.stem.rpartition("-")[2] for f in folder.glob("graph-*.hnsw")]
    return 1 + max((int(n) for n in names if n.isdigit()), default=0)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_MANIFEST
    if not path.is_file():
        raise IndexFileError(
            f"{folder}: no index here; make one with 'hybridret index {folder.parent} DOCUMENTS'"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != 1:
            raise IndexFileError(f"{path}: schema {manifest['schema']}; this version reads 1")
        needed = {"encoder", "dimension", "similarity", "settings", "languages", "labels",
                  "language_of_label", "files"}  # fmt: skip
        if not needed <= manifest.keys() or len(manifest["files"]) != 2:
            raise KeyError(", ".join(sorted(needed - manifest.keys())) or "files")
        GraphSettings(**manifest["settings"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise IndexFileError(f"{path}: damaged: {error!r}") from None
    return dict(manifest)


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file() or path.name != Path(path.name).name:
        raise IndexFileError(f"{path}: missing from the index")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise IndexFileError(
            f"{path}: cut short or changed: {size} bytes, expected {expected['bytes']}"
        )
    if sha256(path) != expected["sha256"]:
        raise IndexFileError(f"{path}: damaged: its checksum differs from the manifest's")
