"""The torch modules of an encoder: static embeddings or a Hugging Face backbone, and pooling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from hybridret.errors import ModelError

Pooling = Literal["mean", "cls", "max", "lasttoken"]
POOLINGS = ("mean", "cls", "max", "lasttoken")
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


class StaticEmbeddings(nn.Module):
    """One vector per token, without context; trains in seconds."""

    def __init__(self, vocabulary_size: int, dimension: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, dimension)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.embedding(input_ids)  # type: ignore[no-any-return]

    def mean(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean over tokens [B, D], without an intermediate [B, S, D] tensor."""
        weights = attention_mask.to(self.embedding.weight.dtype)
        total = nn.functional.embedding_bag(
            input_ids, self.embedding.weight, per_sample_weights=weights, mode="sum"
        )
        return total / weights.sum(1, keepdim=True).clamp(min=1)


class Dense(nn.Module):
    """A linear layer and an activation after pooling, as LaBSE has."""

    def __init__(self, inputs: int, outputs: int, bias: bool, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ModelError(
                f"Dense layer with activation {activation!r}; expected {', '.join(ACTIVATIONS)}"
            )
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        return self.activation(self.linear(vectors))  # type: ignore[no-any-return]


class EncoderModel(nn.Module):
    """Token vectors -> pooling -> dense layers -> L2 normalisation.

    ``forward(input_ids, attention_mask)``, both int64 [B, S], gives [B, dimension].
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pooling: Pooling,
        normalize: bool,
        dense: Iterable[Dense] = (),
        width: int,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError(f"unknown pooling {pooling!r}; expected one of {', '.join(POOLINGS)}")
        self.backbone = backbone
        self.pooling = pooling
        layers = list(dense)
        self.dense = nn.ModuleList(layers)
        self.normalize = normalize
        self.width = width
        self.dimension = layers[-1].linear.out_features if layers else width

    @property
    def is_static(self) -> bool:
        return isinstance(self.backbone, StaticEmbeddings)

    @property
    def table(self) -> nn.Embedding:
        """The vectors of the tokens [V, D]."""
        if isinstance(self.backbone, StaticEmbeddings):
            return self.backbone.embedding
        found: nn.Embedding = self.backbone.get_input_embeddings()  # type: ignore[operator]
        return found

    def tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Contextual token vectors [B, S, width]."""
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        return output if self.is_static else output[0]  # type: ignore[no-any-return]

    def pool(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, S, width] -> [B, dimension]; masked tokens are ignored."""
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        if self.pooling == "cls":
            pooled = tokens[:, 0]
        elif self.pooling == "mean":
            pooled = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        elif self.pooling == "max":
            pooled = (tokens * mask + (mask - 1) * 1e9).amax(1)
        else:
            last = (attention_mask.sum(1) - 1).clamp(min=0)
            pooled = tokens.gather(1, last[:, None, None].expand(-1, 1, tokens.shape[-1]))[:, 0]
        return self.finish(pooled)

    def finish(self, vectors: Tensor) -> Tensor:
        """What comes after pooling: dense layers, and length 1."""
        for layer in self.dense:
            vectors = layer(vectors)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if isinstance(self.backbone, StaticEmbeddings) and self.pooling == "mean":
            return self.finish(self.backbone.mean(input_ids, attention_mask))
        return self.pool(self.tokens(input_ids, attention_mask), attention_mask)
