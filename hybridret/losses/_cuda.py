"""The ops of :mod:`hybridret.losses._ops` on CUDA tensors, without waiting for the GPU.

Kernels run on the current stream and torch allocates all memory, so CUDA graphs can capture them.
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
"""Largest number of queries or documents: the kernels count them in 32 bits."""


def require() -> None:
    """Raises RuntimeError if this build has no CUDA library."""
    _library.library()


def new_gradients(batch: Batch, requested: bool = True) -> tuple[Tensor, Tensor]:
    """Uninitialised gradients of queries and documents, empty unless ``requested``.

    Shapes and dtypes are the same for the CPU kernels: bfloat16 for bfloat16 inputs, otherwise
    float32. Gradients of float16 inputs are converted only after the multiplication by the upstream
    gradient.
    """
    dtype = torch.bfloat16 if batch.queries.dtype == torch.bfloat16 else torch.float32
    shapes = ((len(x) if requested else 0, x.shape[1]) for x in (batch.queries, batch.documents))
    by_query, by_document = (batch.queries.new_empty(shape, dtype=dtype) for shape in shapes)
    return by_query, by_document


class Segment(NamedTuple):
    """A segment's arguments for the library, and its first query and document."""

    problem: _library.Batch
    query: int
    document: int


def _pointer(tensor: Tensor | None, first: int = 0) -> int | None:
    """The address of ``tensor[first]``."""
    if tensor is None:
        return None
    return int(tensor.data_ptr() + first * tensor.stride(0) * tensor.element_size())


def _contiguous_rows(vectors: Tensor) -> Tensor:
    return vectors if vectors.stride(1) == 1 or vectors.shape[1] < 2 else vectors.contiguous()


class Problem:
    """A batch whose shapes were checked; values on the GPU are checked by the kernels.

    Iterating gives its segments.

    Raises:
        ValueError: shapes disagree, or there are too many queries or documents.
    """

    def __init__(self, batch: Batch, *, gradients: bool) -> None:
        self.queries = _contiguous_rows(batch.queries)
        self.documents = _contiguous_rows(batch.documents)
        self.batch = batch
        n, m = len(self.queries), len(self.documents)
        if self.queries.shape[1] != self.documents.shape[1]:
            raise ValueError(
                f"queries and documents differ in dimension: shapes {list(self.queries.shape)} and "
                f"{list(self.documents.shape)}"
            )
        if max(n, m) > LARGEST:
            raise ValueError(
                f"at most {LARGEST} queries and documents are supported, got {n} and {m}"
            )
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
        totals = [sum(s[side] for s in self.segments) for side in (0, 1)]
        if totals != [n, m]:
            raise ValueError(
                f"segments hold {totals[0]} queries and {totals[1]} documents, the batch has {n} "
                f"and {m}"
            )
        # Without labels the kernel pairs query i with document i of the segment; with several
        # segments that is not document i of the batch, so the labels are passed explicitly.
        self.labels = batch.labels
        if self.labels is None and len(self.segments) > 1:
            self.labels = torch.arange(n, device=self.queries.device)
        self.order = self.begin = None
        if gradients and self.labels is not None:
            ordered, self.order = self.labels.sort(stable=True)
            documents = torch.arange(m + 1, device=ordered.device)
            self.begin = torch.searchsorted(ordered, documents)

    def __iter__(self) -> Iterator[Segment]:
        query = document = 0
        b = self.batch
        for queries, documents in self.segments:
            problem = _library.Batch(
                queries=_pointer(self.queries, query),
                documents=_pointer(self.documents, document),
                query_stride=self.queries.stride(0),
                document_stride=self.documents.stride(0),
                query_count=queries,
                document_count=documents,
                depth=self.queries.shape[1],
                labels=_pointer(self.labels, query),
                label_order=_pointer(self.order),
                label_begin=_pointer(self.begin, document),
                query_groups=_pointer(b.query_groups, query),
                document_groups=_pointer(b.document_groups, document),
                log_bias=_pointer(b.log_bias, document),
                scale=b.scale.data_ptr(),
                logit_bound=b.logit_bound,
                first_query=query,
                first_document=document,
                format=FORMATS[str(self.queries.dtype).partition(".")[2]],
                normalize=b.normalize,
                unit_norm=b.unit_norm,
                hard_only=b.hard_only,
                labels_elsewhere=b.labels_elsewhere,
                first_segment=query == 0 and document == 0,
            )
            yield Segment(problem, query, document)
            query, document = query + queries, document + documents

    def workspace(self, problem: _library.Batch, *, columns: bool, gradients: bool) -> Tensor:
        """Temporary memory for the kernels of one segment, uint8."""
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


class ForwardResult(NamedTuple):
    """Outputs of the forward pass; without gradients the last three are empty or zero."""

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
) -> ForwardResult:
    problem = Problem(batch, gradients=gradients)
    n, m = len(batch.queries), len(batch.documents)
    by_query, by_document = new_gradients(batch, gradients)
    result = ForwardResult(
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
        result.by_scale.zero_()
    with problem.device():
        for segment, query, document in problem:
            output = ForwardOutput(
                negatives_lse=_pointer(result.negatives_lse, query),
                positive=_pointer(result.positive, query),
                document_negatives_lse=_pointer(result.column_negatives_lse, document)
                if columns
                else None,
                rank=_pointer(result.rank, query) if ranks else None,
                loss=None if weight is None else result.loss.data_ptr(),
                by_query=_pointer(result.by_query, query) if gradients else None,
                by_document=_pointer(result.by_document, document) if gradients else None,
                by_scale=result.by_scale.data_ptr() if gradients else None,
                weight=weight or 0.0,
            )
            workspace = problem.workspace(segment, columns=columns, gradients=gradients)
            _library.library().forward(
                segment, output, workspace.data_ptr(), workspace.numel(), problem.stream()
            )
    return result


def total_loss(batch: Batch, requested: Loss) -> tuple[Tensor, ...]:
    result = _forward(
        batch,
        columns=requested.symmetric,
        ranks=requested.ranks,
        weight=1.0 / max(len(batch.queries), 1) if requested.mean else 1.0,
        gradients=requested.gradients,
    )
    return result.loss.float(), result.rank, result.by_query, result.by_document, result.by_scale


def row_statistics(batch: Batch, requested: Statistics) -> tuple[Tensor, ...]:
    return _forward(batch, **requested._asdict(), weight=None, gradients=False)[:4]


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
        for segment, query, document in problem:
            arguments = BackwardArguments(
                negatives_lse=_pointer(given[0], query),
                document_negatives_lse=_pointer(given[1], document),
                by_negatives_lse=_pointer(given[2], query),
                by_positive=_pointer(given[3], query),
                by_document_negatives_lse=_pointer(given[4], document),
                by_query=_pointer(by_query, query),
                by_document=_pointer(by_document, document),
                by_scale=by_scale.data_ptr(),
            )
            workspace = problem.workspace(segment, columns=column_lse is not None, gradients=True)
            _library.library().backward(
                segment, arguments, workspace.data_ptr(), workspace.numel(), problem.stream()
            )
    return by_query, by_document, by_scale
