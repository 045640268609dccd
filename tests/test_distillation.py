"""A static encoder has the vectors of the tokens that it was distilled from."""

from __future__ import annotations

import numpy as np
import pytest
from test_cli import fails, run

torch = pytest.importorskip("torch")

from hybridret.encoder.distillation import distill  # noqa: E402
from hybridret.encoder.torch_encoder import TorchEncoder  # noqa: E402
from hybridret.errors import ModelError  # noqa: E402


@pytest.mark.parametrize("folder", ["bert_folder", "xlmr_folder"])
def test_vectors_of_tokens(folder, request):
    """Of all dimensions: a rotation of the centred vectors, times the weights."""
    encoder = TorchEncoder.load(request.getfixturevalue(folder), normalize=True)
    static = distill(encoder, dimension=encoder.dimension, batch_size=37)
    vectors = static.model.table.weight.detach().numpy()
    assert vectors.shape == (encoder.model.table.num_embeddings, encoder.dimension)
    vocabulary = encoder.tokenizer.backend.get_vocab()
    special = {n for n, t in encoder.tokenizer.backend.get_added_tokens_decoder().items()}
    words = {w: n for w, n in vocabulary.items() if n not in special}
    assert not vectors[sorted(special)].any()
    some = list(words.items())[:50]
    around = encoder.tokenizer.backend.encode("a").ids
    rows = np.array([[around[0], number, around[-1]] for _, number in some])
    ids = np.arange(len(vectors))
    everything = np.stack([np.full_like(ids, around[0]), ids, np.full_like(ids, around[-1])], 1)
    centre = encoder.embed_tokens(everything, np.ones_like(everything)).mean(0)
    expected = encoder.embed_tokens(rows, np.ones_like(rows)) - centre
    numbers = np.array([number for _, number in some])
    frequency = 1 / (numbers + 2) / (1 / (ids + 2)).sum()
    found = vectors[numbers] / (1e-4 / (1e-4 + frequency))[:, None]
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-5)


def test_fewer_dimensions_keep_most(bert_folder):
    encoder = TorchEncoder.load(bert_folder)
    whole = distill(encoder, dimension=encoder.dimension).model.table.weight
    part = distill(encoder, dimension=8).model.table.weight
    torch.testing.assert_close(part.abs(), whole[:, :8].abs(), atol=1e-4, rtol=1e-3)


def test_the_command_and_sentence_transformers(capsys, bert_folder, tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    output = tmp_path / "static"
    status, text, _ = run(capsys, "distill", bert_folder, output, "--dimension", 16)
    assert status == 0
    assert "16 dimensions" in text
    texts = ["der lange Text", "a", "one more text"]
    ours = TorchEncoder.load(output).encode_documents(texts)
    theirs = peer.SentenceTransformer(str(output), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    message = fails(capsys, "distill", bert_folder, output)
    assert "exists already" in message
    message = fails(capsys, "distill", output, tmp_path / "again")
    assert "is static already" in message
    options = ("--data", "facts-evaluation", "--languages", "de", "en", "--steps", 2)
    options = (*options, "--batch-size", 8, "--output", tmp_path / "run")
    assert run(capsys, "train", "--model", output, *options)[0] == 0


def test_too_many_dimensions(bert_folder):
    encoder = TorchEncoder.load(bert_folder)
    with pytest.raises(ModelError, match=r"dimension must be at least 1 and at most 32, .* got 33"):
        distill(encoder, dimension=33)
