"""A static encoder from a pretrained one: the vector of every token, without context.

As model2vec does it (Tulkens and van Dongen, 2024, github.com/MinishLab/model2vec): every token of
the vocabulary is embedded as a text of its own, the vectors are reduced to their principal
components, and each is weighted by how rare it is (SIF, Arora et al., ICLR 2017, with the rank in
the vocabulary for the frequency, as Zipf's law has it). A text's vector is the mean of its tokens'.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hybridret._progress import progress_bar
from hybridret._types import Floats, Ints, Vectors
from hybridret.encoder.base import EncoderConfig
from hybridret.encoder.model import EncoderModel, StaticEmbeddings
from hybridret.encoder.tokenization import Tokenizer
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.errors import ModelError

_SIF = 1e-4  # weight of a token of frequency p: _SIF / (_SIF + p)


def distill(
    encoder: TorchEncoder,
    *,
    dimension: int = 256,
    batch_size: int = 1024,
    progress: bool = False,
) -> TorchEncoder:
    """A static encoder with the tokens of ``encoder``, which it is made from without any texts.

    Its length limit is that of ``encoder``; it has no prompts, and its vectors have length 1.

    Args:
        dimension: of the vectors, at most that of ``encoder``.
        batch_size: tokens that are embedded at a time.

    Raises:
        ModelError: ``encoder`` is static itself, or has fewer dimensions or tokens.
    """
    tokenizer = encoder.tokenizer
    size = encoder.model.table.num_embeddings
    if encoder.model.is_static:
        raise ModelError("this encoder is static already: there is nothing to distill")
    if not 1 <= dimension <= min(encoder.dimension, size):
        raise ModelError(
            f"dimension must be at least 1 and at most {min(encoder.dimension, size)}, that of the "
            f"encoder, got {dimension}"
        )
    before, after = _around(tokenizer)
    tokens = np.empty((size, encoder.dimension), dtype=np.float32)
    with progress_bar(size, "Embedding tokens", enabled=progress) as bar:
        for start in range(0, size, batch_size):
            ids = np.arange(start, min(start + batch_size, size))
            rows = np.concatenate(
                [np.tile(before, (len(ids), 1)), ids[:, None], np.tile(after, (len(ids), 1))],
                axis=1,
            )
            tokens[ids] = encoder.embed_tokens(rows, np.ones_like(rows))
            bar.update(len(ids))
    vectors = _principal(tokens, dimension)
    vectors *= _rarity(size)[:, None]
    special = [*before, *after, *_special(tokenizer)]
    vectors[[i for i in special if i < size]] = 0
    model = EncoderModel(
        StaticEmbeddings(size, dimension), pooling="mean", normalize=True, width=dimension
    )
    with torch.no_grad():
        model.table.weight.copy_(torch.from_numpy(vectors.astype(np.float32)))
    plain = Tokenizer(
        type(tokenizer.backend).from_str(tokenizer.backend.to_str()),
        max_length=tokenizer.max_length,
        pad_id=tokenizer.pad_id,
        special_tokens=False,
    )
    return TorchEncoder(model, plain, EncoderConfig())


def _around(tokenizer: Tokenizer) -> tuple[Ints, Ints]:
    """The special tokens before and after a text."""
    backend = tokenizer.backend
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=tokenizer.special_tokens).ids
    starts = [n for n in range(len(whole)) if whole[n : n + len(plain)] == plain]
    if not plain or not starts:
        raise ModelError("the tokenizer does not put special tokens before and after a text")
    first = starts[0]
    return np.array(whole[:first], np.int64), np.array(whole[first + len(plain) :], np.int64)


def _special(tokenizer: Tokenizer) -> Iterator[int]:
    for number, token in tokenizer.backend.get_added_tokens_decoder().items():
        if token.special:
            yield number


def _principal(vectors: Vectors, dimension: int) -> Vectors:
    """The first principal components of rows [n, D], as [n, dimension]."""
    centred = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return np.asarray(centred @ axes[:, ::-1][:, :dimension].astype(np.float32))


def _rarity(size: int) -> Floats:
    """SIF's weight of each token: of a vocabulary in order of frequency."""
    frequency = 1 / (np.arange(size) + 2)
    return np.asarray(_SIF / (_SIF + frequency / frequency.sum()))
