"""What the encoder reads of a batch: the same vectors and gradients however it is laid out."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_batches import parallel  # noqa: E402

from hybridret.encoder.model import POOLINGS  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.training.batches import make_sampler  # noqa: E402
from hybridret.training.features import Collator, Towers  # noqa: E402
from hybridret.training.pairs import PairTable, TrainingData  # noqa: E402


def table() -> PairTable:
    found = parallel(40, "ab")
    words = np.random.default_rng(0)
    longer = [f"{text} " * int(words.integers(1, 12)) for text in found.document_texts]
    return PairTable(
        found.languages,
        found.query_texts,
        longer,
        found.queries,
        found.documents,
        found.query_groups,
        found.document_groups,
    )


def embedded(encoder: TorchEncoder, towers: Towers, data: PairTable, sub_batch: int | None):
    """Vectors of a batch, and the gradient of a fixed function of them."""
    batch = next(make_sampler("hybrid", data, 16, seed=1).epoch(0))
    features = Collator(encoder, [TrainingData("data", data)], sub_batch=sub_batch)(batch)
    assert features.queries == 16
    vectors = towers(features.parts, features.order)
    encoder.model.zero_grad()
    weights = torch.arange(vectors.numel(), dtype=vectors.dtype).sin().view_as(vectors)
    (vectors * weights).sum().backward()
    return vectors.detach(), {
        name: p.grad.clone() for name, p in encoder.model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("folder", ["bert_folder", "xlmr_folder"])
def test_packed_or_padded_the_vectors_are_the_same(folder, pooling, request):
    encoder = TorchEncoder.load(request.getfixturevalue(folder), pooling=pooling, normalize=True)
    encoder.model.eval().double()
    data = table()
    padded = Towers(encoder.model)
    assert padded.packs
    padded.packs = False
    vectors, gradients = embedded(encoder, padded, data, None)
    batch = next(make_sampler("hybrid", data, 16, seed=1).epoch(0))
    texts = [*batch.query_texts(data), *batch.document_texts(data)]
    np.testing.assert_allclose(vectors, encoder.encode_documents(texts), atol=1e-5)
    before = encoder.model.backbone.config._attn_implementation
    for towers, sub_batch in ((padded, 5), (Towers(encoder.model), 5), (Towers(encoder.model), 64)):
        again, others = embedded(encoder, towers, data, sub_batch)
        torch.testing.assert_close(again, vectors, atol=1e-5, rtol=0)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            # Unused but for rounding: the keys' bias, whose gradient is zero.
            scale = max(1e-3, float(gradient.norm()))
            assert float((others[name] - gradient).norm()) < 1e-5 * scale, name
    assert encoder.model.backbone.config._attn_implementation == before


def test_sub_batches_have_little_padding(bert_folder):
    data = table()
    encoder = TorchEncoder.load(bert_folder)
    batch = next(make_sampler("hybrid", data, 16).epoch(0))
    source = [TrainingData("data", data, document_prompt="passage: ")]
    whole = Collator(encoder, source)(batch)
    cut = Collator(encoder, source, sub_batch=4)(batch)
    padded = [sum(ids.numel() for ids, _ in features.parts) for features in (whole, cut)]
    assert whole.tokens == cut.tokens == sum(int(mask.sum()) for _, mask in cut.parts)
    assert whole.tokens <= padded[1] < 0.8 * padded[0]


def test_a_static_encoder_reads_no_padding():
    data = table()
    encoder = TorchEncoder.new_static([*data.query_texts, *data.document_texts], dimension=8)
    batch = next(make_sampler("hybrid", data, 16).epoch(0))
    features = Collator(encoder, [TrainingData("data", data)])(batch)
    ids, counts = features.parts[0]
    texts = [*batch.query_texts(data), *batch.document_texts(data)]
    assert len(ids) == int(counts.sum()) == features.tokens
    vectors = Towers(encoder.model)(features.parts, features.order).detach().numpy()
    np.testing.assert_allclose(vectors, encoder.encode_documents(texts), atol=1e-6)
