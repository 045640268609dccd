"""The trainable encoder: a torch model, its tokenizer and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridret._types import Floats, Ints, Vectors
from hybridret.encoder import model_folder
from hybridret.encoder.base import BATCH_TOKENS, EncoderConfig, TextEncoder
from hybridret.encoder.model import POOLINGS, Dense, EncoderModel, Pooling, StaticEmbeddings
from hybridret.encoder.tokenization import Tokenizer
from hybridret.errors import ModelError

_VOCABULARY_CHARACTERS = 20_000_000
_GPU_TOKENS = 65_536  # of a batch: a GPU wants more at a time than a processor


class TorchEncoder(TextEncoder):
    """A trainable encoder: model, tokenizer and configuration.

    Attributes:
        untrimmed: what :func:`hybridret.trim_vocabulary` made it from, if it did.
    """

    def __init__(self, model: EncoderModel, tokenizer: Tokenizer, config: EncoderConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = replace(
            config,
            max_length=tokenizer.max_length,
            pad_id=tokenizer.pad_id,
            special_tokens=tokenizer.special_tokens,
        )
        self.dimension: int = model.dimension
        self.untrimmed: TorchEncoder | None = None
        self._batch_tokens: int | None = None

    @property
    def batch_tokens(self) -> int:
        """See :class:`TextEncoder`; more on a GPU."""
        if self._batch_tokens is not None:
            return self._batch_tokens
        on_gpu = next(self.model.parameters()).is_cuda
        return _GPU_TOKENS if on_gpu else BATCH_TOKENS

    @batch_tokens.setter
    def batch_tokens(self, tokens: int) -> None:
        self._batch_tokens = tokens

    @torch.inference_mode()
    def embed_tokens(self, input_ids: Ints, attention_mask: Ints) -> Vectors:
        training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        vectors = self.model(
            torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device)
        )
        self.model.train(training)
        return vectors.float().cpu().numpy()  # type: ignore[no-any-return]

    @classmethod
    def new_static(
        cls,
        texts: Sequence[str],
        *,
        dimension: int = 256,
        vocabulary_size: int = 8192,
        max_length: int = 256,
        seed: int = 0,
    ) -> TorchEncoder:
        """An untrained static encoder: BPE vocabulary from ``texts``, random vectors, mean
        pooling, L2 normalisation.

        If ``texts`` have more than 20 million characters, the vocabulary is made from every n-th
        text only.

        Raises:
            ModelError: seed, dimension or vocabulary size is out of range.
        """
        if not 0 <= seed < 2**63:
            raise ModelError(f"seed must be at least 0 and below 2^63, got {seed}")
        if not 1 <= dimension <= 1 << 20 or not 2 <= vocabulary_size <= 1 << 30:
            raise ModelError(
                f"a static encoder needs a dimension of at least 1 and a vocabulary of at least 2 "
                f"(at most 2^20 and 2^30), got {dimension} and {vocabulary_size}"
            )
        stride = 1 + sum(map(len, texts)) // _VOCABULARY_CHARACTERS
        tokenizer = Tokenizer.train(
            texts[::stride], vocabulary_size=vocabulary_size, max_length=max_length
        )
        torch.manual_seed(seed)
        model = EncoderModel(
            StaticEmbeddings(tokenizer.vocabulary_size, dimension),
            pooling="mean",
            normalize=True,
            width=dimension,
        )
        return cls(model, tokenizer, EncoderConfig())

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
    ) -> TorchEncoder:
        """A sentence-transformers or Hugging Face model, by folder or hub name.

        The model's own pooling, normalisation, dense layers, prompts and length are used unless an
        argument overrides them. A plain Hugging Face encoder defines none of them and gets the
        defaults of sentence-transformers: mean pooling, no normalisation, no prompts.

        Raises:
            ModelError: no such model, no tokenizer, weights that are missing or only pickled, or an
                unsupported module or option.
        """
        encoder = cls(*model_folder.read(model_folder.local_folder(source), max_length))
        if pooling is not None:
            if pooling not in POOLINGS:
                raise ModelError(f"unknown pooling {pooling!r}; expected {', '.join(POOLINGS)}")
            if encoder.model.is_static and pooling != "mean":
                raise ModelError(
                    f"{source}: a static encoder supports only mean pooling, got {pooling!r}"
                )
            encoder.model.pooling = pooling
        if normalize is not None:
            encoder.model.normalize = normalize
        prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
        given = {name: prompt for name, prompt in prompts.items() if prompt is not None}
        encoder.config = replace(encoder.config, **given)  # type: ignore[arg-type]
        return encoder

    def add_linear(self, matrix: Floats) -> None:
        """Multiplies the vectors [.., D] by a matrix [D, D] from now on, before normalisation."""
        layer = Dense(self.dimension, self.dimension, bias=False, activation="Identity")
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(matrix.T.astype(np.float32)))
        self.model.dense.append(layer.to(next(self.model.parameters()).device))

    def save(self, folder: str | Path) -> None:
        """Writes a sentence-transformers model (safetensors weights) to an existing folder."""
        model_folder.write(Path(folder), self.model, self.tokenizer, self.config)


def load_with_prompts(source: str | Path, **options: Any) -> TorchEncoder:
    """:meth:`TorchEncoder.load`, with the prompts and the cosine of arXiv 2408.10536 for a plain
    Hugging Face model, which defines neither."""
    folder = model_folder.local_folder(source)
    if not (folder / model_folder.MODULES_FILE).is_file():
        paper = {"query_prompt": "Query: ", "document_prompt": "Passage: ", "normalize": True}
        options = paper | options
    return TorchEncoder.load(folder, **options)
