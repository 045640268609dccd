"""Taking the language out of an encoder, without training, and measuring what it costs.

:func:`debias` estimates the language directions from some of the texts (:mod:`hybridret.encoder.
debias`), measures the trade-off on others (:mod:`hybridret.evaluation.trade_off`), chooses how much
is taken out, and adds that as one linear layer to the encoder: queries and documents are embedded
as before, by every reader of the sentence-transformers format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from hybridret.data.languages import normalize_language
from hybridret.data.table import Dataset, Document
from hybridret.encoder.debias import (
    LanguageDirections,
    Method,
    check_strength,
    language_directions,
)
from hybridret.encoder.model import Dense
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import DataError
from hybridret.evaluation.trade_off import TradeOff, trade_off

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(21))
LARGEST_LOSS = 0.02
"""How much RR of own-language answers may fall at the strength that is chosen."""
EASY = 0.95
"""RR of own-language answers above which texts are too easy to show a loss."""
CAUTIOUS = 0.5
"""The strength that is chosen on such texts."""
ESTIMATED_ON, MEASURED_ON = 160, 200
"""Translation groups that are embedded for the directions, and for the trade-off."""


@dataclass(frozen=True)
class DebiasResult:
    """What was taken out of an encoder, and what that does.

    Attributes:
        strength: share of the language directions that was taken out.
        trade_off: scores on texts that the directions were not estimated from, at
            :data:`STRENGTHS`.
    """

    directions: LanguageDirections
    strength: float
    trade_off: TradeOff

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "method": self.directions.method,
            "directions": len(self.directions.basis),
            "languages": dict(zip(self.directions.languages, self.directions.counts, strict=True)),
            "strength": self.strength,
            "trade_off": self.trade_off.to_dict(),
        }


def debias(
    encoder: TorchEncoder,
    dataset: Dataset,
    *,
    languages: Sequence[str] | None = None,
    method: Method | None = None,
    directions: int | None = None,
    strength: float | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> DebiasResult:
    """Takes the language directions out of an encoder, in place.

    Args:
        dataset: queries and documents in the languages of the pool that will be searched, ideally
            translations of each other; a few hundred are enough, and no more are embedded. It must
            not be the data that the encoder is evaluated on afterwards.
        languages: of the pool; each must be in the data set. By default all of it.
        method: see :func:`hybridret.encoder.debias.language_directions`; by default ``parallel`` if
            the documents have translations, else ``means``.
        directions: how many; see there.
        strength: from 0 to 1. By default the one at which answers in other languages gain most
            recall@10 while RR of answers in the query's own language falls by at most
            :data:`LARGEST_LOSS`, see :func:`choose_strength`.

    Raises:
        DataError: fewer than two languages, a language that the data set lacks, too many
            directions, a strength outside of 0 to 1, or too few translated documents to measure the
            trade-off on.
    """
    if strength is not None:
        check_strength(strength)
    if languages is not None:
        tags = sorted({normalize_language(language) for language in languages})
        dataset = dataset.only_languages(tags)
    if len(dataset.languages) < 2:
        raise DataError(
            f"{dataset.name}: language directions need texts in at least two languages, got "
            f"{', '.join(dataset.languages) or 'none'}"
        )
    estimated, measured = _split(dataset)
    documents = list(estimated.documents)
    found = language_directions(
        encoder.encode_documents(
            [d.full_text for d in documents], batch_size=batch_size, progress=progress
        ),
        [d.language for d in documents],
        groups=[d.group_id for d in documents],
        method=method or ("parallel" if _has_translations(estimated) else "means"),
        directions=directions,
    )
    scores = trade_off(
        encoder.encode_queries(
            [q.text for q in measured.queries], batch_size=batch_size, progress=progress
        ),
        encoder.encode_documents(
            [d.full_text for d in measured.documents], batch_size=batch_size, progress=progress
        ),
        measured,
        found,
        similarity=encoder.config.similarity,
        strengths=STRENGTHS,
    )
    chosen = choose_strength(scores) if strength is None else strength
    add_layer(encoder, found.matrix(chosen))
    return DebiasResult(found, chosen, scores)


def choose_strength(scores: TradeOff) -> float:
    """The strength of the best recall@10 of other languages among those that cost little.

    At most :data:`LARGEST_LOSS` of the RR of own-language answers may be lost. On texts that are
    too easy to show a loss (:data:`EASY`), :data:`CAUTIOUS`.
    """
    if is_easy(scores):
        return CAUTIOUS
    lost = scores.own["RR"][0] - scores.own["RR"]
    gained = np.where(lost <= LARGEST_LOSS, scores.other["recall@10"], -1.0)
    return scores.strengths[int(gained.argmax())]


def is_easy(scores: TradeOff) -> bool:
    """Whether nearly all own-language answers are found first, so that texts show no loss."""
    return bool(scores.own["RR"][0] > EASY)


def add_layer(encoder: TorchEncoder, matrix: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Multiplies the encoder's vectors [.., D] by a matrix [D, D], before any normalisation."""
    size = encoder.dimension
    layer = Dense(size, size, bias=False, activation="Identity")
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(matrix.T.astype(np.float32)))
    device = next(encoder.model.parameters()).device
    encoder.model.dense.append(layer.to(device))


def _split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Documents to estimate directions from, and groups of queries to measure the trade-off on.

    Chosen by a hash of the names: the same ones on every machine.
    """
    relevant = dataset.relevant_by_group()
    group_of = {d.document_id: d.group_id for d in dataset.documents}
    languages: dict[str, set[str]] = {}
    for document in dataset.documents:
        languages.setdefault(document.group_id, set()).add(document.language)
    names = sorted(languages, key=lambda name: sha256(name.encode()).digest())
    # Groups in several languages first: only these can be measured on, and they say most.
    names.sort(key=lambda name: len(languages[name]) < 2)
    several = sum(len(languages[name]) > 1 for name in names)
    held = set(names[: min(MEASURED_ON, several // 2)])
    kept = set([name for name in names if name not in held][:ESTIMATED_ON])
    if not held or not kept:
        raise DataError(
            f"{dataset.name}: {several} documents with translations are too few: some are needed "
            f"to estimate directions from and others to measure the trade-off on"
        )
    asked: dict[str, str] = {}  # the first question on each group of documents
    for question, found in relevant.items():
        for document_id in found:
            if group_of[document_id] in held:
                asked.setdefault(group_of[document_id], question)
    measured = dataset.only_query_groups(set(asked.values()))
    if not measured.queries:
        raise DataError(f"{dataset.name}: no query asks for a document with translations")
    first: dict[tuple[str, str], Document] = {}
    for document in dataset.documents:
        if document.group_id in kept:
            first.setdefault((document.group_id, document.language), document)
    estimated = list(first.values())
    if lacking := set(dataset.languages) - {d.language for d in estimated}:
        raise DataError(
            f"{dataset.name}: no document in {', '.join(sorted(lacking))} to estimate language "
            f"directions from"
        )
    return Dataset(dataset.name, [], estimated, {}), measured


def _has_translations(dataset: Dataset) -> bool:
    languages: dict[str, set[str]] = {}
    for document in dataset.documents:
        languages.setdefault(document.group_id, set()).add(document.language)
    alone = {next(iter(found)) for found in languages.values() if len(found) == 1}
    together = set().union(*(found for found in languages.values() if len(found) > 1))
    return not alone - together
