"""Array and option types that several packages share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
"""Embeddings, [N, D] or [D]."""

Similarity = Literal["cosine", "dot"]
Screening = Literal["auto", "bfloat16", "float32"]
Ties = Literal["by-id", "optimistic", "pessimistic"]
TieOrder = Literal["descending", "ascending"]
Unanswerable = Literal["drop", "zero"]
