"""Errors a user can act on: each message says what was found, what was expected and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HybridretError(Exception):
    """Base class; the command line prints its message as one line and exits with 1."""


class DataError(HybridretError, ValueError):
    """A file, line, field, table or setting that cannot be used."""


class KnownDocumentError(DataError):
    """A document whose id is in the index already."""


class UnknownDocumentError(DataError):
    """A document id that is not in the index."""


class ModelError(HybridretError, ValueError):
    """A model folder or encoder that cannot be loaded, exported or used."""


class IndexFileError(HybridretError, ValueError):
    """An index that is missing, damaged, or was made by another encoder."""


class MissingExtraError(HybridretError, ImportError):
    """An optional dependency is needed but not installed."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty if no known one is like it."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""
