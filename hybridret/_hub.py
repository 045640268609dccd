"""Readable reasons why a download from the Hugging Face hub failed."""

from __future__ import annotations


def hub_reason(error: Exception) -> str:
    """The reason in words; the client also raises exceptions of the libraries it uses."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its authors must first grant access to your account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no repository of this name, or it is private"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached, and there is no downloaded copy"
    return str(error).strip().partition("\n")[0] or type(error).__name__
