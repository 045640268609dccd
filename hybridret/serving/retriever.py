"""Search by text: an exported encoder and its index, without torch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hybridret._files import replayable
from hybridret._progress import progress_bar
from hybridret.data.jsonl import read_documents
from hybridret.data.table import Document
from hybridret.encoder.manifest import INDEX_FOLDER, read_manifest
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.errors import DataError, HybridretError, IndexFileError
from hybridret.serving import version1
from hybridret.serving.change import Embedded, Generation, GenerationGone, NotEmbedded
from hybridret.serving.connections import TIMEOUT
from hybridret.serving.index import Hit, Index, made_with_another
from hybridret.serving.inputs import checked, count, numbers
from hybridret.serving.reindex import drop_others, embed, reindex
from hybridret.serving.state import GraphSettings
from hybridret.serving.store import DATABASE
from hybridret.serving.words import MODES, Mode, Words

_CHUNK = 4096  # documents embedded and added at a time
Known = Literal["refuse", "skip", "replace"]
"""What is done about documents whose id is in the index: an error; those with the same content are
passed over, others an error; they are replaced."""
Reranker = Callable[[str, list[Hit]], Any]
"""A query and its hits -> one score for each hit, higher is better."""


class Retriever:
    """Searches documents by meaning, by words, or both, across languages. Thread-safe.

    What a method has changed when it returns is on disk; other processes see it. After a change of
    the encoder (:meth:`reindex`), by whatever process, each query is embedded and searched with one
    of them: the old one until the new one is loaded.

    >>> retriever = Retriever.load("my-encoder")  # doctest: +SKIP
    >>> retriever.search("Wo liegt Kolkata?", k=3, languages=["en", "hi"])  # doctest: +SKIP
    """

    def __init__(self, encoder: OnnxEncoder, index: Index, *, threads: int = 0) -> None:
        self._threads = threads
        self._encoders = {encoder.fingerprint: encoder}
        self._loading = threading.Lock()
        self._failed: int | None = None  # generation whose encoder could not be loaded
        self._pair = self._paired(encoder, index)

    @property
    def encoder(self) -> OnnxEncoder:
        """That which queries are embedded with."""
        return self._pair[0]

    @property
    def index(self) -> Index:
        """Of that encoder's vectors."""
        return self._pair[1]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        store: str | Path | None = None,
        threads: int = 0,
        timeout: float = TIMEOUT,
    ) -> Retriever:
        """An index with the encoder that it is searched with.

        Args:
            folder: of an exported encoder, or of a store, which has its encoder.
            store: folder of the index; None: ``index`` in the encoder's folder.
            threads: for ONNX Runtime; 0 for its default (all cores).
            timeout: seconds that a change waits for that of another process.

        Raises:
            ModelError: the folder is not an exported encoder, or it is damaged.
            IndexFileError: there is no index, it is damaged, or made with another encoder.
        """
        folder, path = Path(folder), store_folder(folder, store)
        own = "" if path == folder else read_manifest(folder, check=False)["fingerprint"]
        index = Index.open(path, timeout=timeout)
        if own and own not in index.store.encoders():
            raise made_with_another(path, own, index.encoder)
        generation = index.store.head(index.number).generation
        source = folder if own == index.encoder else path / generation.folder
        encoder = OnnxEncoder(source, threads=threads)
        _keep(index, encoder)
        return cls(encoder, index, threads=threads)

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
            store_folder(folder, store),
            dimension=encoder.dimension,
            similarity=encoder.config.similarity,
            encoder=encoder.fingerprint,
            encoder_folder=encoder.folder,
            settings=settings,
            timeout=timeout,
        )
        return cls(encoder, index, threads=threads)

    def __len__(self) -> int:
        return len(self._current()[1])

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
                    self._write(new, batch_size, replacing=known == "replace")
                count += len(new)
                bar.update(len(chunk))
        return count

    def _write(self, documents: list[Document], batch_size: int, *, replacing: bool) -> None:
        """Adds documents with their vectors of every encoder of the store."""
        embedded: dict[int, Embedded] = {}
        while True:
            for generation in self.index.store.generations():
                if generation.state == "ready" and generation.number not in embedded:
                    encoder = self._encoder(generation)
                    embedded[generation.number] = embed(
                        encoder, generation, documents, batch_size=batch_size
                    )
            try:
                self._current()[1].write(documents, embedded, replacing=replacing)
                return
            except NotEmbedded:
                continue  # another process has begun to use another encoder

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
            self._current()[1].check_new(ids)
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
        recall: float | None = None,
        exact: bool = False,
        mode: Mode = "dense",
        rerank: Reranker | None = None,
        depth: int = 100,
    ) -> list[Any]:
        """The k best documents, best first, in any language or only in ``languages``.

        Args:
            query: a text, or several: then a list of lists of :class:`Hit`.
            where: only documents whose metadata are so, such as ``{"year": {"gte": 2024}}``, see
                :mod:`hybridret.serving.filters`.
            recall: share of the best documents that the HNSW graph has to find, as measured on the
                index, such as .99; None: the settings' ``ef_search``.
            exact: compare the query with all documents instead of searching the HNSW graph.
            mode: ``dense``: closest in meaning; ``words``: with the query's words, see
                :mod:`hybridret.serving.words`; ``hybrid``: both rankings, fused.
            rerank: gives a query's hits new scores; they are sorted by these.
            depth: hits that are reranked, if more than k.

        Raises:
            DataError: the query is empty, k is below 1, no document has a language or field, the
                index has no words, or a reranker's scores are not one number for each hit.
        """
        if mode not in MODES:
            raise DataError(f"mode must be dense, words or hybrid, got {mode!r}")
        if rerank is not None:
            depth = max(count("k", k), count("depth", depth))

        single = isinstance(query, str)
        texts = [query] if isinstance(query, str) else query
        if isinstance(texts, bytes | Mapping) or not isinstance(texts, Sequence):
            raise DataError(f"the query must be a non-empty string, got {query!r:.60}")
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"the query must be a non-empty string, got {text!r:.60}")
        if not texts:
            return []
        while True:
            encoder, index = self._current()
            vectors = encoder.encode_queries(list(texts)) if mode != "words" else None
            try:
                found = index.search(
                    vectors,
                    k if rerank is None else depth,
                    words=None if mode == "dense" else list(texts),
                    languages=languages,
                    where=where,
                    recall=recall,
                    exact=exact,
                    threads=len(texts),
                )
            except GenerationGone:
                continue  # dropped meanwhile
            break
        if rerank is not None:
            found = [reranked(rerank, q, hits)[:k] for q, hits in zip(texts, found, strict=True)]
        return found[0] if single else found

    def reindex(
        self,
        folder: str | Path,
        *,
        drop: bool = False,
        batch_size: int = 32,
        progress: bool = False,
    ) -> int:
        """Changes the encoder: embeds all documents with another one, from their stored texts, then
        has every process search with it. Returns how many documents were embedded.

        Searches and changes go on meanwhile. After an interruption the same call goes on. New
        documents are embedded with both encoders from then on, so that a change back takes no
        time, until one is dropped.

        Args:
            folder: an exported encoder.
            drop: remove the vectors of all other encoders in the end.

        Raises:
            ModelError: the folder is not an exported encoder, or it is damaged.
            IndexFileError: another process is writing, or is changing to another encoder.
            DataError: the encoder's vocabulary has none of a text's tokens.
        """
        encoder = OnnxEncoder(folder, threads=self._threads)
        store = self.index.store
        count = reindex(store, encoder, batch_size=batch_size, progress=progress)
        self._load(store.head().active, encoder)
        if drop:
            drop_others(store)
        return count

    # ----------------------------------------------------------------- the encoder in use

    def _paired(self, encoder: OnnxEncoder, index: Index) -> tuple[OnnxEncoder, Index]:
        if index.words is not None:
            index.words = Words(encoder.tokenizer)
        return encoder, index

    def _current(self) -> tuple[OnnxEncoder, Index]:
        """The encoder to use and its index. Of a change of the encoder the new one is loaded
        meanwhile."""
        index = self._pair[1]
        try:
            active = index.active
        except GenerationGone:
            self._load(index.store.head().active)
            return self._pair
        new = active not in (index.number, self._failed)
        if new and self._loading.acquire(blocking=False):
            self._loading.release()
            threading.Thread(target=self._load_beside, args=(active,), daemon=True).start()
        return self._pair

    def _load_beside(self, number: int) -> None:
        try:
            self._load(number)
        except HybridretError as error:
            self._failed = number
            warnings.warn(f"the old encoder stays in use: {error}", stacklevel=2)

    def _load(self, number: int, encoder: OnnxEncoder | None = None) -> None:
        """Has queries embedded and searched with another generation."""
        with self._loading:
            if self._pair[1].number == number:
                return
            store = self._pair[1].store
            encoder = encoder or self._encoder(store.head(number).generation)
            self._encoders[encoder.fingerprint] = encoder
            self._pair = self._paired(encoder, Index(store, number))

    def _encoder(self, generation: Generation) -> OnnxEncoder:
        """Of a generation; loaded once."""
        known = self._encoders.get(generation.encoder)
        if known is None:
            folder = self.index.store.folder / generation.folder
            known = OnnxEncoder(folder, threads=self._threads)
            self._encoders[generation.encoder] = known
        return known

    def save(self) -> None:
        """Does nothing: every change is on disk when its method returns."""
        warnings.warn(
            "Retriever.save() does nothing since version 0.2: every change is on disk when its "
            "method returns",
            DeprecationWarning,
            stacklevel=2,
        )


def reranked(rerank: Reranker, query: str, hits: list[Hit]) -> list[Hit]:
    """Hits with a reranker's scores, best first; of equal scores those that came first.

    Raises:
        DataError: the scores are not one finite number for each hit.
    """
    if not hits:
        return hits
    scores = numbers(rerank(query, hits))
    if scores.shape != (len(hits),) or not np.isfinite(scores).all():
        raise DataError(
            f"a reranker must give one finite number for each of the {len(hits)} hits, got shape "
            f"{list(scores.shape)}"
        )
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return [replace(hits[n], score=float(scores[n])) for n in order]


def _keep(index: Index, encoder: OnnxEncoder) -> None:
    """Copies an encoder into the store of an index that was converted from version 0.1."""
    store, generation = index.store, index.store.head(index.number).generation
    if not (store.folder / generation.folder).is_dir():
        with suppress(IndexFileError), store.change() as change:
            change.keep(generation, encoder.folder)


def store_folder(folder: str | Path, store: str | Path | None = None) -> Path:
    """The folder of an index.

    Args:
        folder: of an exported encoder, or of a store.
        store: where the index is, if it is elsewhere.
    """
    if store is not None:
        return Path(store)
    folder = Path(folder)
    return folder if (folder / DATABASE).is_file() else folder / INDEX_FOLDER


def has_index(folder: str | Path, store: str | Path | None = None) -> bool:
    """Whether there is an index of an encoder."""
    path = store_folder(folder, store)
    return (path / DATABASE).is_file() or version1.is_index(path)
