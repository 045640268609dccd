"""Errors a user can act on: each message says what was found, what was expected and where."""


class HybridretError(Exception):
    """Base class; the command line prints its message as one line and exits with 1."""


class DataError(HybridretError, ValueError):
    """A file, line, field, table or setting that cannot be used."""


class ModelError(HybridretError, ValueError):
    """A model folder or encoder that cannot be loaded, exported or used."""


class IndexFileError(HybridretError, ValueError):
    """An index that is missing, damaged, or was made by another encoder."""


class MissingExtraError(HybridretError, ImportError):
    """An optional dependency is needed but not installed."""
