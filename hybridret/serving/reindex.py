"""Change of the encoder beside live traffic: another generation, embedded from the stored texts.

The new generation follows the documents from the first to the last one, those that come meanwhile
among them. Once it has all, it becomes ``ready`` and the one that is searched in one transaction;
from then on every document that is added is embedded with both encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridret._progress import progress_bar
from hybridret.data.table import Document
from hybridret.encoder.base import TextEncoder
from hybridret.encoder.onnx import OnnxEncoder
from hybridret.errors import DataError, IndexFileError
from hybridret.serving import words
from hybridret.serving.change import Embedded, Generation, GenerationGone
from hybridret.serving.index import Index
from hybridret.serving.inputs import count, prepared
from hybridret.serving.store import Store
from hybridret.serving.words import Words

_CHUNK = 1024  # documents embedded and committed at a time
_LAST = 8  # documents that may be embedded while others wait to write


@dataclass(frozen=True)
class Reindexed:
    """What a change of the encoder has done.

    Attributes:
        generation: number of the one that is searched now.
        documents: how many were embedded.
    """

    generation: int
    documents: int


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
    store: Store,
    encoder: OnnxEncoder,
    *,
    drop: bool = False,
    batch_size: int = 32,
    progress: bool = False,
) -> Reindexed:
    """Has a store searched with another encoder.

    Raises: see :meth:`hybridret.Retriever.reindex`.
    """
    batch_size = count("batch_size", batch_size)
    if not drop:
        _check_others(store, encoder)
    while True:
        try:
            done = _reindex(store, encoder, batch_size, progress)
        except GenerationGone:
            continue  # another process dropped it: from the start
        if drop:
            drop_others(store, done.generation)
        return done


def _check_others(store: Store, encoder: OnnxEncoder) -> None:
    """Documents that are added are embedded with all encoders: they have to be there."""
    for generation in store.generations():
        others = generation.encoder != encoder.fingerprint and generation.state == "ready"
        if others and not (store.folder / generation.folder).is_dir():
            raise IndexFileError(
                f"{store.folder}: its vectors are not of an encoder that it has, so that new "
                f"documents could not get some, too: drop them with --drop (drop=True)"
            )


def _reindex(store: Store, encoder: OnnxEncoder, batch_size: int, progress: bool) -> Reindexed:
    while True:
        with store.change() as change:
            generation = change.begin(
                encoder.fingerprint,
                encoder.dimension,
                encoder.config.similarity,
                with_words=words.available(),
            )
            after = change.last_row(generation.number) if generation else 0
        if generation:
            break
        store.keep(encoder.folder, encoder.fingerprint)
    number, embedded = generation.number, 0
    if generation.state == "ready":
        if not generation.words and words.available():
            _add_words(store, number, encoder)
        Index(store, number).link()
        with store.change() as change:
            change.activate(number)
        return Reindexed(number, 0)

    def new(documents: Sequence[Document]) -> Embedded:
        return embed(encoder, generation, documents, batch_size=batch_size)

    linked = False
    with progress_bar(store.head().live, "Embedding", enabled=progress) as bar:
        bar.update(generation.places)
        while True:
            if found := store.after(after, _CHUNK):
                vectors = new(list(found.values()))
                with store.change() as change:
                    change.embed(number, list(found), vectors)
                    # Those that were deleted meanwhile have none; nor have those that another
                    # process was first with.
                    after = change.last_row(number)
                embedded += len(found)
                bar.update(len(found))
            if len(found) > _LAST:
                continue
            if not linked:
                Index(store, number).link()
                linked = True
            with store.change() as change:
                found = store.after(change.last_row(number), _LAST + 1)
                if len(found) > _LAST:
                    continue
                if found:
                    change.embed(number, list(found), new(list(found.values())))
                change.activate(number)
            return Reindexed(number, embedded + len(found))


def _add_words(store: Store, number: int, encoder: OnnxEncoder) -> None:
    """The words of a store that was converted from version 0.1."""
    own, terms, after = Words(encoder.tokenizer), dict[int, str](), 0
    while True:
        while found := store.after(after, _CHUNK):
            texts = [d.full_text for d in found.values()]
            terms.update(zip(found, own.documents(texts), strict=True))
            after = max(found)
        with store.change() as change:
            if not change.add_words(number, terms):
                return


def drop_others(store: Store, keep: int | None = None) -> list[str]:
    """Removes what the store has for every encoder but the active one; returns fingerprints.

    Processes that search with one of them go over to the active one.

    Args:
        keep: number of a generation: nothing is dropped if it is not the active one any more.
    """
    with store.change() as change:
        active = change.head.active
        if keep not in (None, active):
            return []
        others = [g for g in change.generations() if g.number != active]
        for generation in others:
            change.drop(generation.number)
    store.tidy()
    return [generation.encoder for generation in others]


def name_the_encoder(error: DataError, generation: Generation) -> DataError:
    """The error of a document that an encoder cannot embed which is not searched with."""
    return DataError(
        f"{error} (the encoder with fingerprint {generation.encoder}, which is not searched with "
        f"now; 'hybridret reindex --drop' ends its use)"
    )
