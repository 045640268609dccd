"""Why the Hugging Face hub gave nothing, in words for people."""

from __future__ import annotations


def hub_reason(error: Exception) -> str:
    """What an exception means; the client raises whatever its own libraries raise."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its authors must first give access to your account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has none of this name, or a private one"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached, and no copy was downloaded before"
    return str(error).strip().partition("\n")[0] or type(error).__name__
