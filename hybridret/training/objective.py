"""The loss of a batch, over the documents of all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridret.losses._options import InBatchMetrics
from hybridret.losses.functional import infonce
from hybridret.losses.gathering import gather


def contrastive_loss(
    queries: Tensor,
    documents: Tensor,
    groups: Tensor,
    *,
    temperature: float,
    normalize: bool,
    negative_counts: Tensor | None = None,
    in_batch_negatives: bool = True,
    reduction: Any = "mean",
) -> tuple[Tensor, InBatchMetrics]:
    """InfoNCE of this process's queries against the documents of all processes.

    The mean of its gradients over the processes is that of one process with the whole batch:
    gradients flow back to the process that embedded a document.

    Args:
        queries: [n, D].
        documents: [n + k, D], the queries' documents, then k hard negatives.
        groups: int64 [n + k], translation group of each document, see :class:`~.pairs.Batch`.
        negative_counts: int64 [n], how many of the hard negatives are of each query.
        in_batch_negatives: documents of other queries are negatives, too. Otherwise a query has its
            own hard negatives alone, and no loss if it has none.
    """
    n = len(queries)
    options: dict[str, Any] = {
        "temperature": temperature,
        "normalize": normalize,
        "reduction": reduction,
        "return_stats": True,
    }
    own = torch.arange(n, device=queries.device)
    if not in_batch_negatives:
        counts = torch.zeros_like(own) if negative_counts is None else negative_counts
        owner = torch.cat([own, torch.repeat_interleave(own, counts)])
        order = torch.argsort(owner, stable=True)
        sizes = [(1, 1 + count) for count in counts.tolist()]
        first = torch.cumsum(counts + 1, 0) - counts - 1
        return infonce(  # type: ignore[no-any-return]
            queries,
            documents[order],
            first,
            query_groups=groups[:n],
            document_groups=groups[order],
            segments=sizes,
            **options,
        )
    everything, all_groups, offset = documents, groups, 0
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        everything, offset = gather(documents)
        all_groups, _ = gather(groups)
    return infonce(  # type: ignore[no-any-return]
        queries,
        everything,
        own + offset,
        query_groups=groups[:n],
        document_groups=all_groups,
        **options,
    )
