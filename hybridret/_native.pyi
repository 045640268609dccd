from typing import Any

from numpy import float32, float64, int32, int64, uint8, uint32
from numpy.typing import NDArray

__version__: str
compiler: str
hnswlib_version: str

def isa() -> str: ...
def usable_isas() -> list[str]: ...
def share_openmp(path: str) -> bool: ...
def release_scratch() -> None: ...
def default_threads() -> int: ...

class InfoNCE:
    def __init__(
        self,
        queries: NDArray[Any],
        documents: NDArray[Any],
        labels: NDArray[int64] | None,
        *,
        query_groups: NDArray[int64] | None = None,
        document_groups: NDArray[int64] | None = None,
        segments: NDArray[int64] | None = None,
        log_bias: NDArray[float32] | None = None,
        scale: float,
        normalize: bool = False,
        unit_norm: bool = False,
        hard_only: bool = False,
        labels_elsewhere: bool = False,
    ) -> None: ...
    def forward(
        self,
        *,
        columns: bool = False,
        ranks: bool = False,
        row_weights: NDArray[float32] | None = None,
        threads: int = 0,
    ) -> tuple[
        NDArray[float32],
        NDArray[float32],
        NDArray[float32],
        NDArray[int32],
        NDArray[Any],
        NDArray[Any],
        float,
    ]: ...
    def backward(
        self,
        negatives_lse: NDArray[float32],
        column_negatives_lse: NDArray[float32] | None = None,
        *,
        by_negatives_lse: NDArray[float32],
        by_positive: NDArray[float32],
        by_column_negatives_lse: NDArray[float32] | None = None,
        threads: int = 0,
    ) -> tuple[NDArray[Any], NDArray[Any], float]: ...

class BadRow(ValueError): ...  # args: what, "query" or "document", row

def pair_scores(
    queries: NDArray[Any],
    documents: NDArray[Any],
    *,
    query_rows: NDArray[int64],
    document_rows: NDArray[int64],
    cosine: bool,
    threads: int = 0,
) -> NDArray[float64]: ...
def rank(
    queries: NDArray[Any],
    documents: NDArray[Any],
    *,
    document_language: NDArray[int32],
    tie_order: NDArray[int64],
    target_begin: NDArray[int64],
    target_scores: NDArray[float64],
    target_order: NDArray[int64],
    languages: int,
    cosine: bool,
    ties: bool = False,
    k: int = 0,
    screening: str = "auto",
    threads: int = 0,
) -> tuple[NDArray[int64], NDArray[int64], NDArray[int64], NDArray[float64], int]: ...

class Table:
    def __init__(self, dimension: int) -> None: ...
    def extend(self, vectors: NDArray[float32], *, threads: int = 0) -> None: ...
    def remove(self, rows: NDArray[uint32]) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def live(self) -> int: ...
    def search(
        self,
        queries: NDArray[float32],
        k: int,
        *,
        admitted: NDArray[uint8] | None = None,
        rows: NDArray[uint32] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[int64], NDArray[float32]]: ...

class Graph:
    def __init__(self, table: Table, *, M: int, ef_construction: int, seed: int) -> None: ...
    def build(self, count: int, *, threads: int = 0) -> None: ...
    @property
    def size(self) -> int: ...
    def search(
        self,
        queries: NDArray[float32],
        k: int,
        *,
        ef: int,
        admitted: NDArray[uint8] | None = None,
        rows: NDArray[uint32] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[int64], NDArray[float32]]: ...
    def save(self, path: str) -> None: ...
    def load(self, path: str, count: int) -> None: ...
