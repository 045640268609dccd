"""In-batch InfoNCE that never stores the N x M similarity matrix.

:func:`infonce` takes numpy arrays (the value only) or torch tensors (with autograd). For ``mean``
and ``sum`` the gradients are computed in the forward pass, 6 N M D operations in total (8 for the
symmetric loss), and ``backward`` only multiplies them by a factor. :func:`infonce_statistics`
returns the parts of the loss, for negatives that are distributed over devices or computed in parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from numpy.typing import ArrayLike, NDArray

from hybridret.losses import _cpu
from hybridret.losses._options import (
    REDUCTIONS,
    WORKSPACE,
    InBatchMetrics,
    InfoNCEStatistics,
    LossOptions,
    Negatives,
    Reduction,
    Segments,
    make_batch,
)

if TYPE_CHECKING:
    import torch


@overload
def infonce(
    queries: NDArray[Any],
    documents: NDArray[Any],
    labels: ArrayLike | None = None,
    *,
    return_stats: bool = False,
    **options: Unpack[LossOptions],
) -> Any: ...


@overload
def infonce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> torch.Tensor: ...


@overload
def infonce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    return_stats: Literal[True],
    **options: Unpack[LossOptions],
) -> tuple[torch.Tensor, InBatchMetrics]: ...


def infonce(
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    symmetric: bool = False,
    query_groups: Any = None,
    document_groups: Any = None,
    segments: Segments | None = None,
    log_bias: Any = None,
    negatives: Negatives = "in-batch",
    normalize: bool = False,
    unit_norm: bool = False,
    workspace: int = WORKSPACE,
    reduction: Reduction = "mean",
    return_stats: bool = False,
) -> Any:
    """Cross-entropy of picking each query's document among all documents of the batch.

    ``loss_i = -log(exp(s_il) / sum_j exp(s_ij))`` with the logits ``s_ij = <q_i, d_j> / temperature
    + log_bias_j`` and ``l = labels[i]``, over the documents j that are not masked (van den Oord et
    al. 2018, arXiv 1807.03748; with hard negatives as further documents, Karpukhin et al. 2020).
    Near convergence the loss is computed as log1p(negatives / positive), which stays accurate where
    a softmax rounds to zero. Results are bitwise equal in every run and for any number of threads.

    Args:
        queries: [N, D], float32, bfloat16 or float16; sums and the loss are float32.
        documents: [M, D], of the same dtype, M >= N: positives first, then any further negatives.
        labels: int64 [N], index of each query's positive in ``documents``; default 0 ... N-1.
        temperature: above zero; a torch scalar may require a gradient.
        symmetric: the mean of this loss and the loss with the roles swapped: each positive document
            picks its query among the queries that are not masked for it. Labels must be distinct.
        query_groups: int64 [N], translation group of each query's positive.
        document_groups: int64 [M], translation group of each document; -1 matches no group. A
            document of the query's group is not used as its negative.
        segments: (queries, documents) of each segment: consecutive blocks of the batch that share
            no negatives, for example the languages of a mixed batch. The numbers must sum up to N
            and M, and each query's label must be in its segment. Logits between segments are never
            computed.
        log_bias: float32 [M], added to the logits of each document, for example minus the log of
            its sampling probability. Must not require a gradient.
        negatives: ``in-batch``; or ``hard-only``: a document that is the positive of any query is
            not used as a negative (Eq. 1 of arXiv 2408.10536).
        normalize: divide every vector by its length (at least 1e-12, as in
            ``torch.nn.functional.normalize``). A zero vector gets no gradient.
        unit_norm: the vectors already have length 1; the loss (with segments, that of the segment)
            is NaN if a length deviates by more than 0.001 (16-bit inputs: 0.01).
        workspace: bytes of memory that the CUDA kernels may use in addition to inputs and
            gradients; they use only what helps.
        reduction: ``mean`` or ``sum`` give a scalar, ``none`` [N].
        return_stats: also return :class:`InBatchMetrics` of the queries.

    On a GPU (compute capability 8.0 or newer) logits are products of the unrounded vectors. For
    bfloat16 and float16, the gradients' weights and the vectors they are multiplied with are
    rounded to bfloat16. A float32 value is split exactly into three bfloat16 values, and products
    are accurate to 2^-24. Values on the GPU are never read by the host: the loss is NaN if a label
    is out of range or the temperature is not positive, and distinct labels of a symmetric loss are
    not checked.

    Returns:
        The float32 loss; for numpy a numpy scalar or array. NaN input gives a NaN loss. With
        ``return_stats``, (loss, stats).

    Raises:
        ValueError: shapes or dtypes disagree, M < N, a label is out of range, an option is unknown
            or contradicts another, or temperature is not positive.
        TypeError: embeddings are not 16-bit or 32-bit floats, or labels or groups not integers.
        RuntimeError: this build has no CUDA kernels, the GPU cannot run them, or they need more
            workspace (the message says how much). Also for a second derivative: gradients are
            available by ``backward`` and ``torch.autograd.grad``; forward-mode differentiation and
            ``torch.func`` are not supported.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if symmetric and negatives == "hard-only":
        raise ValueError(
            "negatives='hard-only' has no symmetric loss: no query would be a negative"
        )
    backend = _backend(queries)
    batch = make_batch(
        backend,
        queries,
        documents,
        labels,
        temperature=temperature,
        query_groups=query_groups,
        document_groups=document_groups,
        segments=segments,
        log_bias=log_bias,
        negatives=negatives,
        normalize=normalize,
        unit_norm=unit_norm,
        workspace=workspace,
    )
    return backend.infonce(
        batch, symmetric=symmetric, reduction=reduction, return_stats=return_stats
    )


def infonce_statistics(
    queries: Any,
    documents: Any,
    labels: Any = None,
    *,
    temperature: Any = 0.05,
    columns: bool = False,
    query_groups: Any = None,
    document_groups: Any = None,
    log_bias: Any = None,
    normalize: bool = False,
    workspace: int = WORKSPACE,
) -> InfoNCEStatistics:
    """The two parts of each query's loss: log-sum-exp of its negatives, and its positive's logit.

    ``softplus(negatives_lse - positive)`` is the loss of :func:`infonce`. If the documents are
    split (over devices, or computed in parts), call this for each part: combine ``negatives_lse``
    by ``logaddexp`` and ``positive`` by ``maximum``. For torch tensors all of this has gradients;
    each part's are computed from the combined values, again without storing the N x M logits.

    Args:
        queries, documents: as in :func:`infonce`, but there may be fewer documents than queries.
        temperature, query_groups, document_groups: as in :func:`infonce`.
        log_bias, normalize, workspace: as in :func:`infonce`.
        labels: int64 [N]; -1 if the query's positive is not among these documents: then all of them
            are negatives.
        columns: also return the log-sum-exp of each document's negatives, which are queries (for
            the symmetric loss). Labels must be distinct.

    Returns:
        InfoNCEStatistics, arrays or tensors like the input.

    Raises the errors of :func:`infonce`.
    """
    backend = _backend(queries)
    batch = make_batch(
        backend,
        queries,
        documents,
        labels,
        temperature=temperature,
        query_groups=query_groups,
        document_groups=document_groups,
        log_bias=log_bias,
        normalize=normalize,
        workspace=workspace,
        labels_elsewhere=True,
    )
    statistics: InfoNCEStatistics = backend.statistics(batch, columns=columns)
    return statistics


def _backend(queries: Any) -> Any:
    """The module for these arrays; the torch module is imported when the first tensor is passed."""
    if any(kind.__module__.partition(".")[0] == "torch" for kind in type(queries).__mro__):
        from hybridret.losses import _ops

        return _ops
    return _cpu
