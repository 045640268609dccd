"""A store that is searched: by vectors, in all languages or some, where metadata say so.

A search sees what was committed before it began, by whatever process. What is held in memory is
made from the store: 8-bit codes of the vectors, the language of each place, metadata once a filter
asks for them. A graph links most places; those that came after it are compared one by one, and so
are all of them where a filter leaves few. The graph is made again where it is missing or damaged.
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._files import put, sha256, temporary_file
from hybridret._types import Ints, Similarity, Vectors
from hybridret.data.table import Document
from hybridret.encoder.manifest import read_manifest
from hybridret.encoder.tokenization import TOKENIZER_FILE, Tokenizer
from hybridret.errors import (
    DataError,
    IndexFileError,
    KnownDocumentError,
    UnknownDocumentError,
)
from hybridret.serving import version1
from hybridret.serving.change import Change, Embedded, GenerationGone
from hybridret.serving.connections import TIMEOUT, after_fork
from hybridret.serving.filters import parsed
from hybridret.serving.inputs import (
    checked,
    count,
    ids_of,
    numbers,
    prepared,
    queries_of,
    tags_of,
)
from hybridret.serving.recall import KEPT_BACK, SAMPLE, measured
from hybridret.serving.state import GraphSettings, State
from hybridret.serving.store import DATABASE, Store
from hybridret.serving.words import DEPTH, Words, fuse

_UNLINKED = 4096  # places that are not worth a graph: comparing them takes as long as a walk
_GROWTH = 0.1  # share of the places that may wait for the next graph
_TOGETHER = 512  # places that are linked at a time: searches wait for no longer
_DEAD, _DEAD_SHARE = 1000, 0.3  # deleted documents from which a store compacts itself


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        score: higher is better; the cosine or the inner product, BM25 in a search by words, the sum
            of reciprocal ranks where both are fused, or what a reranker has given.
    """

    document_id: str
    text: str
    language: str
    score: float
    title: str = ""
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)


class Index:
    """Documents with their vectors, in a folder. Thread-safe; processes may share the folder.

    What a method has changed when it returns is on disk; nothing needs to be saved.

    >>> index = Index.create("store", dimension=384)  # doctest: +SKIP
    >>> index.add(documents, vectors)  # doctest: +SKIP
    >>> index.search(vector, k=3, languages=["de"], where={"year": {"gte": 2024}})  # doctest: +SKIP
    """

    def __init__(self, store: Store, number: int | None = None) -> None:
        self.store = store
        try:
            self.settings = GraphSettings(**store.settings()["graph"])
            head = store.head(number)
            if head.generation.similarity not in ("cosine", "dot"):
                raise ValueError(f"similarity {head.generation.similarity!r}")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, IndexFileError):
                raise
            raise IndexFileError(f"{store.folder / DATABASE}: damaged: {error!r}") from None
        self.number = head.generation.number
        """Of the generation (the vectors of one encoder) that is searched."""
        self._words: Words | None = None
        self._forked()
        after_fork(self._forked)
        self._state = State(store, head, self.settings)
        self._advance()

    def _forked(self) -> None:
        """In a child: other threads may have held the locks."""
        self._seen = threading.local()  # the version of the database that a thread has looked at
        self._refreshing = threading.Lock()
        self._linking = threading.Lock()
        state = getattr(self, "_state", None)
        if state is not None:
            state.unlock()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        dimension: int,
        similarity: Similarity = "cosine",
        encoder: str = "",
        encoder_folder: Path | None = None,
        settings: GraphSettings | None = None,
        timeout: float = TIMEOUT,
    ) -> Index:
        """An empty index in a new folder, which appears whole or not at all.

        Args:
            dimension: of the vectors.
            similarity: ``cosine`` normalises every vector, ``dot`` uses them unchanged.
            encoder: fingerprint of the encoder that computes the vectors.
            encoder_folder: of that encoder, if it was exported: it is kept in the store, and
                documents can be searched by words, too.
            timeout: seconds that a change waits for that of another process.

        Raises:
            DataError: dimension or similarity is invalid.
            IndexFileError: there is something in the folder, or it cannot be written.
        """
        if type(dimension) is not int or not 1 <= dimension <= 2**20:
            raise DataError(f"dimension must be an integer from 1 to 2^20, got {dimension!r}")
        if similarity not in ("cosine", "dot"):
            raise DataError(f"similarity must be cosine or dot, got {similarity!r}")
        return cls(
            Store.create(
                folder,
                dimension=dimension,
                similarity=similarity,
                encoder=encoder,
                encoder_folder=encoder_folder,
                settings={"graph": asdict(settings or GraphSettings())},
                timeout=timeout,
            )
        )

    @classmethod
    def open(
        cls, folder: str | Path, *, encoder: str | None = None, timeout: float = TIMEOUT
    ) -> Index:
        """The index in a folder; one of version 0.1 is converted.

        Args:
            encoder: fingerprint of the encoder that will compute the query vectors; None: the one
                that the index is searched with now.

        Raises:
            IndexFileError: no index is there, it is damaged, or made with another encoder.
        """
        folder = Path(folder)
        if version1.is_index(folder):
            _convert(folder)
        store = Store(folder, timeout=timeout)
        if encoder is None:
            return cls(store)
        ready = {g.encoder: g.number for g in store.generations() if g.state == "ready"}
        if encoder not in ready:
            raise made_with_another(folder, encoder, store.head().generation.encoder)
        return cls(store, ready[encoder])

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder whose vectors are searched."""
        return self._state.generation.encoder

    @property
    def dimension(self) -> int:
        return self._state.generation.dimension

    @property
    def similarity(self) -> Similarity:
        return self._state.generation.similarity

    @property
    def active(self) -> int:
        """Number of the generation that is to be searched: another after a change of encoder."""
        return self._refresh().head.active

    @property
    def has_words(self) -> bool:
        """Whether documents can be searched by words."""
        return bool(self._state.generation.words)

    @property
    def words(self) -> Words | None:
        """What the words of a text are; None: the index has none."""
        generation = self._state.generation
        if not self.has_words:
            return None
        if self._words is None:
            file = self.store.folder / generation.folder / TOKENIZER_FILE
            self._words = Words(Tokenizer.from_file(file, max_length=1 << 20))
        return self._words

    @words.setter
    def words(self, words: Words) -> None:
        self._words = words

    def __len__(self) -> int:
        return self._refresh().head.live

    def __contains__(self, document_id: object) -> bool:
        try:
            return isinstance(document_id, str) and self.get(document_id) is not None
        except DataError:  # not valid text
            return False

    def get(self, document_id: str) -> Document | None:
        """The document with an id, or None."""
        (name,) = ids_of([document_id])
        return self.store.by_id([name]).get(name)

    def documents(self) -> Iterator[Document]:
        """All documents, in the order in which they were added."""
        return self.store.all()

    @property
    def languages(self) -> dict[str, int]:
        """Number of documents in each language."""
        return self._refresh().languages

    def stats(self) -> dict[str, Any]:
        """What is in the index, by name, as ``hybridret stats`` prints it."""
        state = self._refresh()
        return {
            "documents": state.head.live,
            "deleted": state.size - state.head.live,
            "in the graph": state.linked,
            "recall@10 by ef": {
                str(ef): round(found, 4) for ef, found in sorted(state.measured.items())
            },
            "languages": self.languages,
            "fields": state.fields,
            "dimension": self.dimension,
            "similarity": self.similarity,
            "encoder": self.encoder,
            "other encoders": {
                f"{g.encoder} ({g.state})": g.places
                for g in self.store.generations()
                if g.number != self.number
            },
            "words": "yes" if self.has_words else "no",
            "bytes": self.store.bytes(),
            "damaged": state.damaged or "nothing",
        }

    # ------------------------------------------------------------------------------- changes

    def add(self, documents: Sequence[Document], vectors: Vectors, *, threads: int = 0) -> None:
        """Adds documents with their vectors, float32 [N, dimension].

        Args:
            threads: of linking them, where a new graph is due; 0: all processors.

        Raises:
            DataError: an id is already in the index or a duplicate, a document is invalid, or a
                vector has the wrong dimension, a value that is not finite, or (for cosine) length
                0. Nothing is added.
            IndexFileError: another process is writing, or the disk is full. Nothing is added.
        """
        self._add(documents, vectors, threads, replacing=False)

    def upsert(self, documents: Sequence[Document], vectors: Vectors, *, threads: int = 0) -> int:
        """As :meth:`add`, but documents that are there are replaced; returns how many."""
        return self._add(documents, vectors, threads, replacing=True)

    def _add(
        self, documents: Sequence[Document], vectors: Vectors, threads: int, *, replacing: bool
    ) -> int:
        self._refresh()  # whether its encoder is still in the store
        documents = checked(documents)
        names = [f"document {d.document_id!r}" for d in documents]
        rows = prepared(numbers(vectors), names, self.dimension, self.similarity)
        words = self.words
        terms = words.documents([d.full_text for d in documents]) if words else None
        embedded = {self.number: Embedded(rows, terms)}
        return self.write(documents, embedded, replacing=replacing, threads=threads)

    def write(
        self,
        documents: Sequence[Document],
        embedded: Mapping[int, Embedded],
        *,
        replacing: bool,
        threads: int = 0,
    ) -> int:
        """Adds checked documents with what each generation has of them; returns how many were
        replaced.

        Raises:
            NotEmbedded: there is another generation.
            DataError, IndexFileError: see :meth:`add`.
        """
        with self._change() as change:
            known = change.rows_of([d.document_id for d in documents])
            if known and not replacing:
                raise KnownDocumentError(_known(next(iter(known))))
            change.delete(known.values())
            change.add(documents, embedded)
        self._upkeep(threads)
        return len(known)

    def check_new(self, document_ids: Sequence[str]) -> None:
        """Raises DataError if one of these documents is in the index."""
        known = self.store.by_id(document_ids)
        if known:
            raise KnownDocumentError(_known(next(iter(known))))

    def delete(self, document_ids: Iterable[str]) -> None:
        """Deletes documents; later searches no longer return them.

        Raises:
            DataError: an id is not in the index; then nothing is deleted.
        """
        ids = list(dict.fromkeys(ids_of(document_ids)))
        with self._change() as change:
            known = change.rows_of(ids)
            for document_id in ids:
                if document_id not in known:
                    raise UnknownDocumentError(f"no document {document_id!r} in the index")
            change.delete(known.values())
        self._upkeep(0)

    def compact(self) -> None:
        """Takes deleted and replaced documents out for good, and links the others anew."""
        with self._change() as change:
            change.compact()
        self._refresh(always=True)
        self.store.tidy(pack=True)
        self.link()
        for other in self.store.generations():
            if other.number != self.number and other.state == "ready":
                Index(self.store, other.number).link()

    def _upkeep(self, threads: int) -> None:
        """Compacts and links where that is due. What was changed stays changed if it fails."""
        try:
            state = self._refresh(always=True)
            dead = state.size - state.head.live
            if dead > max(_DEAD, _DEAD_SHARE * state.size):
                self.compact()
            elif state.size - state.linked > max(_UNLINKED, _GROWTH * state.size):
                self.link(threads=threads, waiting=_GROWTH)
        except GenerationGone:
            pass  # its encoder was dropped meanwhile
        except (IndexFileError, MemoryError) as error:
            warnings.warn(
                f"what was changed is on disk, but it was neither compacted nor linked: {error}",
                stacklevel=3,
            )

    def link(self, *, threads: int = 0, waiting: float = 0.0) -> None:
        """Publishes a graph of all places, if they are more than are worth comparing.

        Args:
            waiting: share of the places that may be without links: nothing is done below it.

        Raises:
            IndexFileError: another process is writing, or the disk is full.
        """
        with self._linking:
            state = self._refresh()
            size = state.size
            if size <= _UNLINKED or size - state.linked <= waiting * size:
                return
            graph, found = state.builder, state.measured
            kept_back = size - min(KEPT_BACK, size // 20)
            for end in (kept_back, size):
                while graph.size < end:
                    graph.build(min(end, graph.size + _TOGETHER), threads=threads)
                if graph.size == kept_back:
                    rng = np.random.default_rng(self.settings.seed)
                    some = rng.permutation(np.arange(kept_back, size))[:SAMPLE]
                    rows = np.array(self.store.vectors(state.generation)[np.sort(some)])
                    found = measured(state.table, graph, rows, own=True, threads=threads)
            folder, number = self.store.folder, state.generation.file.split("-")[1].split(".")[0]
            try:
                with temporary_file(folder / "graph") as temporary:
                    graph.save(str(temporary))
                    checksum = sha256(temporary)
                    name = f"graph-{number}-{size}-{checksum[:8]}.hnsw"
                    put(temporary, folder / name)
            except (OSError, RuntimeError) as error:
                raise IndexFileError(f"{folder}: the graph could not be written: {error}") from None
            with self._change() as change:
                change.publish(state.generation, name, size, checksum, json.dumps(found))
            self.store.tidy()
        self._refresh(always=True)

    def measure(self, queries: Any, *, threads: int = 0) -> dict[int, float]:
        """Measures the graph's recall@10 for values of ``ef``, for ``search(recall=...)``.

        It is measured when a graph is made, too, on vectors of the index before they are linked;
        those of your users' queries tell more.

        Args:
            queries: float32 [Q, dimension].

        Raises:
            DataError: the vectors are invalid, see :meth:`add`.
            IndexFileError: another process is writing.
        """
        given = numbers(queries)
        names = [f"query {n}" for n in range(len(given))]
        rows = prepared(given, names, self.dimension, self.similarity)
        state = self._refresh()
        generation = state.generation
        if state.graph is None or generation.graph is None or generation.graph_checksum is None:
            return {}
        found = measured(state.table, state.graph, rows, own=False, threads=threads)
        with self._change() as change:
            change.publish(
                generation,
                generation.graph,
                generation.graph_places,
                generation.graph_checksum,
                json.dumps(found),
            )
        return found

    def verify(self) -> None:
        """Reads the whole store.

        Raises:
            IndexFileError, ModelError: something in it is damaged.
        """
        self.store.verify()
        for generation in self.store.generations():
            encoder = self.store.folder / generation.folder
            if not encoder.is_dir():
                if generation.words:
                    raise IndexFileError(f"{encoder}: damaged: the encoder's folder is missing")
                continue
            found = read_manifest(encoder)["fingerprint"]
            if found != generation.encoder:
                raise other_encoder(encoder, found)
        state = self._refresh()
        if state.damaged:
            raise IndexFileError(f"{state.damaged}; 'hybridret compact' makes the graph again")

    # ------------------------------------------------------------------------------ searching

    def search(
        self,
        vectors: Any = None,
        k: int = 10,
        *,
        words: str | Sequence[str] | None = None,
        languages: Sequence[str] | str | None = None,
        where: Mapping[str, Any] | None = None,
        recall: float | None = None,
        exact: bool = False,
        threads: int = 1,
    ) -> list[Any]:
        """The k best documents for a query, best first: a list of :class:`Hit`.

        Args:
            vectors: float32 [dimension], or [Q, dimension]: then a list of lists. The most similar
                documents are found.
            words: the text of each query. Those that have its words are found (by BM25, see
                :mod:`hybridret.serving.words`); with vectors, too, both rankings are fused.
            languages: return only documents in these languages (``zh`` is ``zh-CN``, too); None
                for all.
            where: return only documents whose metadata are so, see
                :mod:`hybridret.serving.filters`.
            recall: share of the best documents that the graph has to find, 0 to 1, as measured on
                the index's own vectors (:meth:`measure`); None: ``ef_search`` of its settings.
            exact: compare the query with all of them instead of searching the graph.
            threads: for several queries.

        Raises:
            DataError: k is below 1, recall is not from 0 to 1, no document has a language or field,
                the vector is invalid (see :meth:`add`), or the index has no words.
        """
        k = min(count("k", k), 2**31)
        threads = count("threads", threads)
        if recall is not None and (isinstance(recall, bool) or not 0 < recall <= 1):
            raise DataError(f"recall must be above 0 and at most 1, got {recall!r}")
        if vectors is None and words is None:
            raise DataError("nothing to search for: give vectors, words, or both")
        queries = terms = None
        if words is not None:
            texts, single = queries_of(words)
            terms = self._terms(texts)
        if vectors is not None:
            queries, single = self._queries(vectors)
        if queries is not None and terms is not None and len(queries) != len(terms):
            raise DataError(f"{len(queries)} vectors, but words of {len(terms)} queries")
        options: dict[str, Any] = {
            "languages": None if languages is None else tags_of(languages),
            "conditions": [] if where is None else parsed(where),
        }
        depth = k if terms is None else max(k, DEPTH)

        def rank(state: State) -> list[tuple[Ints, Any]]:
            if queries is not None:
                rows, scores = state.search(
                    queries, depth, recall=recall, exact=exact, threads=threads, **options
                )
                near = [(r[r >= 0], s[r >= 0]) for r, s in zip(rows, scores, strict=True)]
            if terms is None:
                return near
            found = [state.search_words(some, depth, **options) for some in terms]
            if queries is None:
                return [(rows[:k], scores[:k]) for rows, scores in found]
            return [fuse([a, b], k) for (a, _), (b, _) in zip(near, found, strict=True)]

        hits = self._hits(rank)
        return hits[0] if single else hits

    def _queries(self, vectors: Any) -> tuple[Vectors, bool]:
        """Checked vectors [Q, dimension], and whether there is one query, not several."""
        given = numbers(vectors)
        if given.ndim not in (1, 2):
            raise DataError(
                f"expected a query vector [dimension] or several [queries, dimension], got shape "
                f"{list(given.shape)}"
            )
        single = given.ndim == 1
        names = ["the query"] if single else [f"query {n}" for n in range(len(given))]
        rows = given[None] if single else given
        return prepared(rows, names, self.dimension, self.similarity), single

    def _terms(self, texts: Sequence[str]) -> list[list[str]]:
        words = self.words
        if words is None:
            raise DataError(
                "the index has no words to search for: it was made for vectors alone, or where "
                "Python's SQLite has no FTS5, or by version 0.1 (then 'hybridret reindex' with its "
                "encoder makes them)"
            )
        return [words.query(text) for text in texts]

    def _hits(self, rank: Callable[[State], list[tuple[Ints, Any]]]) -> list[list[Hit]]:
        """The documents of rows, all of one state."""
        for _ in range(100):
            ranked = rank(self._refresh())
            wanted = {int(row) for rows, _ in ranked for row in rows}
            found = self.store.documents(wanted)
            if found.keys() == wanted:
                return [
                    [
                        _hit(found[row], float(score))
                        for row, score in zip(rows.tolist(), scores, strict=True)
                    ]
                    for rows, scores in ranked
                ]
            self._refresh(always=True)  # deleted in between: search again
        raise IndexFileError(f"{self.store.folder}: documents are missing; 'hybridret verify' it")

    def _refresh(self, *, always: bool = False) -> State:
        """What is committed, in memory."""
        version = self.store.version()
        if always or getattr(self._seen, "version", None) != version:
            with self._refreshing:
                self._advance()
            self._seen.version = version
        return self._state

    @contextmanager
    def _change(self) -> Iterator[Change]:
        """A change; the next look at the store sees it, whatever comes in between."""
        self._seen.version = None  # of one's own commits SQLite says nothing
        with self.store.change() as change:
            yield change

    def _advance(self) -> None:
        for _ in range(20):
            state = self._state
            with self.store.snapshot():
                head = self.store.head(self.number)
                if state.broken or state.generation.file != head.generation.file:
                    state = State(self.store, head, self.settings)
                elif head == state.head and not state.damaged:
                    return
                news = self.store.news(
                    head.generation, state.size, state.last_row, state.head.change
                )
            try:
                state.broken = True  # if it is interrupted, it is made anew
                state.advance(head, news)
                state.broken = False
            except IndexFileError:
                if self.store.head(self.number).generation.file == head.generation.file:
                    raise
                continue  # compacted in between
            self._state = state
            return
        raise IndexFileError(f"{self.store.folder}: other processes keep compacting; try again")


def _hit(document: Document, score: float) -> Hit:
    return Hit(
        document.document_id,
        document.text,
        document.language,
        score,
        document.title,
        document.metadata,
    )


def made_with_another(folder: Path, encoder: str, found: str) -> IndexFileError:
    """The error of an index whose vectors are those of an encoder that was not expected."""
    return IndexFileError(
        f"{folder}: this index was made with another encoder (fingerprint {found or 'none'}, this "
        f"encoder has {encoder}); change it with 'hybridret reindex'"
    )


def other_encoder(folder: Path, found: str) -> IndexFileError:
    """The error of a store whose encoder's folder was written over."""
    return IndexFileError(
        f"{folder}: damaged: this is another encoder now (fingerprint {found}): put the former one "
        f"back, or embed all documents with another ('hybridret reindex --drop')"
    )


def _known(document_id: str) -> str:
    return (
        f"document {document_id!r} is already in the index; delete it first, or upsert (in a file, "
        f"a line without an id has its number as id)"
    )


def _convert(folder: Path) -> None:
    """Replaces an index of version 0.1 by a store with the same documents."""
    try:
        with version1.locked(folder):
            if not version1.is_index(folder):  # another process was first
                return
            made = folder / "converted"
            if not (folder / DATABASE).exists():  # else a process was killed while cleaning up
                shutil.rmtree(made, ignore_errors=True)
                old = version1.read(folder)
                index = Index.create(
                    made,
                    dimension=old.dimension,
                    similarity=old.similarity,
                    encoder=old.encoder,
                    settings=GraphSettings(**old.settings),
                )
                index.add(old.documents, old.vectors)
                index.link()
                index.store.close()
                version1.move(made, folder)
            version1.clean(folder)
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise IndexFileError(
            f"{folder}: an index of version 0.1 that could not be converted: {error}"
        ) from None
