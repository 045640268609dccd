"""InfoNCE as a loss of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridret.losses.functional import infonce

_SIMILARITIES = {"cos_sim": True, "pairwise_cos_sim": True, "dot_score": False}


class InfoNCELoss(torch.nn.Module):
    """Takes the place of sentence-transformers' ``MultipleNegativesRankingLoss``.

    The same call and the same value, without the matrix of similarities, in the dtype the model
    embeds in. Columns of a batch are anchor, positive and any number of hard negatives.

    Args:
        model: a ``SentenceTransformer``, or anything that maps a dictionary of features to one with
            ``sentence_embedding`` [N, D].
        scale: 1 / temperature.
        similarity_fct: sentence-transformers' ``cos_sim`` (the default) or ``dot_score``.
        gather_across_devices: the documents of all processes are negatives; every process needs the
            same batch size. Gradients flow to the process that made the embedding.
        directions: ``("query_to_doc",)``, or with ``"doc_to_query"`` too the symmetric loss.
        partition_mode: ``"joint"``; of the symmetric loss, ``"per_direction"``.
        temperature: instead of ``scale``; a tensor or parameter may take a gradient.
        labels_are_groups: the labels the trainer passes are the anchors' translation groups: a
            positive of the same group is no negative. Otherwise they are ignored, as there.

    Raises:
        ValueError: an option that only the other loss knows, or both scale and temperature.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scale: float | None = None,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        *,
        temperature: float | Tensor | None = None,
        labels_are_groups: bool = False,
    ) -> None:
        super().__init__()
        if scale is not None and temperature is not None:
            raise ValueError("scale is 1 / temperature: give one of them")
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        kind = (
            "cos_sim"
            if similarity_fct is None
            else getattr(similarity_fct, "__name__", repr(similarity_fct))
        )
        if kind not in _SIMILARITIES:
            raise ValueError(f"similarity_fct must be one of cos_sim, dot_score, got {kind}")
        ways = {
            (("query_to_doc",), "joint"): False,
            (("query_to_doc",), "per_direction"): False,
            (("doc_to_query", "query_to_doc"), "per_direction"): True,
        }
        way = tuple(sorted(directions)), partition_mode
        if way not in ways:
            raise ValueError(
                "directions must be query_to_doc alone, or with doc_to_query and "
                f"partition_mode='per_direction'; got {tuple(directions)} and {partition_mode!r}"
            )
        self.model = model
        self.temperature = temperature if temperature is not None else 1 / (scale or 20.0)
        self.normalize = _SIMILARITIES[kind]
        self.gather_across_devices = gather_across_devices
        self.symmetric = ways[way]
        self.labels_are_groups = labels_are_groups

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Any = None) -> Tensor:
        """The mean loss, float32, of a batch of tokenized columns."""
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(
        self, embeddings: list[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """The mean loss, float32, of the embeddings [N, D] of each column."""
        if len(embeddings) < 2:
            raise ValueError(f"expected anchors and positives, got {len(embeddings)} column(s)")
        queries, *documents = embeddings
        if any(len(column) != len(queries) for column in documents):
            raise ValueError(
                f"columns must have as many rows as the anchors, got {[len(x) for x in embeddings]}"
            )
        groups = None
        if self.labels_are_groups:
            if labels is None:
                raise ValueError("labels_are_groups, but the batch has no labels")
            groups = torch.as_tensor(labels).reshape(-1)
        rows, offset = len(queries), 0
        everybody = (queries, documents, groups)
        if self.gather_across_devices and torch.distributed.is_initialized():
            offset = torch.distributed.get_rank() * rows
            everybody = (
                _gather(queries),
                [_gather(x) for x in documents],
                None if groups is None else _gather(groups),
            )
        all_queries, all_documents, all_groups = everybody
        own = torch.arange(offset, offset + rows, device=queries.device)
        options: dict[str, Any] = {"temperature": self.temperature, "normalize": self.normalize}
        alone = all_queries is queries
        loss: Tensor = infonce(
            queries,
            torch.cat(all_documents),
            own,
            symmetric=self.symmetric and alone,
            **_groups(groups, all_groups, sum(map(len, all_documents[1:]))),
            **options,
        )
        if self.symmetric and not alone:
            back = infonce(documents[0], all_queries, own, **_groups(groups, all_groups), **options)
            loss = (loss + back) / 2
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """What a model card says of the loss."""
        return {
            "temperature": float(torch.as_tensor(self.temperature).detach()),
            "similarity_fct": "cos_sim" if self.normalize else "dot_score",
            "gather_across_devices": self.gather_across_devices,
            "symmetric": self.symmetric,
            "labels_are_groups": self.labels_are_groups,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the loss."""
        return (
            "@misc{oord2018representation,\n"
            "    title={Representation Learning with Contrastive Predictive Coding},\n"
            "    author={Aaron van den Oord and Yazhe Li and Oriol Vinyals},\n"
            "    year={2018},\n    eprint={1807.03748},\n    archivePrefix={arXiv}\n}"
        )


def _groups(own: Tensor | None, everybody: Tensor | None, unknown: int = 0) -> dict[str, Any]:
    if own is None or everybody is None:
        return {}
    return {
        "query_groups": own,
        "document_groups": torch.cat([everybody, everybody.new_full((unknown,), -1)]),
    }


def _gather(tensor: Tensor) -> Tensor:
    """Of all processes, rank after rank; gradients are summed back to where it came from."""
    import torch.distributed.nn

    return torch.cat(torch.distributed.nn.all_gather(tensor))  # type: ignore[no-untyped-call]
