"""An array that grows at its end."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class Growing(Generic[Scalar]):
    """An array to which values are appended, in amortised constant time.

    Views that were taken before stay what they were: other threads may go on reading them.
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self._values: NDArray[Any] = np.empty(16, dtype=dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[Scalar]:
        """A view of the values."""
        return self._values[: self._size]

    def extend(self, more: Any) -> None:
        """Appends values."""
        new = np.asarray(more, dtype=self._values.dtype)
        size = self._size + len(new)
        if size > len(self._values):
            larger = np.empty(max(size, 2 * len(self._values)), dtype=self._values.dtype)
            larger[: self._size] = self.values
            self._values = larger
        self._values[self._size : size] = new
        self._size = size
