"""Search by text: an exported encoder and its index, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hybridret._files import replayable
from hybridret._progress import progress_bar
from hybridret.data.jsonl import read_documents
from hybridret.data.table import Document
from hybridret.encoder.manifest import INDEX_FOLDER
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.errors import DataError
from hybridret.serving import version1
from hybridret.serving.connections import TIMEOUT
from hybridret.serving.index import Index
from hybridret.serving.inputs import checked
from hybridret.serving.state import GraphSettings
from hybridret.serving.store import DATABASE

_CHUNK = 4096  # documents embedded and added at a time
Known = Literal["refuse", "skip", "replace"]
"""What is done about documents whose id is in the index: an error; those with the same content are
passed over, others an error; they are replaced."""


class Retriever:
    """Searches documents by meaning, across languages. Thread-safe.

    What a method has changed when it returns is on disk; other processes see it.

    >>> retriever = Retriever.load("my-encoder")  # doctest: +SKIP
    >>> retriever.search("Wo liegt Kolkata?", k=3, languages=["en", "hi"])  # doctest: +SKIP
    """

    def __init__(self, encoder: OnnxEncoder, index: Index) -> None:
        self.encoder = encoder
        self.index = index

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        store: str | Path | None = None,
        threads: int = 0,
        timeout: float = TIMEOUT,
    ) -> Retriever:
        """An exported encoder with its index.

        Args:
            store: folder of the index; None: ``index`` in the encoder's folder.
            threads: for ONNX Runtime; 0 for its default (all cores).
            timeout: seconds that a change waits for that of another process.

        Raises:
            ModelError: the folder is not an exported encoder, or it is damaged.
            IndexFileError: there is no index, it is damaged, or made with another encoder.
        """
        encoder = OnnxEncoder(folder, threads=threads)
        index = Index.open(_store(folder, store), encoder=encoder.fingerprint, timeout=timeout)
        return cls(encoder, index)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        store: str | Path | None = None,
        settings: GraphSettings | None = None,
        threads: int = 0,
        timeout: float = TIMEOUT,
    ) -> Retriever:
        """An exported encoder with a new, empty index, which appears whole or not at all.

        Raises:
            ModelError: the folder is not an exported encoder, or it is damaged.
            IndexFileError: an index is there already.
        """
        encoder = OnnxEncoder(folder, threads=threads)
        index = Index.create(
            _store(folder, store),
            dimension=encoder.dimension,
            similarity=encoder.config.similarity,
            encoder=encoder.fingerprint,
            settings=settings,
            timeout=timeout,
        )
        return cls(encoder, index)

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self.index

    def get(self, document_id: str) -> Document | None:
        """The document with an id, or None."""
        return self.index.get(document_id)

    def documents(self) -> Iterator[Document]:
        """All documents, in the order in which they were added."""
        return self.index.documents()

    def add(
        self,
        documents: Iterable[Document],
        *,
        known: Known = "refuse",
        batch_size: int = 32,
        progress: bool = False,
    ) -> int:
        """Embeds and adds documents; returns how many.

        They are embedded and committed 4096 at a time, in bounded memory. After an interruption
        ``known="skip"`` goes on. The ids of a list are all checked before any text is embedded,
        those of another iterable 4096 at a time.

        Raises:
            DataError: a document is invalid, an id is in the index or comes twice, or the encoder's
                vocabulary has none of a text's tokens. Documents of earlier chunks remain added.
            IndexFileError: another process is writing, or the disk is full; as before.
        """
        if known not in ("refuse", "skip", "replace"):
            raise DataError(f"known must be refuse, skip or replace, got {known!r}")
        if isinstance(documents, Document | str) or not isinstance(documents, Iterable):
            raise DataError(f"expected documents, got {type(documents).__name__}")
        total = len(documents) if isinstance(documents, Sequence) else 0
        if total > _CHUNK:
            self._wanted(checked(documents), known)
        return self._add(documents, total, known, batch_size, progress)

    def _add(
        self,
        documents: Iterable[Document],
        total: int,
        known: Known,
        batch_size: int,
        progress: bool,
    ) -> int:
        count, source = 0, iter(documents)
        with progress_bar(total, "Indexing", enabled=progress) as bar:
            while chunk := list(islice(source, _CHUNK)):
                new = self._wanted(checked(chunk), known)
                if new:
                    texts = [d.full_text for d in new]
                    vectors = self.encoder.encode_documents(texts, batch_size=batch_size)
                    if known == "replace":
                        self.index.upsert(new, vectors)
                    else:
                        self.index.add(new, vectors)
                count += len(new)
                bar.update(len(chunk))
        return count

    def upsert(
        self, documents: Iterable[Document], *, batch_size: int = 32, progress: bool = False
    ) -> int:
        """As :meth:`add`, but documents that are there are replaced."""
        return self.add(documents, known="replace", batch_size=batch_size, progress=progress)

    def _wanted(self, documents: list[Document], known: Known) -> list[Document]:
        """Those to embed."""
        ids = [d.document_id for d in documents]
        if known == "replace":
            return documents
        if known == "refuse":
            self.index.check_new(ids)
            return documents
        there = self.index.store.by_id(ids)
        for document in documents:
            before = there.get(document.document_id)
            if before is not None and before != document:
                raise DataError(
                    f"document {document.document_id!r} is in the index with another content; "
                    f"upsert it to replace it"
                )
        return [d for d in documents if d.document_id not in there]

    def add_file(
        self,
        path: str | Path,
        *,
        known: Known = "refuse",
        batch_size: int = 32,
        progress: bool = False,
    ) -> int:
        """Adds the documents of a ``.jsonl`` file, or of a pipe, which is read twice: all of it is
        checked before the first document is added.

        Raises:
            DataError: a line is invalid (the message names file, line and field), or a document is
                in the index; nothing is added. Or see :meth:`add`.
        """
        with replayable(path) as file:
            total, source = 0, iter(read_documents(file))
            while chunk := list(islice(source, _CHUNK)):
                self._wanted(checked(chunk), known)
                total += len(chunk)
            return self._add(read_documents(file), total, known, batch_size, progress)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Deletes documents; later searches no longer return them.

        Raises:
            DataError: an id is not in the index; then nothing is deleted.
        """
        self.index.delete(document_ids)

    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        *,
        languages: Sequence[str] | str | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Any]:
        """The k documents closest in meaning, best first, in any language or only in ``languages``.

        Args:
            query: a text, or several: then a list of lists of :class:`Hit`.
            where: only documents whose metadata are so, such as ``{"year": {"gte": 2024}}``, see
                :mod:`hybridret.serving.filters`.
            exact: compare the query with all documents instead of searching the HNSW graph.

        Raises:
            DataError: the query is empty, k is below 1, or no document has a language or field.
        """
        single = isinstance(query, str)
        texts = [query] if isinstance(query, str) else query
        if isinstance(texts, bytes | Mapping) or not isinstance(texts, Sequence):
            raise DataError(f"the query must be a non-empty string, got {query!r:.60}")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"the query must be a non-empty string, got {text!r:.60}")
        if not texts:
            return []
        vectors = self.encoder.encode_queries(list(texts))
        found = self.index.search(
            vectors, k, languages=languages, where=where, exact=exact, threads=len(texts)
        )
        return found[0] if single else found

    def save(self) -> None:
        """Does nothing: every change is on disk when its method returns."""
        warnings.warn(
            "Retriever.save() does nothing since version 0.2: every change is on disk when its "
            "method returns",
            DeprecationWarning,
            stacklevel=2,
        )


def _store(folder: str | Path, store: str | Path | None) -> Path:
    return Path(folder) / INDEX_FOLDER if store is None else Path(store)


def has_index(folder: str | Path, store: str | Path | None = None) -> bool:
    """Whether there is an index of an encoder."""
    path = _store(folder, store)
    return (path / DATABASE).is_file() or version1.is_index(path)
