"""InfoNCE as a loss for sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridret.losses.functional import infonce
from hybridret.losses.gathering import gather

_SIMILARITIES = {"cos_sim": True, "pairwise_cos_sim": True, "dot_score": False}


class InfoNCELoss(torch.nn.Module):
    """A replacement for sentence-transformers' ``MultipleNegativesRankingLoss``.

    Same call and same value, without storing the similarity matrix, in the dtype of the model's
    embeddings. The columns of a batch are anchor, positive and any number of hard negatives.

    Args:
        model: a ``SentenceTransformer``, or anything that maps a dictionary of features to one with
            ``sentence_embedding`` [N, D].
        scale: 1 / temperature.
        similarity_fct: sentence-transformers' ``cos_sim`` (the default) or ``dot_score``.
        gather_across_devices: use the documents of all processes as negatives; every process needs
            the same batch size. Gradients flow back to the process that computed the embedding.
        directions: ``("query_to_doc",)``; with ``"doc_to_query"`` as well: the symmetric loss.
        partition_mode: ``"joint"``; for the symmetric loss ``"per_direction"``.
        temperature: instead of ``scale``; a tensor or parameter may require a gradient.
        labels_are_groups: the labels that the trainer passes are the anchors' translation groups: a
            positive of the anchor's group is not used as its negative. Otherwise labels are
            ignored, as in sentence-transformers. Labels [K, 1] are the groups of K documents in one
            column, positives first (:class:`hybridret.training.sentence_transformers.
            TrainerBatches`); documents of all processes are then negatives.

    Raises:
        ValueError: an option of ``MultipleNegativesRankingLoss`` that is not supported, or both
            scale and temperature.
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
        is_symmetric = {
            (("query_to_doc",), "joint"): False,
            (("query_to_doc",), "per_direction"): False,
            (("doc_to_query", "query_to_doc"), "per_direction"): True,
        }
        mode = tuple(sorted(directions)), partition_mode
        if mode not in is_symmetric:
            raise ValueError(
                "directions must be query_to_doc alone, or both query_to_doc and doc_to_query with "
                f"partition_mode='per_direction'; got {tuple(directions)} and {partition_mode!r}"
            )
        self.model = model
        self.temperature = temperature if temperature is not None else 1 / (scale or 20.0)
        self.normalize = _SIMILARITIES[kind]
        self.gather_across_devices = gather_across_devices
        self.symmetric = is_symmetric[mode]
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
            raise ValueError(
                f"expected columns of anchors and positives, got {len(embeddings)} column(s)"
            )
        queries, *documents = embeddings
        if self.labels_are_groups and labels is not None and labels.ndim == 2:
            return self._with_groups_of_documents(queries, documents, labels[:, 0])
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
        all_queries, all_documents, all_groups = queries, documents, groups
        gathers = self.gather_across_devices and torch.distributed.is_initialized()
        if gathers:
            offset = torch.distributed.get_rank() * rows
            all_queries, _ = gather(queries)
            all_documents = [gather(x)[0] for x in documents]
            all_groups = None if groups is None else gather(groups)[0]
        positives = torch.arange(offset, offset + rows, device=queries.device)
        options: dict[str, Any] = {"temperature": self.temperature, "normalize": self.normalize}
        loss: Tensor = infonce(
            queries,
            torch.cat(all_documents),
            positives,
            symmetric=self.symmetric and not gathers,
            **_groups(groups, all_groups, sum(map(len, all_documents[1:]))),
            **options,
        )
        if self.symmetric and gathers:
            options |= _groups(groups, all_groups)
            swapped = infonce(documents[0], all_queries, positives, **options)
            loss = (loss + swapped) / 2
        return loss

    def _with_groups_of_documents(
        self, queries: Tensor, documents: list[Tensor], labels: Tensor
    ) -> Tensor:
        """The loss of one column of documents, positives first, whose groups are all given."""
        if len(documents) != 1 or len(documents[0]) != len(labels) or self.symmetric:
            raise ValueError(
                f"{len(labels)} groups for {len(queries)} anchors: expected one column of as many "
                f"documents, and the loss from anchors to documents, got columns of "
                f"{[len(x) for x in documents]} rows"
            )
        everything, groups, offset = documents[0], labels, 0
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            everything, offset = gather(documents[0])
            groups, _ = gather(labels)
        positives = torch.arange(offset, offset + len(queries), device=queries.device)
        loss: Tensor = infonce(
            queries,
            everything,
            positives,
            query_groups=labels[: len(queries)],
            document_groups=groups,
            temperature=self.temperature,
            normalize=self.normalize,
        )
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's settings for the model card."""
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


def _groups(own: Tensor | None, gathered: Tensor | None, hard_negatives: int = 0) -> dict[str, Any]:
    """The group arguments of infonce; the groups of hard negatives are unknown (-1)."""
    if own is None or gathered is None:
        return {}
    return {
        "query_groups": own,
        "document_groups": torch.cat([gathered, gathered.new_full((hard_negatives,), -1)]),
    }
