"""Progress bars: tqdm if it is installed, otherwise none (a service needs none)."""

from __future__ import annotations

from typing import Any


class _NoBar:
    rate = 0.0

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass

    def set_postfix(self, **_: object) -> None:
        pass


def progress_bar(total: int | None, description: str, *, enabled: bool, initial: int = 0) -> Any:
    """A context manager with ``update(count)``, ``set_postfix(**values)`` and ``rate``, how many a
    second; writes to stderr."""
    if not enabled:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()

    class Bar(tqdm):  # type: ignore[type-arg]
        @property
        def rate(self) -> float:
            return float(self.format_dict["rate"] or 0.0)

    return Bar(total=total, desc=description, initial=initial, dynamic_ncols=True, mininterval=0.5)
