"""The CUDA library on a CPU, with the interface of the native module's InfoNCE."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from hybridret._cuda import BackwardArguments, Batch, ForwardOutput, Library
from hybridret._cuda import FORMATS as FORMAT_NUMBERS

ROOT = Path(__file__).parents[1]


def build(target: Path) -> Library:
    """Compiles the kernels for the emulator of tests/native/cuda."""
    subprocess.run(
        ["g++", "-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
         "-Wno-unused-function", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}",
         f"-I{ROOT / 'csrc/cuda'}", f"-I{ROOT / 'tests/native/cuda'}",
         str(ROOT / "tests/native/cuda/library.cpp"), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return Library(target)


def address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class InfoNCE:
    """As ``hybridret._native.InfoNCE``, by the kernels of the GPU."""

    library: Library
    limit = 1 << 40

    def __init__(
        self, queries: np.ndarray, documents: np.ndarray, labels: np.ndarray | None, *,
        scale: float, query_groups: Any = None, document_groups: Any = None,
        segments: Any = None, log_bias: Any = None, normalize: bool = False,
        unit_norm: bool = False, hard_only: bool = False, labels_elsewhere: bool = False,
    ) -> None:  # fmt: skip
        self.queries, self.documents, self.labels = queries, documents, labels
        self.scale = np.array(scale, dtype=np.float32)
        self.groups = (query_groups, document_groups)
        self.log_bias = log_bias
        whole = [[len(queries), len(documents)]]
        self.segments = whole if segments is None else [[int(x) for x in s] for s in segments]
        self.options = (normalize, unit_norm, hard_only, labels_elsewhere)
        self.order = self.begin = None
        if labels is not None:
            self.order = np.argsort(labels, kind="stable")
            self.begin = np.searchsorted(labels[self.order], np.arange(len(documents) + 1))
        name = "bfloat16" if queries.dtype == np.uint16 else queries.dtype.name
        self.format = FORMAT_NUMBERS[name]
        self.gradient = np.uint16 if name == "bfloat16" else np.float32

    def batches(self):
        """(batch, its first row, its first column) of every segment."""
        row = column = 0
        for rows, columns in self.segments:
            batch = Batch(
                queries=address(self.queries[row:]), documents=address(self.documents[column:]),
                query_stride=self.queries.strides[0] // self.queries.itemsize,
                document_stride=self.documents.strides[0] // self.documents.itemsize,
                rows=rows, columns=columns, depth=self.queries.shape[1],
                labels=None if self.labels is None else address(self.labels[row:]),
                label_order=address(self.order),
                label_begin=None if self.begin is None else address(self.begin[column:]),
                query_groups=None if self.groups[0] is None else address(self.groups[0][row:]),
                document_groups=None
                if self.groups[1] is None
                else address(self.groups[1][column:]),
                log_bias=None if self.log_bias is None else address(self.log_bias[column:]),
                scale=address(self.scale), row_offset=row, column_offset=column,
                format=self.format, first=row == 0 and column == 0,
            )  # fmt: skip
            names = ("normalize", "unit_norm", "hard_only", "labels_elsewhere")
            for name, value in zip(names, self.options, strict=True):
                setattr(batch, name, value)
            yield batch, row, column
            row, column = row + rows, column + columns

    def workspace(self, batch: Batch, columns: bool, gradients: bool) -> np.ndarray:
        needed = self.library.workspace(
            batch, columns=columns, gradients=gradients, limit=self.limit
        )
        # Bytes that make NaN of everything, and some beyond that have to stay.
        memory = np.full(needed + 256 + 1024, 0x7F, dtype=np.uint8)
        return memory[-memory.ctypes.data % 256 :][: needed + 512]

    def checked(self, memory: np.ndarray) -> None:
        assert (memory[-512:] == 0x7F).all(), "written past the end of the workspace"

    def forward(self, *, columns=False, ranks=False, row_weights=None, threads=1):
        n, m, depth = len(self.queries), len(self.documents), self.queries.shape[1]
        lse, positive = np.full((2, n), 7, dtype=np.float32)
        column_lse = np.full(m if columns else 0, 7, dtype=np.float32)
        rank = np.full(n if ranks else 0, 7, dtype=np.int32)
        gradients = row_weights is not None
        by_query = np.full((n if gradients else 0, depth), 7, dtype=self.gradient)
        by_document = np.full((m if gradients else 0, depth), 7, dtype=self.gradient)
        self.loss, by_scale = np.zeros(()), np.zeros(())
        for batch, row, column in self.batches():
            output = ForwardOutput(
                negatives_lse=address(lse[row:]), positive=address(positive[row:]),
                column_negatives_lse=address(column_lse[column:]) if columns else None,
                rank=address(rank[row:]) if ranks else None,
                loss=address(self.loss) if gradients else None,
                by_query=address(by_query[row:]) if gradients else None,
                by_document=address(by_document[column:]) if gradients else None,
                by_scale=address(by_scale) if gradients else None,
                weight=float(row_weights[0]) if gradients and n else 0.0,
            )  # fmt: skip
            memory = self.workspace(batch, columns, gradients)
            self.library.forward(batch, output, address(memory), len(memory) - 512, 0)
            self.checked(memory)
        return lse, positive, column_lse, rank, by_query, by_document, float(by_scale)

    def backward(
        self, lse, column_lse, *, by_negatives_lse, by_positive, by_column_negatives_lse=None,
        threads=1,
    ):  # fmt: skip
        by_query = np.full(self.queries.shape, 7, dtype=self.gradient)
        by_document = np.full(self.documents.shape, 7, dtype=self.gradient)
        by_scale = np.zeros(())
        symmetric = by_column_negatives_lse is not None
        for batch, row, column in self.batches():
            arguments = BackwardArguments(
                negatives_lse=address(lse[row:]),
                column_negatives_lse=address(column_lse[column:]) if symmetric else None,
                by_negatives_lse=address(by_negatives_lse[row:]),
                by_positive=address(by_positive[row:]),
                by_column_negatives_lse=address(by_column_negatives_lse[column:])
                if symmetric
                else None,
                by_query=address(by_query[row:]), by_document=address(by_document[column:]),
                by_scale=address(by_scale),
            )  # fmt: skip
            memory = self.workspace(batch, symmetric, True)
            self.library.backward(batch, arguments, address(memory), len(memory) - 512, 0)
            self.checked(memory)
        return by_query, by_document, float(by_scale)
