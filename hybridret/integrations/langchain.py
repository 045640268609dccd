"""LangChain: a vector store, and the encoder as embeddings.

>>> store = HybridretVectorStore(hybridret.Retriever.load("encoder"))  # doctest: +SKIP
>>> store.as_retriever(search_kwargs={"k": 5, "mode": "hybrid"})  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from hybridret._extras import require
from hybridret.data.table import Document as Stored
from hybridret.encoder.base import TextEncoder
from hybridret.errors import DataError
from hybridret.serving.index import Hit
from hybridret.serving.retriever import Retriever

require("langchain_core", "langchain", "the LangChain vector store")
from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_core.vectorstores import VectorStore  # noqa: E402


class HybridretEmbeddings(Embeddings):
    """An encoder, with its prompts for queries and documents."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.encode_documents(texts).tolist()  # type: ignore[no-any-return]

    def embed_query(self, text: str) -> list[float]:
        return self.encoder.encode_queries([text])[0].tolist()  # type: ignore[no-any-return]


class HybridretVectorStore(VectorStore):
    """A store of documents with its own encoder.

    ``language`` and ``title`` of a document's metadata are its language and title; searches take
    ``languages``, ``where`` (or LangChain's name, ``filter``), ``mode``, ``exact``, ``recall`` and
    ``rerank`` of :meth:`hybridret.Retriever.search`.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    @property
    def embeddings(self) -> HybridretEmbeddings:
        return HybridretEmbeddings(self.retriever.encoder)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        folder: str | None = None,
        **options: Any,
    ) -> HybridretVectorStore:
        """A new store with texts.

        Args:
            embedding: :class:`HybridretEmbeddings` of an exported encoder.
            folder: of the store; None: ``index`` in the encoder's folder.

        Raises:
            DataError: other embeddings.
        """
        encoder = getattr(embedding, "encoder", None)
        if not isinstance(embedding, HybridretEmbeddings) or not hasattr(encoder, "folder"):
            raise DataError(
                "a store embeds by itself: give HybridretEmbeddings of an exported encoder, got "
                f"{type(embedding).__name__}"
            )
        store = cls(Retriever.create(embedding.encoder.folder, store=folder))  # type: ignore[attr-defined]
        store.add_texts(texts, metadatas, ids=ids, **options)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **_: Any,
    ) -> list[str]:
        """Adds texts, or replaces those whose ids are there; returns the ids.

        Raises:
            DataError: a text is empty, or there are more or fewer metadata or ids than texts.
        """
        texts = list(texts)
        fields = metadatas if metadatas is not None else [{} for _ in texts]
        names = [name or uuid4().hex for name in (ids if ids is not None else [None] * len(texts))]
        if not len(texts) == len(fields) == len(names):
            raise DataError(f"{len(texts)} texts, {len(fields)} metadata, {len(names)} ids")
        self.retriever.upsert(
            [
                Stored(
                    name,
                    text,
                    str(own.get("language") or ""),
                    title=str(own.get("title") or ""),
                    metadata=own,
                )
                for name, text, own in zip(names, texts, fields, strict=True)
            ]
        )
        return names

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:
        """Deletes documents; ids that are not there are passed over, as LangChain wants it."""
        if ids is None:
            raise DataError("ids of the documents to delete are needed")
        self.retriever.delete([name for name in dict.fromkeys(ids) if name in self.retriever])
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        found = (self.retriever.get(name) for name in ids)
        return [
            Document(id=d.document_id, page_content=d.text, metadata=dict(d.metadata or {}))
            for d in found
            if d is not None
        ]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Document, float]]:
        """Documents and scores, higher is better."""
        if "filter" in options:
            options["where"] = options.pop("filter")
        hits = self.retriever.search(query, k, **options)
        return [(_document(hit), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Any
    ) -> list[Document]:
        if "filter" in options:
            options["where"] = options.pop("filter")
        _, index = self.retriever.current()
        return [_document(hit) for hit in index.search(embedding, k, **options)]

    def _select_relevance_score_fn(self) -> Any:
        return lambda cosine: (1 + cosine) / 2


def _document(hit: Hit) -> Document:
    return Document(id=hit.document_id, page_content=hit.text, metadata=dict(hit.metadata or {}))
