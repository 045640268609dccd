"""All peers of a question are timed in one run: quote ratios, not seconds."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def unit_vectors():
    """float32 [rows, dimension] of length one."""

    def make(rows: int, dimension: int, seed: int) -> np.ndarray:
        vectors = np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return make
