"""Taking the language out of an encoder, without training, and measuring what it costs.

:func:`debias` estimates the language directions from some of the texts (:mod:`hybridret.encoder.
debias`), measures the trade-off on others (:mod:`hybridret.evaluation.trade_off`), chooses how much
is taken out, and adds that as one linear layer to the encoder: queries and documents are embedded
as before, by every reader of the sentence-transformers format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridret.data.languages import matches_language, normalize_language
from hybridret.data.table import Dataset, Document, Query, languages_of_groups
from hybridret.encoder.debias import (
    LanguageDirections,
    Method,
    check_strength,
    language_directions,
)
from hybridret.errors import DataError
from hybridret.evaluation.trade_off import TradeOff, trade_off

if TYPE_CHECKING:
    from hybridret.encoder.torch_encoder import TorchEncoder

STRENGTHS = tuple(round(0.05 * step, 2) for step in range(21))
LARGEST_LOSS = 0.02
"""How much RR of own-language answers may fall at the strength that is chosen."""
LARGEST_LOSS_ALONE = 0.005
"""How much recall@10 of own-language answers may fall, in any language, where nothing is gained."""
EASY = 0.95
"""RR of own-language answers above which texts are too easy to show a loss."""
CAUTIOUS = 0.5
"""The strength that is chosen where a loss, or a gain, cannot be seen."""
ESTIMATED_ON, MEASURED_ON = 160, 200
"""Documents of each language that are embedded for the directions, and for the trade-off."""


@dataclass(frozen=True)
class DebiasResult:
    """What was taken out of an encoder, and what that does.

    Attributes:
        strength: share of the language directions that was taken out.
        trade_off: scores on texts that the directions were not estimated from, at
            :data:`STRENGTHS`.
        lacking: languages of the pool that the texts lacked.
    """

    directions: LanguageDirections
    strength: float
    trade_off: TradeOff
    lacking: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "method": self.directions.method,
            "directions": len(self.directions.basis),
            "languages": dict(zip(self.directions.languages, self.directions.counts, strict=True)),
            "lacking": self.lacking,
            "strength": self.strength,
            "trade_off": self.trade_off.to_dict(),
        }


def debias(
    encoder: TorchEncoder,
    texts: Dataset,
    *,
    measure_on: Dataset | None = None,
    languages: Sequence[str] | None = None,
    method: Method | None = None,
    directions: int | None = None,
    strength: float | None = None,
    force: bool = False,
    batch_size: int = 32,
    progress: bool = False,
) -> DebiasResult:
    """Takes the language directions out of an encoder, in place.

    Args:
        texts: documents in the languages of the pool that will be searched, ideally translations
            of each other; a few hundred are enough, and no more are embedded. It must not be the
            data that the encoder is evaluated on afterwards.
        measure_on: queries and documents like those that will be searched, to measure the trade-off
            on. By default the documents of ``texts`` that the directions are not estimated from,
            with the queries that they answer, or as their own queries if there are none.
        languages: of the pool. By default all of ``texts``.
        method: see :func:`hybridret.language_directions`; by default ``parallel`` if the documents
            have translations, else ``means``.
        directions: how many; see there.
        strength: from 0 to 1; by default chosen by :func:`choose_strength`.
        force: go on with the other languages if the texts lack one of ``languages``, and where
            answers in the query's language are lost and nothing is gained (:func:`refusal`).

    Raises:
        DataError: fewer than two languages, a language that the texts lack, too many directions, a
            strength outside of 0 to 1, nothing to measure the trade-off on, or a loss without gain.
    """
    if strength is not None:
        check_strength(strength)
    pool = sorted({normalize_language(language) for language in languages or texts.languages})
    lacking = [x for x in pool if not any(matches_language(found, x) for found in texts.languages)]
    if lacking and not force:
        raise DataError(
            f"{texts.name}: no texts in {', '.join(lacking)}; it has {', '.join(texts.languages)}. "
            f"A language without texts gains less than the others; force to go on without"
        )
    texts = texts.only_languages([language for language in pool if language not in lacking])
    if measure_on is not None:
        spoken = measure_on.languages
        here = [x for x in spoken if any(matches_language(x, language) for language in pool)]
        measure_on = measure_on.only_languages(here)
    if len(texts.languages) < 2:
        raise DataError(
            f"{texts.name}: language directions need texts in at least two languages, got "
            f"{', '.join(texts.languages) or 'none'}"
        )
    if measure_on is None:
        measured = part_to_measure_on(texts, 0.5)
        held = {d.group_id for d in measured.documents} if measured else set()
    else:
        measured, held = part_to_measure_on(measure_on), set()
    if measured is None:
        raise DataError(
            f"{(measure_on or texts).name}: nothing to measure the trade-off on; it needs "
            f"documents with queries or with translations"
        )
    estimated = texts_to_estimate_on(texts, held)
    found = language_directions(
        encoder.encode_documents(
            [d.full_text for d in estimated], batch_size=batch_size, progress=progress
        ),
        [d.language for d in estimated],
        groups=[d.group_id for d in estimated],
        method=method or ("parallel" if have_translations(estimated) else "means"),
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
        strengths=STRENGTHS if strength is None else sorted({*STRENGTHS, strength}),
    )
    chosen = choose_strength(scores) if strength is None else strength
    result = DebiasResult(found, chosen, scores, lacking)
    if (reason := refusal(result)) and not force:
        raise DataError(reason)
    encoder.add_linear(found.matrix(result.strength))
    return result


def choose_strength(scores: TradeOff) -> float:
    """The strength of the best recall@10 of other languages among those that cost little.

    At most :data:`LARGEST_LOSS` of the RR of own-language answers may be lost. On texts that are
    too easy to show a loss (:data:`EASY`), or have no answers in other languages to show a gain,
    not more than :data:`CAUTIOUS`.
    """
    lost = scores.own.mean("RR")[0] - scores.own.mean("RR")
    allowed = ~(lost > LARGEST_LOSS)
    strengths = np.array(scores.strengths)
    if is_easy(scores) or not len(scores.other):
        return float(strengths[allowed & (strengths <= CAUTIOUS)].max())
    gained = np.where(allowed, scores.other.mean("recall@10"), -1.0)
    return scores.strengths[int(gained.argmax())]


def is_easy(scores: TradeOff) -> bool:
    """Whether nearly all own-language answers are found first, so that texts show no loss."""
    return bool(not len(scores.own) or scores.own.mean("RR")[0] > EASY)


def refusal(result: DebiasResult) -> str | None:
    """Why the encoder is better kept as it is; None if there is no such reason.

    Where all answers are in the query's language nothing can be gained, and recall@10 may fall by
    at most :data:`LARGEST_LOSS_ALONE` in any language.
    """
    scores, at = result.trade_off, result.trade_off.strengths.index(result.strength)
    if len(scores.other):
        return None
    lost = {name: scores.lost("recall@10", at, name) for name in scores.languages}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] <= LARGEST_LOSS_ALONE + 1e-9:
        return None
    return (
        f"{scores.dataset}: every answer is in the query's language, so there is nothing to gain, "
        f"and at strength {result.strength:g} recall@10 falls by {lost[worst]:.3f} in {worst} "
        f"(more than {LARGEST_LOSS_ALONE}): keep the encoder as it is, or choose a smaller strength"
    )


def part_to_measure_on(dataset: Dataset, share: float = 1.0) -> Dataset | None:
    """Queries and the documents that answer them, up to :data:`MEASURED_ON` of each language.

    One query group for each translation group of documents. Documents without any queries are their
    own queries if they have translations.

    Args:
        share: at most this share of a language's documents that answer a query.

    Returns:
        None if no query has an answer.
    """
    if not dataset.queries and have_translations(dataset.documents):
        documents = list(dataset.documents)
        queries = [Query(d.document_id, d.full_text, d.language, d.group_id) for d in documents]
        own = {d.document_id: {d.document_id: 1} for d in documents}
        dataset = Dataset(dataset.name, queries, documents, own)
    group_of = {d.document_id: d.group_id for d in dataset.documents}
    asked: dict[str, str] = {}  # the first question on each group of documents
    for question, answers in dataset.relevant_by_group().items():
        for document_id in answers:
            asked.setdefault(group_of[document_id], question)
    languages = {g: x for g, x in languages_of_groups(dataset.documents).items() if g in asked}
    available = Counter(language for found in languages.values() for language in found)
    most = {name: min(MEASURED_ON, int(share * count)) for name, count in available.items()}
    held = _take(languages, most)
    return dataset.only_query_groups({asked[name] for name in held}) if held else None


def texts_to_estimate_on(texts: Dataset, without: Collection[str] = ()) -> list[Document]:
    """Documents and queries, as documents: :data:`ESTIMATED_ON` of each in a language.

    One of each translation group in each language. Both, because language directions differ a
    little between short and long texts.

    Args:
        without: translation groups of documents that are kept for other uses, with their queries.

    Raises:
        DataError: no text is left in a language.
    """
    group_of = {d.document_id: d.group_id for d in texts.documents}
    relevant = texts.relevant_by_group()
    documents = [d for d in texts.documents if d.group_id not in without]
    queries = [
        Document(q.query_id, q.text, q.language, f"query {q.group_id}")
        for q in texts.queries
        if not any(group_of[d] in without for d in relevant[q.group_id])
    ]
    first: dict[tuple[str, str], Document] = {}
    for side in (documents, queries):
        languages = languages_of_groups(side)
        kept = set(_take(languages, dict.fromkeys(texts.languages, ESTIMATED_ON)))
        for text in side:
            if text.group_id in kept:
                first.setdefault((text.group_id, text.language), text)
    if lacking := set(texts.languages) - {language for _, language in first}:
        raise DataError(
            f"{texts.name}: no text in {', '.join(sorted(lacking))} to estimate language "
            f"directions from"
        )
    return list(first.values())


def have_translations(documents: Iterable[Document]) -> bool:
    """Whether every language has documents that exist in another one."""
    groups = languages_of_groups(documents).values()
    together = {language for found in groups if len(found) > 1 for language in found}
    return together.issuperset(language for found in groups for language in found)


def _take(languages: Mapping[str, Sequence[str]], most: Mapping[str, int]) -> list[str]:
    """Groups until every language has as many as it may.

    Those with translations come first, then the order is that of a hash of their names: the same
    groups on every machine.
    """
    names = sorted(languages, key=lambda name: sha256(name.encode()).digest())
    names.sort(key=lambda name: len(languages[name]) < 2)
    count: Counter[str] = Counter()
    taken = []
    for name in names:
        if any(count[language] < most[language] for language in languages[name]):
            taken.append(name)
            count.update(languages[name])
    return taken
