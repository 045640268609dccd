"""Search by text: an exported encoder and its index, without torch."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from hybridret._files import replayable
from hybridret._progress import progress_bar
from hybridret.data.jsonl import read_documents
from hybridret.data.table import Document
from hybridret.encoder.manifest import INDEX_FOLDER, read_manifest
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.errors import DataError, IndexFileError, ModelError
from hybridret.serving import version1
from hybridret.serving.change import Embedded, Generation, GenerationGone, NotEmbedded
from hybridret.serving.connections import TIMEOUT, after_fork
from hybridret.serving.index import Hit, Index, made_with_another, other_encoder
from hybridret.serving.inputs import checked, count, numbers, queries_of
from hybridret.serving.reindex import embed, name_the_encoder, reindex
from hybridret.serving.state import GraphSettings
from hybridret.serving.store import DATABASE
from hybridret.serving.words import MODES, Mode, Words

_CHUNK = 4096  # documents embedded and added at a time
_RETRY = 60.0  # seconds until an encoder is loaded again that could not be loaded
Known = Literal["refuse", "skip", "replace"]
"""What is done about documents whose id is in the index: an error; those with the same content are
passed over, others an error; they are replaced."""
Reranker = Callable[[str, list[Hit]], Any]
"""A query and its hits -> one score for each hit, higher is better."""


class SearchOptions(TypedDict, total=False):
    """Of :meth:`Retriever.search`."""

    languages: Sequence[str] | str | None
    where: Mapping[str, Any] | None
    recall: float | None
    exact: bool
    mode: Mode
    rerank: Reranker | None
    depth: int


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
        self._failed = (0, 0.0)  # generation whose encoder could not be loaded, and when
        self._pair = self._paired(encoder, index)
        self._forked()
        after_fork(self._forked)

    def _forked(self) -> None:
        """In a child: another thread may have held the lock."""
        self._loading = threading.Lock()

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
        while True:
            index = Index.open(path, timeout=timeout)
            if own and own not in index.store.encoders():
                raise made_with_another(path, own, index.encoder)
            generation = index.store.head(index.number).generation
            source = folder if own == index.encoder else path / generation.folder
            try:
                encoder = OnnxEncoder(source, threads=threads)
            except (ModelError, OSError):
                if index.store.head().active != generation.number:
                    continue  # the encoder was changed meanwhile
                raise
            if encoder.fingerprint != generation.encoder:
                raise other_encoder(source, encoder.fingerprint)
            with suppress(IndexFileError):  # of an index that was converted, or that is read-only
                index.store.keep(encoder.folder, encoder.fingerprint)
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
        return len(self.current()[1])

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
            try:
                index = self.current()[1]
                for generation in index.store.generations():
                    if generation.state == "ready" and generation.number not in embedded:
                        embedded[generation.number] = self._embedded(
                            generation, documents, batch_size, active=index.active
                        )
                index.write(documents, embedded, replacing=replacing)
                return
            except (NotEmbedded, GenerationGone):
                continue  # encoders have come or gone meanwhile

    def _embedded(
        self, generation: Generation, documents: list[Document], batch_size: int, *, active: int
    ) -> Embedded:
        encoder = self._encoder(generation)
        try:
            return embed(encoder, generation, documents, batch_size=batch_size)
        except DataError as error:
            if generation.number == active:
                raise
            raise name_the_encoder(error, generation) from None

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
            self.current()[1].check_new(ids)
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

    @overload  # a text is a sequence of texts, too: the first that fits is taken
    def search(  # type: ignore[overload-overlap]
        self, query: str, k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[Hit]: ...

    @overload
    def search(
        self, query: Sequence[str], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]: ...

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

        texts, single = queries_of(query)
        if not texts:
            return []
        while True:
            try:
                encoder, index = self.current()
                found = index.search(
                    None if mode == "words" else encoder.encode_queries(texts),
                    k if rerank is None else depth,
                    words=None if mode == "dense" else texts,
                    languages=languages,
                    where=where,
                    recall=recall,
                    exact=exact,
                    threads=len(texts),
                )
                break
            except GenerationGone:
                continue  # its encoder was dropped meanwhile
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
        done = reindex(
            self.index.store, encoder, drop=drop, batch_size=batch_size, progress=progress
        )
        with suppress(GenerationGone):  # by another process that has changed it again
            self._load(done.generation, encoder)
        return done.documents

    # ----------------------------------------------------------------- the encoder in use

    def _paired(self, encoder: OnnxEncoder, index: Index) -> tuple[OnnxEncoder, Index]:
        if index.has_words:
            index.words = Words(encoder.tokenizer)
        return encoder, index

    def current(self) -> tuple[OnnxEncoder, Index]:
        """The encoder to embed queries with, and the index to search with their vectors.

        They belong together: take both for each query. After a change of the encoder the former
        ones are given until the new one is loaded, if they were not dropped.
        """
        index = self._pair[1]
        try:
            active = index.active
        except GenerationGone:
            self._load(index.store.head().active)
            return self._pair
        number, at = self._failed
        failed = active == number and time.monotonic() < at + _RETRY
        if active != index.number and not failed and self._loading.acquire(blocking=False):
            self._loading.release()
            threading.Thread(target=self._load_beside, args=(active,), daemon=True).start()
        return self._pair

    def _load_beside(self, number: int) -> None:
        try:
            self._load(number)
        except Exception as error:
            self._failed = number, time.monotonic()
            warnings.warn(f"the old encoder stays in use: {error}", stacklevel=2)

    def _load(self, number: int, encoder: OnnxEncoder | None = None) -> None:
        """Has queries embedded and searched with another generation."""
        with self._loading:
            if self._pair[1].number == number:
                return
            store = self._pair[1].store
            generation = store.head(number).generation
            encoder = encoder or self._encoder(generation)
            self._pair = self._paired(encoder, Index(store, number))
            there = {g.encoder for g in store.generations()} | {generation.encoder}
            self._encoders[generation.encoder] = encoder
            self._encoders = {f: e for f, e in self._encoders.items() if f in there}

    def _encoder(self, generation: Generation) -> OnnxEncoder:
        """Of a generation; loaded once.

        Raises:
            GenerationGone: it was dropped.
        """
        known = self._encoders.get(generation.encoder)
        if known is not None:
            return known
        store = self.index.store
        folder = store.folder / generation.folder
        try:
            encoder = OnnxEncoder(folder, threads=self._threads)
        except (ModelError, OSError):
            store.head(generation.number)  # whether it is still there
            raise
        if encoder.fingerprint != generation.encoder:
            raise other_encoder(folder, encoder.fingerprint)
        self._encoders[generation.encoder] = encoder
        return encoder

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


def store_folder(folder: str | Path, store: str | Path | None = None) -> Path:
    """The folder of an index.

    Args:
        folder: of an exported encoder, or of a store.
        store: where the index is, if it is elsewhere.
    """
    if store is not None:
        return Path(store)
    folder = Path(folder)
    is_store = (folder / DATABASE).is_file() or version1.is_index(folder)
    return folder if is_store else folder / INDEX_FOLDER


def has_index(folder: str | Path, store: str | Path | None = None) -> bool:
    """Whether there is an index of an encoder."""
    path = store_folder(folder, store)
    return (path / DATABASE).is_file() or version1.is_index(path)
