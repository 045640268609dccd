"""Text in, documents out: an exported encoder and its index in one small process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from hybridret._progress import progress_bar
from hybridret.data.jsonl import read_documents
from hybridret.data.languages import normalize_language
from hybridret.data.table import Document
from hybridret.encoder.manifest import INDEX_FOLDER
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.errors import DataError
from hybridret.serving.index import INDEX_MANIFEST, GraphSettings, Hit, Index

_CHUNK = 4096  # documents embedded and added at a time


class Retriever:
    """Searches documents by meaning, across languages. Thread-safe.

    >>> retriever = Retriever.load("my-encoder")  # doctest: +SKIP
    >>> retriever.search("Wo liegt Kolkata?", k=3, languages=["en", "hi"])  # doctest: +SKIP
    """

    def __init__(self, encoder: OnnxEncoder, index: Index) -> None:
        self.encoder = encoder
        self.index = index

    @classmethod
    def load(cls, folder: str | Path, *, threads: int = 0) -> Retriever:
        """An exported encoder with the index beside it (``folder/index``).

        Raises:
            ModelError: no exported encoder there.
            IndexFileError: no index there, damaged, or of another encoder.
        """
        encoder = OnnxEncoder(folder, threads=threads)
        return cls(encoder, Index.load(Path(folder) / INDEX_FOLDER, encoder=encoder.fingerprint))

    @classmethod
    def create(
        cls, folder: str | Path, *, settings: GraphSettings | None = None, threads: int = 0
    ) -> Retriever:
        """An exported encoder with a new, empty index; on disk nothing changes before :meth:`save`.

        Raises:
            ModelError: no exported encoder there.
        """
        encoder = OnnxEncoder(folder, threads=threads)
        index = Index(
            encoder.dimension,
            similarity=encoder.config.similarity,
            encoder=encoder.fingerprint,
            settings=settings,
        )
        return cls(encoder, index)

    def __len__(self) -> int:
        return len(self.index)

    def add(
        self, documents: Iterable[Document], *, batch_size: int = 32, progress: bool = False
    ) -> int:
        """Embeds and adds documents; returns how many.

        Raises:
            DataError: an id is already there, or a text the encoder knows no token of. Documents of
                earlier chunks of 4096 stay added.
        """
        count = 0
        source = iter(documents)
        total = len(documents) if isinstance(documents, Sequence) else 0
        with progress_bar(total, "Indexing", enabled=progress) as bar:
            while chunk := list(islice(source, _CHUNK)):
                texts = [d.full_text for d in chunk]
                self.index.add(chunk, self.encoder.encode_documents(texts, batch_size=batch_size))
                count += len(chunk)
                bar.update(len(chunk))
        return count

    def add_file(self, path: str | Path, *, batch_size: int = 32, progress: bool = False) -> int:
        """Adds the documents of a ``.jsonl`` file; all lines are read before the first is added.

        Raises:
            DataError: naming file, line and field; then nothing is added.
        """
        return self.add(list(read_documents(path)), batch_size=batch_size, progress=progress)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Takes documents out of all later searches.

        Raises:
            DataError: an id is not in the index; then nothing is deleted.
        """
        self.index.delete(document_ids)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        languages: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The k documents closest in meaning, best first, in any language or only in ``languages``.

        Raises:
            DataError: the query is empty, k is below 1, or no document is in one of the languages.
        """
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"the query must be a text that is not empty, got {query!r}")
        if isinstance(languages, str):
            languages = [languages]
        tags = None if languages is None else [normalize_language(tag) for tag in languages]
        (vector,) = self.encoder.encode_queries([query])
        return self.index.search(vector, k, languages=tags, exact=exact)

    def save(self) -> None:
        """Writes the index beside the encoder, in one step.

        Raises:
            IndexFileError: it could not be written; the one before stays whole.
        """
        self.index.save(self.encoder.folder / INDEX_FOLDER)


def has_index(folder: str | Path) -> bool:
    """Whether an encoder folder holds an index."""
    return (Path(folder) / INDEX_FOLDER / INDEX_MANIFEST).is_file()
