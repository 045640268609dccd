"""The ops of :mod:`hybridret.losses._ops` on CUDA tensors: nothing here waits for the GPU.

Kernels run on the current stream, all memory is torch's: they can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridret.losses import _library
from hybridret.losses._library import FORMATS, BackwardArguments, ForwardOutput
from hybridret.losses._options import Batch, Loss, Statistics

LARGEST = 2**31 - 2**16
"""Rows of either side: the kernels count them in 32 bits."""


def require() -> None:
    """Raises RuntimeError: this build has no CUDA library."""
    _library.library()


def new_gradients(batch: Batch, asked: bool = True) -> tuple[Tensor, Tensor]:
    """Room for both gradients, or for none; float16's are float32 until the upstream factor is in.

    Shapes and dtypes are the CPU kernels' too.
    """
    dtype = torch.bfloat16 if batch.queries.dtype == torch.bfloat16 else torch.float32
    shapes = ((len(x) if asked else 0, x.shape[1]) for x in (batch.queries, batch.documents))
    by_query, by_document = (batch.queries.new_empty(shape, dtype=dtype) for shape in shapes)
    return by_query, by_document


class Segment(NamedTuple):
    """A block of the diagonal as the library sees it, and where it begins."""

    problem: _library.Batch
    row: int
    column: int


def _pointer(tensor: Tensor | None, first: int = 0) -> int | None:
    """The address of ``tensor[first]``."""
    if tensor is None:
        return None
    return int(tensor.data_ptr() + first * tensor.stride(0) * tensor.element_size())


def _whole_rows(vectors: Tensor) -> Tensor:
    return vectors if vectors.stride(1) == 1 or vectors.shape[1] < 2 else vectors.contiguous()


class Problem:
    """A batch, checked as far as the host can see it.

    Raises:
        ValueError: shapes disagree, or a side is too large.
    """

    def __init__(self, batch: Batch, *, gradients: bool) -> None:
        self.queries, self.documents = _whole_rows(batch.queries), _whole_rows(batch.documents)
        self.batch = batch
        n, m = len(self.queries), len(self.documents)
        if self.queries.shape[1] != self.documents.shape[1]:
            raise ValueError(
                f"queries and documents differ in dimension: {list(self.queries.shape)} against "
                f"{list(self.documents.shape)}"
            )
        if max(n, m) > LARGEST:
            raise ValueError(f"at most {LARGEST} queries and documents, got {n} and {m}")
        if (batch.query_groups is None) != (batch.document_groups is None):
            raise ValueError("query_groups and document_groups go together: give both or neither")
        for name, length in (
            ("labels", n),
            ("query_groups", n),
            ("document_groups", m),
            ("log_bias", m),
        ):
            given = getattr(batch, name)
            if given is not None and given.shape != (length,):
                raise ValueError(f"{name} must have shape [{length}], got {list(given.shape)}")
        self.segments = [[n, m]] if batch.segments is None else batch.segments.tolist() or [[0, 0]]
        held = [sum(s[side] for s in self.segments) for side in (0, 1)]
        if held != [n, m]:
            raise ValueError(
                f"segments hold {held[0]} rows and {held[1]} columns, the batch has {n} and {m}"
            )
        # Without labels a row's own column answers it; in segments columns are counted anew.
        self.labels = batch.labels
        if self.labels is None and len(self.segments) > 1:
            self.labels = torch.arange(n, device=self.queries.device)
        self.order = self.begin = None
        if gradients and self.labels is not None:
            ordered, self.order = self.labels.sort(stable=True)
            columns = torch.arange(m + 1, device=ordered.device)
            self.begin = torch.searchsorted(ordered, columns)

    def __iter__(self) -> Iterator[Segment]:
        row = column = 0
        b = self.batch
        for rows, columns in self.segments:
            problem = _library.Batch(
                queries=_pointer(self.queries, row),
                documents=_pointer(self.documents, column),
                query_stride=self.queries.stride(0),
                document_stride=self.documents.stride(0),
                query_count=rows,
                document_count=columns,
                depth=self.queries.shape[1],
                labels=_pointer(self.labels, row),
                label_order=_pointer(self.order),
                label_begin=_pointer(self.begin, column),
                query_groups=_pointer(b.query_groups, row),
                document_groups=_pointer(b.document_groups, column),
                log_bias=_pointer(b.log_bias, column),
                scale=b.scale.data_ptr(),
                logit_bound=b.logit_bound,
                first_query=row,
                first_document=column,
                format=FORMATS[str(self.queries.dtype).partition(".")[2]],
                normalize=b.normalize,
                unit_norm=b.unit_norm,
                hard_only=b.hard_only,
                labels_elsewhere=b.labels_elsewhere,
                first_segment=row == 0 and column == 0,
            )
            yield Segment(problem, row, column)
            row, column = row + rows, column + columns

    def room(self, problem: _library.Batch, *, columns: bool, gradients: bool) -> Tensor:
        """The workspace of a segment."""
        size = _library.library().workspace(
            problem, columns=columns, gradients=gradients, limit=self.batch.workspace
        )
        return torch.empty(size, dtype=torch.uint8, device=self.queries.device)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.queries.new_empty(shape, dtype=dtype)

    def stream(self) -> int:
        """The current stream of the device that the tensors are on."""
        device = self.queries.device
        return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0

    def device(self) -> AbstractContextManager[Any]:
        device = self.queries.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Found(NamedTuple):
    """What a forward pass leaves; without gradients the last three hold nothing."""

    negatives_lse: Tensor
    positive: Tensor
    column_negatives_lse: Tensor
    rank: Tensor
    loss: Tensor
    by_query: Tensor
    by_document: Tensor
    by_scale: Tensor


def _forward(
    batch: Batch, *, columns: bool, ranks: bool, weight: float | None, gradients: bool
) -> Found:
    problem = Problem(batch, gradients=gradients)
    n, m = len(batch.queries), len(batch.documents)
    by_query, by_document = new_gradients(batch, gradients)
    found = Found(
        problem.empty(n),
        problem.empty(n),
        problem.empty(m if columns else 0),
        problem.empty(n if ranks else 0, dtype=torch.int32),
        problem.empty(dtype=torch.float64),
        by_query,
        by_document,
        problem.empty(dtype=torch.float64),
    )
    if not gradients:
        found.by_scale.zero_()
    with problem.device():
        for segment, row, column in problem:
            output = ForwardOutput(
                negatives_lse=_pointer(found.negatives_lse, row),
                positive=_pointer(found.positive, row),
                document_negatives_lse=_pointer(found.column_negatives_lse, column)
                if columns
                else None,
                rank=_pointer(found.rank, row) if ranks else None,
                loss=None if weight is None else found.loss.data_ptr(),
                by_query=_pointer(found.by_query, row) if gradients else None,
                by_document=_pointer(found.by_document, column) if gradients else None,
                by_scale=found.by_scale.data_ptr() if gradients else None,
                weight=weight or 0.0,
            )
            room = problem.room(segment, columns=columns, gradients=gradients)
            _library.library().forward(
                segment, output, room.data_ptr(), room.numel(), problem.stream()
            )
    return found


def total_loss(batch: Batch, asked: Loss) -> tuple[Tensor, ...]:
    found = _forward(
        batch,
        columns=asked.symmetric,
        ranks=asked.ranks,
        weight=1.0 / max(len(batch.queries), 1) if asked.mean else 1.0,
        gradients=asked.gradients,
    )
    return found.loss.float(), found.rank, found.by_query, found.by_document, found.by_scale


def row_statistics(batch: Batch, asked: Statistics) -> tuple[Tensor, ...]:
    return _forward(batch, **asked._asdict(), weight=None, gradients=False)[:4]


def statistics_backward(
    batch: Batch,
    lse: Tensor,
    column_lse: Tensor | None,
    by_lse: Tensor,
    by_positive: Tensor,
    by_column_lse: Tensor | None,
) -> tuple[Tensor, ...]:
    problem = Problem(batch, gradients=True)
    by_query, by_document = new_gradients(batch)
    by_scale = problem.empty(dtype=torch.float64)
    given = [
        None if x is None else x.contiguous()
        for x in (lse, column_lse, by_lse, by_positive, by_column_lse)
    ]
    with problem.device():
        for segment, row, column in problem:
            arguments = BackwardArguments(
                negatives_lse=_pointer(given[0], row),
                document_negatives_lse=_pointer(given[1], column),
                by_negatives_lse=_pointer(given[2], row),
                by_positive=_pointer(given[3], row),
                by_document_negatives_lse=_pointer(given[4], column),
                by_query=_pointer(by_query, row),
                by_document=_pointer(by_document, column),
                by_scale=by_scale.data_ptr(),
            )
            room = problem.room(segment, columns=column_lse is not None, gradients=True)
            _library.library().backward(
                segment, arguments, room.data_ptr(), room.numel(), problem.stream()
            )
    return by_query, by_document, by_scale
