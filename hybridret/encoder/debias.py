"""Language directions: what tells languages apart in an embedding space, and taking it out.

A pretrained multilingual encoder ranks well inside a language and unfairly across languages: its
vectors hold the language of a text beside its meaning. The mean vectors of a few sentences in each
language differ by that alone if the sentences say the same. They span the *language directions*,
and a projection takes these out of queries and documents alike, by one matrix::

    x' = x - strength * B^T B x        B [K, D], orthonormal rows

No training, and no language tag at search time. It is a trade-off: the language of a text is also
evidence. Where the only answer is in the query's own language, some of it is lost (see
:func:`hybridret.debias`, which measures both sides).

Prior work: LSAR (Xie et al. 2022, arXiv 2401.05792) takes out a low-rank subspace of the language
means, LIR (Yang et al. 2021, arXiv 2109.04727) the leading principal components of each language,
which needs the language of every text (:func:`language_components`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hybridret._types import Floats, Ints, Vectors
from hybridret.errors import DataError

Method = Literal["parallel", "means", "lsar"]
METHODS: tuple[str, ...] = get_args(Method)
MOST_DIRECTIONS = 20
"""Directions that are taken out unless asked: of 29 languages more than these gain nothing."""


@dataclass(frozen=True)
class LanguageDirections:
    """An orthonormal basis of the language directions.

    Attributes:
        basis: float64 [K, D], orthonormal rows, the direction that separates languages most first.
        variances: float64 [K], variance of the language means along each direction.
        languages: the languages it was estimated from, sorted.
        counts: number of texts of each language.
        method: one of :data:`METHODS`.
    """

    basis: Floats
    variances: Floats
    languages: list[str]
    counts: list[int]
    method: str

    def matrix(self, strength: float = 1.0) -> Floats:
        """float64 [D, D], symmetric: a vector times it lacks the directions."""
        check_strength(strength)
        return np.eye(self.basis.shape[1]) - strength * (self.basis.T @ self.basis)

    def remove(self, embeddings: Any, strength: float = 1.0) -> Vectors:
        """float32 [N, D]: the embeddings without the directions, of the length they had left.

        Cosine similarities need no normalisation afterwards; inner products of vectors that were
        normalised do (divide by the length).

        Raises:
            DataError: another dimension, or a strength outside of 0 to 1.
        """
        array = _embeddings(embeddings)
        _check_dimension(array, self.basis, "language directions")
        return np.asarray(array @ self.matrix(strength), dtype=np.float32)


@dataclass(frozen=True)
class LanguageComponents:
    """The leading principal components of each language (LIR, arXiv 2109.04727).

    Attributes:
        bases: by language, float64 [K, D], orthonormal rows, the largest first.
    """

    bases: dict[str, Floats]

    def remove(self, embeddings: Any, languages: Sequence[str], strength: float = 1.0) -> Vectors:
        """float32 [N, D]: each embedding without the components of its own language.

        Raises:
            DataError: another dimension or number of texts, a language that was not estimated, or
                a strength outside of 0 to 1.
        """
        check_strength(strength)
        array = _embeddings(embeddings)
        names = _one_language_a_row(array, languages)
        for language in np.unique(names):
            basis = self.bases.get(str(language))
            if basis is None:
                raise DataError(
                    f"no components of {language}; there are those of {', '.join(self.bases)}"
                )
            _check_dimension(array, basis, "components")
            rows = names == language
            array[rows] -= strength * (array[rows] @ basis.T) @ basis
        return array.astype(np.float32)


def check_strength(strength: float) -> None:
    """Raises DataError unless the strength is from 0 (nothing is taken out) to 1 (all is)."""
    if not 0 <= strength <= 1:
        raise DataError(f"strength must be from 0 to 1, got {strength}")


def language_directions(
    embeddings: Any,
    languages: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    method: Method = "parallel",
    directions: int | None = None,
) -> LanguageDirections:
    """Estimates the language directions of an embedding space from a few texts of each language.

    Args:
        embeddings: [N, D] of texts, by the encoder whose vectors are to be changed; floats.
        languages: language of each text.
        groups: translation group of each text, for ``parallel``.
        method: ``parallel`` compares translations: the mean of a group is taken from its texts
            before the means of the languages, so that what the texts are about does not matter, and
            groups may lack languages. ``means`` are plain means of the languages, of texts that
            need not be translations. ``lsar`` is the decomposition of arXiv 2401.05792 (algorithm
            1), which asks the directions to be orthogonal to what all languages share.
        directions: how many, K; at most languages - 1. By default all of these, and not more than
            :data:`MOST_DIRECTIONS`.

    Raises:
        DataError: fewer than two languages, more directions than languages or dimensions allow,
            ``parallel`` without groups that have two languages, or embeddings that are not finite.
    """
    array = _embeddings(embeddings)
    names, language = np.unique(_one_language_a_row(array, languages), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            f"language directions need texts in at least two languages, got "
            f"{', '.join(names) or 'none'}"
        )
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    most = min(len(names) - 1, array.shape[1])
    if directions is None:
        directions = min(most, MOST_DIRECTIONS)
    if not 1 <= directions <= most:
        raise DataError(
            f"{len(names)} languages in {array.shape[1]} dimensions have 1 to {most} directions, "
            f"got {directions}"
        )
    if method == "parallel":
        means = _language_effects(array, language, len(names), groups)
    else:
        means = _means(array, language, len(names))
    basis, variances = _lsar(means, directions) if method == "lsar" else _span(means, directions)
    counts = np.bincount(language, minlength=len(names)).tolist()
    return LanguageDirections(basis, variances, names.tolist(), counts, method)


def language_components(
    embeddings: Any, languages: Sequence[str], *, components: int = 1
) -> LanguageComponents:
    """Estimates the principal components of each language (LIR, arXiv 2109.04727).

    They are those of its embeddings as they are, not centred: the first is nearly their mean. To
    take them out needs the language of every text, of queries too, and so cannot be a layer of an
    encoder; it is here for embeddings that have been computed, and to compare with.

    Args:
        embeddings: [N, D] of texts; floats.
        languages: language of each text.
        components: how many of each language, K.

    Raises:
        DataError: more components than a language has texts, or than dimensions; or embeddings
            that are not finite.
    """
    array = _embeddings(embeddings)
    names = _one_language_a_row(array, languages)
    bases = {}
    for language in map(str, np.unique(names)):
        own = array[names == language]
        if not 1 <= components <= min(own.shape):
            raise DataError(
                f"{len(own)} texts of {language} in {own.shape[1]} dimensions have 1 to "
                f"{min(own.shape)} components, got {components}"
            )
        bases[language] = np.linalg.svd(own, full_matrices=False)[2][:components]
    return LanguageComponents(bases)


def _one_language_a_row(
    array: Floats, languages: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.str_]]:
    if len(languages) != len(array):
        raise DataError(f"{len(array)} embeddings, but {len(languages)} languages")
    return np.asarray(languages, dtype=str)


def _check_dimension(array: Floats, basis: Floats, what: str) -> None:
    if array.shape[1] != basis.shape[1]:
        raise DataError(f"embeddings have {array.shape[1]} dimensions, the {what} {basis.shape[1]}")


def _embeddings(embeddings: Any) -> Floats:
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DataError(
            f"embeddings must be floats [texts, dimension], got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    array = array.astype(np.float64)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise DataError(f"embedding in row {int(bad.argmax())} has a value that is not finite")
    return array


def _means(array: Floats, language: Ints, count: int) -> Floats:
    sums = np.zeros((count, array.shape[1]))
    np.add.at(sums, language, array)
    return np.asarray(sums / np.bincount(language, minlength=count)[:, None])


def _language_effects(
    array: Floats, language: Ints, count: int, groups: Sequence[str] | None
) -> Floats:
    """Language means of a model text = group + language, by alternating means (least squares)."""
    if groups is None:
        raise DataError("the parallel method needs the translation group of each text")
    if len(groups) != len(array):
        raise DataError(f"{len(array)} embeddings, but {len(groups)} groups")
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    pairs = np.unique(np.stack([group, language], axis=1), axis=0)
    several = np.bincount(pairs[:, 0], minlength=len(names))[group] > 1
    lacking = np.setdiff1d(np.arange(count), language[several])
    if len(lacking):
        raise DataError(
            "the parallel method needs translations, but the texts of "
            f"{len(lacking)} of {count} languages have none; method 'means' needs none"
        )
    array, language, group = array[several], language[several], group[several]
    effects = np.zeros((count, array.shape[1]))
    while True:
        own = _group_means(array - effects[language], group, len(names))
        new = _means(array - own[group], language, count)
        new -= new.mean(0)
        change = np.abs(new - effects).max()
        effects = new
        if change <= 1e-9 * np.abs(effects).max():
            return effects


def _group_means(array: Floats, group: Ints, count: int) -> Floats:
    sums = np.zeros((count, array.shape[1]))
    np.add.at(sums, group, array)
    return np.asarray(sums / np.maximum(np.bincount(group, minlength=count), 1)[:, None])


def _span(means: Floats, directions: int) -> tuple[Floats, Floats]:
    """The directions in which the means differ most, and their variances along them."""
    _, values, basis = np.linalg.svd(means - means.mean(0), full_matrices=False)
    return basis[:directions], values[:directions] ** 2 / len(means)


def _lsar(means: Floats, directions: int) -> tuple[Floats, Floats]:
    """Algorithm 1 of arXiv 2401.05792: means = common + low rank, the two orthogonal."""
    columns = means.T
    mean = columns.mean(1, keepdims=True)
    u, s, v = np.linalg.svd(columns - mean, full_matrices=False)
    low_rank = mean + (u[:, :directions] * s[:directions]) @ v[:directions]
    common = np.linalg.pinv(low_rank).T @ np.ones((len(means), 1))
    common /= (common**2).sum()
    basis, values, _ = np.linalg.svd(low_rank - common, full_matrices=False)
    return basis[:, :directions].T, values[:directions] ** 2 / len(means)
