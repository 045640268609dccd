"""Optional dependencies: imported where they are used; the error says how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from hybridret.errors import MissingExtraError


def require(module: str, extra: str, purpose: str) -> Any:
    """The imported module.

    Raises:
        MissingExtraError: it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: "
            f"pip install 'hybridret[{extra}]'"
        ) from None
