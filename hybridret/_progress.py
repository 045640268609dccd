"""Progress bars: tqdm if it is installed, otherwise none (a service needs none)."""

from __future__ import annotations

from typing import Any


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass

    def set_postfix(self, **_: object) -> None:
        pass


def progress_bar(total: int, description: str, *, enabled: bool, initial: int = 0) -> Any:
    """A context manager with ``update(count)`` and ``set_postfix(**values)``; writes to stderr."""
    if not enabled:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=total, desc=description, initial=initial, dynamic_ncols=True, mininterval=0.5)
