"""An index on disk: an HNSW graph of vectors, and their documents.

::

    index/manifest.json           names, sizes and checksums of the files, the encoder's
                                  fingerprint, the graph's settings
    index/graph-<n>.hnsw          vectors and links
    index/documents-<n>.jsonl     one line per document, in the order of the graph's labels

New files get a new number, and the manifest is replaced last, in one step: a crash at any moment
leaves the old index intact. Every file is compared with its checksum before it is used; pickle is
never used.

One graph contains all languages. If a search covers few documents (one rare language), it is an
exact scan.

HNSW has lower recall if many vectors are equal: with 1000 copies of one vector among 5000, the top
document was correct for 87 % of the queries, without copies for 99 %. ``exact=True`` finds all.
"""

from __future__ import annotations

import fcntl
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridret import _native
from hybridret._files import atomic_file, check_files, checksum, read_json, write_json
from hybridret._types import Similarity, Vectors
from hybridret.data.table import Document
from hybridret.errors import DataError, IndexFileError

INDEX_MANIFEST = "manifest.json"
# Files written by a save; names with a leading point are temporary files of a killed save.
_INDEX_FILE = re.compile(
    r"(graph-\d+\.hnsw|documents-\d+\.jsonl)|\.(graph|documents|manifest)[-.].*"
)
MAX_NORM = 1e18
"""Largest vector norm for inner products: products of longer vectors may overflow float32."""


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

    Attributes:
        M: links per document and level (level 0: twice as many).
        ef_construction, ef_search: size of the candidate list when building and when searching;
            larger values cost time and raise recall.
        seed: for the levels of the documents. One thread builds the same graph from the same seed;
            with several threads the graph depends on their timing.

    Raises:
        DataError: a value is not an integer or out of range.
    """

    M: int = 16
    ef_construction: int = 200
    ef_search: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"M": 2, "ef_construction": 1, "ef_search": 1, "seed": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value < 2**63:
                raise DataError(
                    f"{name} must be an integer of at least {minimum} and below 2^63, got {value!r}"
                )


class Index:
    """Documents with their vectors. Thread-safe: searches run in parallel, changes one at a time.

    Args:
        dimension: of the vectors.
        similarity: ``cosine`` normalises every vector, ``dot`` uses them unchanged.
        encoder: fingerprint of the encoder that computes the vectors.

    Raises:
        DataError: dimension or similarity is invalid.
    """

    def __init__(
        self,
        dimension: int,
        *,
        similarity: Similarity = "cosine",
        encoder: str = "",
        settings: GraphSettings | None = None,
    ) -> None:
        if type(dimension) is not int or dimension < 1:
            raise DataError(f"dimension must be an integer of at least 1, got {dimension!r}")
        if similarity not in ("cosine", "dot"):
            raise DataError(f"similarity must be cosine or dot, got {similarity!r}")
        self.dimension = dimension
        self.similarity = similarity
        self.encoder = encoder
        self.settings = settings or GraphSettings()
        self._graph = _native.HnswIndex(dimension, **asdict(self.settings))
        # By label. Deleted documents are kept until the next load: a search may be using them.
        self._documents: list[Document | None] = []
        self._labels: dict[str, int] = {}
        self._languages: dict[str, int] = {}  # the graph's number for each, even if unused
        self._counts: Counter[str] = Counter()  # documents in each language
        self._change = threading.RLock()

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, document_id: str) -> bool:
        return document_id in self._labels

    @property
    def languages(self) -> dict[str, int]:
        """Number of documents in each language."""
        return {language: self._counts[language] for language in sorted(self._counts)}

    def add(self, documents: Sequence[Document], vectors: Vectors, *, threads: int = 0) -> None:
        """Adds documents with their vectors, float32 [N, dimension].

        Raises:
            DataError: an id is already in the index or a duplicate, or a vector has the wrong
                dimension, a value that is not finite, or (for cosine) length 0. Nothing is added.
        """
        rows = self._prepared(vectors, [f"document {d.document_id!r}" for d in documents])
        with self._change:
            new: set[str] = set()
            for document in documents:
                _check_text(document)
                if document.document_id in new:
                    raise DataError(f"document id {document.document_id!r} is a duplicate")
                if document.document_id in self._labels:
                    raise DataError(
                        f"document {document.document_id!r} is already in the index; "
                        f"delete it first to replace it (in a file, a line without an id has its "
                        f"number as id)"
                    )
                new.add(document.document_id)
            numbers = [
                self._languages.setdefault(d.language, len(self._languages)) for d in documents
            ]
            first = len(self._documents)
            self._documents.extend(documents)
            try:
                self._graph.add(rows, np.array(numbers, dtype=np.int32), threads=threads)
            finally:
                # An interrupt may come after the graph was changed: keep the documents in step.
                if self._graph.size == len(self._documents):
                    for label, document in enumerate(documents, first):
                        self._labels[document.document_id] = label
                    self._counts.update(d.language for d in documents)
                else:
                    del self._documents[first:]

    def delete(self, document_ids: Iterable[str]) -> None:
        """Deletes documents; later searches no longer return them.

        Raises:
            DataError: an id is not in the index; then nothing is deleted.
        """
        with self._change:
            if isinstance(document_ids, str):
                document_ids = [document_ids]
            ids = list(dict.fromkeys(document_ids))
            for document_id in ids:
                if document_id not in self._labels:
                    raise DataError(f"no document {document_id!r} in the index")
            for document_id in ids:
                label = self._labels[document_id]
                self._graph.remove(label)
                del self._labels[document_id]
                document = self._documents[label]
                assert document is not None
                self._counts[document.language] -= 1
            self._counts += Counter()  # removes languages without documents

    def search(
        self,
        vector: Vectors,
        k: int = 10,
        *,
        languages: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The k documents most similar to a query vector, float32 [dimension], best first.

        Args:
            languages: return only documents in these languages; None for all.
            exact: compare the query with all of them instead of searching the graph.

        Raises:
            DataError: k is below 1, a language has no documents, or the vector is invalid (see
                :meth:`add`).
        """
        if not isinstance(k, int) or k < 1:
            raise DataError(f"k must be an integer of at least 1, got {k}")
        query = self._prepared(np.asarray(vector)[None], ["the query"])[0]
        numbers = None if languages is None else [self._language_number(x) for x in languages]
        labels, scores = self._graph.search(
            query, min(k, max(1, len(self))), languages=numbers, exact=exact
        )
        hits = []
        for label, value in zip(labels.tolist(), scores.tolist(), strict=True):
            document = self._documents[label]
            assert document is not None
            hits.append(
                Hit(document.document_id, document.text, document.language, value, document.title)
            )
        return hits

    def _language_number(self, language: str) -> int:
        if not self._counts[language]:
            known = ", ".join(self.languages) or "none"
            raise DataError(f"no document in language {language!r}; the index has {known}")
        return self._languages[language]

    def _prepared(self, vectors: Vectors, names: list[str]) -> Vectors:
        """Checked float32 vectors, normalised for the cosine; ``names`` are for the messages."""
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
            if norms.max(initial=0) > MAX_NORM:
                name = names[int(np.argmax(norms))]
                raise DataError(
                    f"the vector of {name} is longer than {MAX_NORM:g}: its scores would overflow"
                )
            return rows
        if not norms.all():
            name = names[int(np.argmin(norms))]
            raise DataError(
                f"the vector of {name} is zero: the encoder's vocabulary has none of its tokens"
            )
        return np.asarray(rows / norms[:, None], dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes the index; it replaces the previous one in one step, when it is complete.

        Raises:
            IndexFileError: the files could not be written (e.g. the disk is full).
        """
        folder = Path(folder)
        with self._change:
            if self._graph.size != len(self._documents):
                raise IndexFileError(
                    f"a change of the index in memory was interrupted, so it cannot be saved; "
                    f"load {folder} again"
                )
            try:
                with _save_lock(folder):
                    self._write(folder)
            except (OSError, RuntimeError) as error:
                raise IndexFileError(f"{folder}: the index could not be written: {error}") from None

    def _write(self, folder: Path) -> None:
        live = set(self._labels.values())
        kept = [d if label in live else None for label, d in enumerate(self._documents)]
        number = _next_number(folder)
        graph, documents = f"graph-{number}.hnsw", f"documents-{number}.jsonl"
        files = {}
        with atomic_file(folder / graph) as temporary:
            self._graph.save(str(temporary))
            files[graph] = checksum(temporary)
        with atomic_file(folder / documents) as temporary:
            with temporary.open("w", encoding="utf-8") as lines:
                for document in kept:
                    record = asdict(document) if document else None
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            files[documents] = checksum(temporary)
        # The language of a removed document is not used: any number will do.
        numbers = [self._languages[d.language] if d else 0 for d in kept]
        manifest = {
            "schema": 1,
            "hybridret": _native.__version__,
            "encoder": self.encoder,
            "dimension": self.dimension,
            "similarity": self.similarity,
            "settings": _renamed(asdict(self.settings), {"M": "links"}),
            "languages": list(self._languages),
            "labels": len(kept),
            "removed": kept.count(None),
            "language_of_label": _run_lengths(numbers),
            "graph": graph,
            "documents": documents,
            "files": files,
        }
        write_json(folder / INDEX_MANIFEST, manifest)
        for file in folder.iterdir():  # remove the files of earlier and of killed saves
            if _INDEX_FILE.fullmatch(file.name) and file.name not in files:
                with suppress(OSError):
                    file.unlink()

    @classmethod
    def load(cls, folder: str | Path, *, encoder: str | None = None) -> Index:
        """Reads an index.

        Args:
            encoder: fingerprint of the encoder that will compute the query vectors; None: any.

        Raises:
            IndexFileError: no such index, it is damaged, or it was made with another encoder.
        """
        folder = Path(folder)
        for _ in range(20):
            manifest = _read_manifest(folder)
            try:
                return cls._read(folder, manifest, encoder)
            except (IndexFileError, FileNotFoundError):
                # Another process may have saved in the meantime and removed these files: try again.
                if _read_manifest(folder) == manifest:
                    raise
        raise IndexFileError(f"{folder}: other processes keep replacing the index; try again later")

    @classmethod
    def _read(cls, folder: Path, manifest: dict[str, Any], encoder: str | None) -> Index:
        if encoder is not None and manifest["encoder"] != encoder:
            raise IndexFileError(
                f"{folder}: this index was made with another encoder (fingerprint "
                f"{manifest['encoder'] or 'none'}, this encoder has {encoder}); index the "
                f"documents again"
            )
        try:
            graph, documents = manifest["graph"], manifest["documents"]
            for name in (graph, documents):
                if not _INDEX_FILE.fullmatch(name):
                    raise IndexFileError(f"{folder}: damaged: {name!r} is not a file of an index")
            expected = {name: manifest["files"][name] for name in (graph, documents)}
            check_files(folder, expected, IndexFileError)
            index = cls(
                manifest["dimension"],
                similarity=manifest["similarity"],
                encoder=manifest["encoder"],
                settings=GraphSettings(**_renamed(manifest["settings"], {"links": "M"})),
            )
            index._languages = {name: n for n, name in enumerate(manifest["languages"])}
            with (folder / documents).open(encoding="utf-8") as file:
                for line in file:
                    record = json.loads(line)
                    index._documents.append(Document(**record) if record else None)
            index._labels = {d.document_id: n for n, d in enumerate(index._documents) if d}
            index._counts.update(d.language for d in index._documents if d)
            runs = np.array(manifest["language_of_label"], dtype=np.int64).reshape(-1, 2)
            if runs[:, 1].sum() != len(index._documents):
                raise ValueError(f"{documents} has {len(index._documents)} lines")
            index._graph.load(
                str(folder / graph), np.repeat(runs[:, 0], runs[:, 1]).astype(np.int32)
            )
            if index._graph.removed() != [n for n, d in enumerate(index._documents) if not d]:
                raise ValueError(f"{graph} and {documents} differ in the documents removed")
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, IndexFileError):
                raise
            raise IndexFileError(f"{folder}: damaged: {error}") from None
        return index


def _check_text(document: Document) -> None:
    try:
        "".join((document.document_id, document.text, document.language, document.title)).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"document {document.document_id!r} contains a lone surrogate, which is not a valid "
            f"character: {error.reason}"
        ) from None


@contextmanager
def _save_lock(folder: Path) -> Iterator[None]:
    """Only one process at a time can hold it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Manifests of schema 1 call M ``links``."""
    return {names.get(name, name): value for name, value in values.items()}


def _run_lengths(values: list[int]) -> list[tuple[int, int]]:
    """(value, number of repetitions) of consecutive equal values."""
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
            f"{folder}: no index here; create one with 'hybridret index {folder.parent} DOCUMENTS'"
        )
    manifest = read_json(path, IndexFileError)
    if not isinstance(manifest, dict) or not {"schema", "encoder"} <= manifest.keys():
        raise IndexFileError(f"{path}: damaged: not the manifest of an index")
    if manifest["schema"] != 1:
        raise IndexFileError(
            f"{path}: schema {manifest['schema']}, but this version reads schema 1"
        )
    return manifest
