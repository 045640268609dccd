"""How far a search of a graph has to look: its recall, measured against the exact search."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hybridret import _native
from hybridret._types import Vectors

K = 10
"""Documents that are asked for when recall is measured."""
SAMPLE = 200
"""Vectors that are asked for."""
KEPT_BACK = 1000
"""Vectors, at most, that are linked after the measurement: those in the graph find too much. 6,000
random ones of 32 dimensions found .997 of their neighbours where others found .754."""
EFS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_ENOUGH = 0.9995  # from which larger values are not tried
_SAME = 1e-6  # scores of one document in two searches


def measured(
    table: _native.Table, graph: _native.Graph, queries: Vectors, *, own: bool, threads: int = 0
) -> dict[int, float]:
    """Recall@10 for each ``ef``: the share of the ten best documents that are found.

    Args:
        queries: float32 [Q, dimension].
        own: the queries are vectors of the table that the graph does not have yet. Each finds
            itself, which counts for nothing.
    """
    count = min(K + own, table.live)
    _, exact = table.search(queries, count, threads=threads)
    found: dict[int, float] = {}
    for ef in EFS:
        places, scores = graph.search(queries, count, ef=ef, threads=threads)
        hits = ((places >= 0) & (scores >= exact[:, -1:] - _SAME)).sum(axis=1)
        found[ef] = float(np.mean((hits - own) / max(count - own, 1)))
        if found[ef] >= _ENOUGH:
            break
    return found


def ef_for(measured: Mapping[int, float], recall: float, k: int) -> int | None:
    """The smallest ``ef`` of that recall; None: none has it.

    Args:
        k: documents that are asked for; for more than ten, ``ef`` grows as they do.
    """
    for ef in sorted(measured):
        if measured[ef] >= recall:
            return max(k, round(ef * max(k, K) / K))
    return None
