"""Change of the encoder beside live traffic: another generation, embedded from the stored texts.

The new generation follows the documents from the first to the last one, those that come meanwhile
among them. Once it has all, it becomes ``ready`` and the one that is searched in one transaction;
from then on every document that is added is embedded with both encoders.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridret._progress import progress_bar
from hybridret.data.table import Document
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.serving import words
from hybridret.serving.change import Embedded, Generation
from hybridret.serving.index import Index
from hybridret.serving.inputs import prepared
from hybridret.serving.store import Store
from hybridret.serving.words import Words

_CHUNK = 1024  # documents embedded and committed at a time
_LAST = 16  # documents that may be embedded while others wait to write


def embed(
    encoder: TextEncoder,
    generation: Generation,
    documents: Sequence[Document],
    *,
    batch_size: int = 32,
) -> Embedded:
    """What a generation has of documents.

    Raises:
        DataError: the encoder's vocabulary has none of a text's tokens.
    """
    texts = [d.full_text for d in documents]
    names = [f"document {d.document_id!r}" for d in documents]
    vectors = encoder.encode_documents(texts, batch_size=batch_size)
    return Embedded(
        prepared(vectors, names, generation.dimension, generation.similarity),
        Words(encoder.tokenizer).documents(texts) if generation.words else None,
    )


def reindex(
    store: Store, encoder: OnnxEncoder, *, batch_size: int = 32, progress: bool = False
) -> int:
    """Has a store searched with another encoder; returns how many documents were embedded.

    Raises: see :meth:`hybridret.Retriever.reindex`.
    """
    with store.change() as change:
        generation = change.begin(
            encoder.folder,
            encoder.fingerprint,
            encoder.dimension,
            encoder.config.similarity,
            with_words=words.available(),
        )
        after = change.last_row(generation.number)
    number, count = generation.number, 0

    def embedded(documents: list[Document]) -> Embedded:
        return embed(encoder, generation, documents, batch_size=batch_size)

    if generation.state == "ready":
        Index(store, number).link()
        with store.change() as change:
            change.activate(number)
        return 0
    total = store.head().live
    with progress_bar(total, "Embedding", enabled=progress) as bar:
        bar.update(generation.places)
        while True:
            if found := store.after(after, _CHUNK):
                new = embedded(list(found.values()))
                with store.change() as change:
                    change.embed(number, list(found), new)
                    after = change.last_row(number)
                count += len(found)
                bar.update(len(found))
            if len(found) > _LAST:
                continue
            Index(store, number).link()
            with store.change() as change:
                found = store.after(change.last_row(number), _LAST + 1)
                if len(found) > _LAST:
                    continue
                if found:
                    change.embed(number, list(found), embedded(list(found.values())))
                change.activate(number)
            return count + len(found)


def drop_others(store: Store) -> list[str]:
    """Removes what the store has for every encoder but the active one; returns fingerprints.

    Processes that search with one of them go over to the active one.
    """
    with store.change() as change:
        others = [g for g in change.generations() if g.number != change.head.active]
        for generation in others:
            change.drop(generation.number)
    store.tidy(pack=True)
    return [generation.encoder for generation in others]
