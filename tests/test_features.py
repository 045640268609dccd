"""What the encoder reads of a batch: the same vectors and gradients however it is laid out."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_batches import parallel  # noqa: E402

from hybridret.encoder.model import POOLINGS  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.training.bags import means  # noqa: E402
from hybridret.training.batches import make_sampler  # noqa: E402
from hybridret.training.dropout import drawn_together, kept  # noqa: E402
from hybridret.training.features import Collator, Towers  # noqa: E402
from hybridret.training.packing import _Attention  # noqa: E402
from hybridret.training.pairs import PairTable, TrainingData  # noqa: E402
from hybridret.training.recomputing import activations_recomputed  # noqa: E402


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


def test_activations_are_made_again():
    """The same gradient, and the output is not kept."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    calls = []
    model[1].register_forward_pre_hook(lambda *_: calls.append("hook"))
    forward = model[1].forward
    model[1].forward = lambda x: (calls.append("forward"), forward(x))[1]
    batch = torch.randn(5, 8, requires_grad=True)
    found = []
    for context in (nullcontext(), activations_recomputed(model)):
        calls.clear()
        with context:
            result = model(batch)
        found.append(torch.autograd.grad(result.square().sum(), [batch, *model.parameters()]))
    assert calls == ["hook", "forward", "forward"]  # once more, without hooks
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_has_the_gradient_of_autograd(dropout):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.zeros(3, 1, 1, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    torch.manual_seed(1)
    found = _Attention.apply(q, k, v, mask, 0.5, dropout)
    torch.manual_seed(1)
    weights = torch.softmax(q @ k.transpose(2, 3) * 0.5 + mask, -1)
    if dropout:
        weights = weights * kept(weights.shape, dropout) / (1 - dropout)
    expected = weights @ v
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    ours = torch.autograd.grad(found, [q, k, v], upstream)
    theirs = torch.autograd.grad(expected, [q, k, v], upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
def test_dropout_is_that_of_torch(dropout):
    """It drops as many, scales the others, is the same for a seed, and has autograd's gradient."""
    model = torch.nn.Sequential(torch.nn.Dropout(dropout))
    x = torch.rand(300, 1001, requires_grad=True) + 1
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with drawn_together(model):
            found.append(model(x))
    assert torch.equal(found[0], found[1])
    mask = found[0] != 0
    assert abs(mask.float().mean().item() - (1 - dropout)) < 0.005  # five standard deviations
    torch.testing.assert_close(found[0], torch.where(mask, x / (1 - dropout), 0))
    (gradient,) = torch.autograd.grad(found[0].sum(), [x])
    torch.testing.assert_close(gradient, mask / (1 - dropout))
    if dropout:
        assert not torch.equal(found[0], found[2])
        assert mask.float().mean(0).std() < 0.04  # no column is dropped more often than others
    with drawn_together(model.eval()):
        assert torch.equal(model(x), x)
    assert "forward" not in vars(model[0])


def test_means_have_the_gradient_of_autograd():
    """Repeated tokens, and a text without any."""
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    ids, counts = torch.tensor([3, 3, 8, 0, 3, 5]), torch.tensor([3, 0, 2, 1])
    found = means(table, ids, counts)
    rows = [table[part].sum(0) / max(1, len(part)) for part in ids.split(counts.tolist())]
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    (ours,), (theirs,) = (torch.autograd.grad(x, [table], upstream) for x in (found, expected))
    assert ours.is_sparse
    assert ours.is_coalesced()
    torch.testing.assert_close(ours.to_dense(), theirs)
