"""What users give: documents, vectors, ids and tags, checked and in one form."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridret._types import Similarity, Vectors
from hybridret.data.languages import UNDETERMINED, normalize_language
from hybridret.data.table import Document
from hybridret.errors import DataError
from hybridret.serving.filters import check_metadata

MAX_NORM = 1e18
"""Largest vector norm for inner products: products of longer vectors may overflow float32."""


def checked(documents: Iterable[Document]) -> list[Document]:
    """Documents that can be stored, with normalised language tags.

    Raises:
        DataError: another type, an empty or invalid text, a language that is no tag, metadata that
            JSON cannot hold, or an id that comes twice.
    """
    if not isinstance(documents, Iterable):
        raise DataError(f"expected documents, got {documents!r:.60}")
    found: list[Document] = []
    seen: set[str] = set()
    for document in documents:
        if not isinstance(document, Document):
            raise DataError(
                f"expected a hybridret.Document, got {type(document).__name__} {document!r:.60}"
            )
        name = f"document {document.document_id!r:.80}"
        for field_name in ("document_id", "text", "language", "group_id", "title"):
            value = getattr(document, field_name)
            if not isinstance(value, str):
                raise DataError(f"{name}: {field_name} must be a string, got {value!r:.60}")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{name}: {field_name} contains a lone surrogate, which is not a valid "
                    f"character: {error.reason}"
                ) from None
            if "\0" in value:
                raise DataError(f"{name}: {field_name} contains a NUL character")
        if not document.document_id:
            raise DataError("a document has an empty id")
        if not document.full_text.strip():
            raise DataError(f"{name}: the text is empty")
        if document.document_id in seen:
            raise DataError(f"document id {document.document_id!r} is a duplicate")
        seen.add(document.document_id)
        metadata = check_metadata(document.metadata, name)
        try:
            language = normalize_language(document.language or UNDETERMINED)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        found.append(
            replace(
                document,
                language=language,
                group_id=document.group_id or document.document_id,
                metadata=metadata,
            )
        )
    return found


def queries_of(given: Any) -> tuple[list[str], bool]:
    """The texts of queries, and whether there is one, not several; DataError otherwise."""
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Sequence):
        raise DataError(f"the query must be a non-empty string, got {given!r:.60}")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"the query must be a non-empty string, got {text!r:.60}")
        if not valid(text):
            raise DataError(f"the query {text!r:.60} has a lone surrogate, which is no character")
    return list(texts), isinstance(given, str)


def valid(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def count(name: str, value: Any) -> int:
    """An integer of at least 1; DataError otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise DataError(f"{name} must be an integer of at least 1, got {value!r}")
    return number


def numbers(vectors: Any) -> NDArray[Any]:
    """An array of numbers; DataError otherwise."""
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise DataError(f"vectors must be an array of numbers: {error}") from None
    if array.dtype.kind not in "fiu":
        raise DataError(f"vectors must be numbers, got an array of {array.dtype}")
    return array


def tags_of(languages: Any) -> list[str]:
    """Normalised language tags; DataError otherwise."""
    asked = [languages] if isinstance(languages, str) else languages
    if not isinstance(asked, Iterable) or not all(isinstance(tag, str) for tag in asked):
        raise DataError(f"languages must be tags such as ['de', 'zh'], got {languages!r:.60}")
    return sorted({normalize_language(tag) for tag in asked})


def ids_of(given: Any) -> list[str]:
    """Document ids, of one or several; DataError otherwise."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Iterable):
        raise DataError(f"expected document ids, got {given!r:.60}")
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"a document id must be a string, got {name!r:.60}")
        if not valid(name):
            raise DataError(f"no document {name!r:.60} in the index: it is not valid text")
    return names


def prepared(
    vectors: NDArray[Any], names: Sequence[str], dimension: int, similarity: Similarity
) -> Vectors:
    """Checked float32 vectors [N, dimension], normalised for the cosine.

    Args:
        names: of the vectors, for the messages.

    Raises:
        DataError: another shape, a value that is not finite, a vector that is too long, or (for the
            cosine) zero.
    """
    if vectors.ndim != 2 or vectors.shape != (len(names), dimension):
        raise DataError(
            f"expected {len(names)} vectors of dimension {dimension}, "
            f"got shape {list(vectors.shape)}"
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if not np.isfinite(norms).all():
        name = names[int(np.argmin(np.isfinite(norms)))]
        raise DataError(f"the vector of {name} has a value that is not finite (NaN or infinity)")
    if similarity == "dot":
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
