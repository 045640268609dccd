"""In-batch InfoNCE that never holds the N x M similarities.

:func:`infonce` takes numpy arrays (the value only) or torch tensors (with autograd). For
``mean`` and ``sum`` the gradients are made in the forward pass, 6 N M D operations in all (8 for
the symmetric loss), and ``backward`` is a multiplication. :func:`infonce_statistics` are the parts
it is made of, for negatives that are spread over devices or memory.
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

    ``loss_i = -log(exp(s_il) / sum_j exp(s_ij))`` with ``s_ij = <q_i, d_j> / temperature +
    log_bias_j``, ``l = labels[i]``, over the documents j that are not masked (van den Oord et al.
    2018, arXiv 1807.03748; with hard negatives as further documents, Karpukhin et al. 2020). Near
    convergence it is log1p of the negatives' share, exact where a softmax rounds to zero. The same
    bits in every run and for every number of threads.

    Args:
        queries: [N, D], float32, bfloat16 or float16; sums and the loss are float32.
        documents: [M, D], of the same dtype, M >= N: positives first, then any further negatives.
        labels: int64 [N], the row of ``documents`` that answers each query; default 0 ... N-1.
        temperature: above zero; a torch scalar may take a gradient.
        symmetric: half of this loss plus half of the same over the columns that are labels: each
            such document picks its query among those not masked for it. Labels must differ.
        query_groups: int64 [N], translation group of each row's positive.
        document_groups: int64 [M], translation group of each document; -1 matches nothing. A
            document of the row's group other than its label is no negative.
        segments: (rows, columns) of consecutive blocks of the batch that share no negatives, the
            languages of a mixed batch for instance; their sums are N and M, a row's label lies in
            its block. What is outside the blocks is never computed.
        log_bias: float32 [M], added to each document's logits, say minus the log of how often it is
            drawn. Takes no gradient.
        negatives: ``in-batch``, or ``hard-only``: a document that is some row's label is nobody's
            negative (Eq. 1 of arXiv 2408.10536).
        normalize: divide every vector by its length (at least 1e-12, as in
            ``torch.nn.functional.normalize``). A zero vector gets no gradient.
        unit_norm: promise that all vectors have length 1; the loss (with segments, of the segment)
            is NaN if one deviates by more than 0.001, in 16 bits by more than 0.01.
        workspace: bytes that the CUDA kernels may take beside inputs and gradients; they take less
            where less is of use.
        reduction: ``mean`` or ``sum`` give a scalar, ``none`` [N].
        return_stats: also return :class:`InBatchMetrics`, of the rows.

    On a GPU (compute capability 8.0 or newer) the logits are products of the vectors as they are;
    for bfloat16 and float16 the weights of the gradients, and the vectors they are multiplied with,
    are rounded to bfloat16. float32 is the sum of three bfloat16 parts, exactly, and its products
    lose nothing above 2^-24. The host never reads what is on the GPU: where a label is out of range
    or a temperature not positive, the loss is NaN, and the labels of a symmetric loss are trusted
    to differ.

    Returns:
        The float32 loss; for numpy a numpy scalar or array. NaN input gives a NaN loss. With
        ``return_stats``, (loss, stats).

    Raises:
        ValueError: shapes or dtypes disagree, M < N, a label is out of range, an option is unknown
            or contradicts another, or temperature is not positive.
        TypeError: embeddings are not floats of 16 or 32 bits, or labels or groups not integers.
        RuntimeError: this build has no CUDA kernels, the GPU cannot run them, or they need more
            workspace (the message says how much). Or a second derivative is asked for: derivatives
            come from ``backward`` and ``torch.autograd.grad``; there is no forward mode and no
            ``torch.func``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if symmetric and negatives == "hard-only":
        raise ValueError("hard-only negatives have no symmetric loss: no query is a negative")
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
    """The log-sum-exp of each row's negatives and the logit of its positive, apart.

    ``softplus(negatives_lse - positive)`` is the loss of :func:`infonce`. Where the documents are
    spread (over devices, over memory), their log-sum-exps add up by ``logaddexp`` and the positive
    is the largest; for torch tensors all of this takes gradients, each share of which is computed
    from the completed sums, again without the N x M logits.

    Args:
        queries, documents, temperature, query_groups, document_groups, log_bias, normalize,
            workspace: as in :func:`infonce`; there may be fewer documents than queries.
        labels: int64 [N]; -1 where the row's positive is not among these documents: all of them are
            negatives.
        columns: also the statistics of each document over the rows. Labels must differ.

    Returns:
        InfoNCEStatistics, arrays or tensors like the input.

    Raises:
        As :func:`infonce`.
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
    """The module that takes these arrays; torch's is imported with the first tensor."""
    if any(kind.__module__.partition(".")[0] == "torch" for kind in type(queries).__mro__):
        from hybridret.losses import _ops

        return _ops
    return _cpu
