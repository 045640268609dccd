"""Fused graphs do what torch does, masks included; smaller ones nearly."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

from hybridret.encoder import onnx_graph, quantization  # noqa: E402
from hybridret.encoder.model import EncoderModel  # noqa: E402
from hybridret.encoder.onnx_graph import write_graph  # noqa: E402
from hybridret.encoder.quantization import quantize  # noqa: E402

SHAPE = {
    "vocab_size": 3000,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
LENGTH = 150


def backbone(kind: str):
    """Models with random weights, larger than they begin with, so that their texts differ."""
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**SHAPE))
    elif kind == "xlmr":
        model = transformers.XLMRobertaModel(
            transformers.XLMRobertaConfig(**SHAPE, pad_token_id=1, type_vocab_size=1)
        )
    elif kind == "distilbert":
        model = transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=3000, dim=96, n_layers=2, n_heads=4, hidden_dim=128
            )
        )
    else:  # half of its layers see 32 tokens to each side
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        more = {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 64}
        model = transformers.ModernBertModel(
            transformers.ModernBertConfig(**SHAPE, **tokens, **more, global_attn_every_n_layers=2)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return EncoderModel(model, pooling="mean", normalize=True, width=96).eval()


def texts() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 2900, (4, LENGTH))
    mask = np.ones_like(ids)
    for row, length in enumerate((LENGTH, 20, LENGTH - 1, 1)):
        mask[row, length:] = 0
    return ids, mask


def run(path: Path, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids, "attention_mask": mask})


def nodes(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def expected(model, ids, mask) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        tokens = model.tokens(torch.from_numpy(ids), torch.from_numpy(mask))
        return tokens.numpy(), model.pool(tokens, torch.from_numpy(mask)).numpy()


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A fused graph of a kind of model, written once, and how many nodes it has of each kind."""
    made: dict[str, tuple[Path, dict[str, int]]] = {}

    def write(kind: str) -> tuple[Path, dict[str, int]]:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind) / "model.onnx"
            nodes = write_graph(backbone(kind), path, fuse=True, max_length=LENGTH)
            made[kind] = path, nodes
        return made[kind]

    return write


@pytest.mark.parametrize("kind", ["bert", "xlmr", "distilbert", "modernbert"])
def test_a_fused_graph_is_the_model(kind, fused):
    model, (ids, mask) = backbone(kind), texts()
    path, counts = fused(kind)
    tokens, vectors = run(path, ids, mask)
    wanted_tokens, wanted = expected(model, ids, mask)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    seen = mask.astype(bool)
    np.testing.assert_allclose(tokens[seen], wanted_tokens[seen], atol=1e-4)
    if kind == "modernbert":
        assert counts["MultiHeadAttention"] == 2
        return
    assert counts["Attention"] == 2
    assert "SkipLayerNormalization" not in counts
    assert counts["BiasGelu"] == 2
    # One product in each attention, and the mask as it comes.
    graph = onnx.load(path).graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert all(weights[node.input[1]] == [96, 288] for node in attention)
    assert all(len(node.input) == 4 for node in attention)
    assert "Softmax" not in nodes(path)


def test_without_fusing_every_runtime_knows_the_nodes(tmp_path):
    assert write_graph(backbone("bert"), tmp_path / "a.onnx", fuse=False, max_length=64) == {}
    graph = onnx.load(tmp_path / "a.onnx")
    assert {node.domain for node in graph.graph.node} == {""}
    np.testing.assert_allclose(
        run(tmp_path / "a.onnx", *texts())[1], expected(backbone("bert"), *texts())[1], atol=1e-5
    )


def test_a_mask_that_says_more_than_padding_stays(tmp_path, monkeypatch):
    """A causal mask is made of the same input; fused attention must not lose it."""
    config = transformers.BertConfig(**SHAPE, is_decoder=True)
    model = EncoderModel(transformers.BertModel(config), pooling="mean", normalize=True, width=96)
    model.eval()
    asked = []
    says_padding = onnx_graph._says_padding
    monkeypatch.setattr(
        onnx_graph, "_says_padding", lambda *a: asked.append(says_padding(*a)) or asked[-1]
    )
    write_graph(model, tmp_path / "model.onnx", fuse=True, max_length=LENGTH)
    assert asked == [False]
    ids, mask = texts()
    np.testing.assert_allclose(
        run(tmp_path / "model.onnx", ids, mask)[1], expected(model, ids, mask)[1], atol=1e-5
    )


@pytest.mark.parametrize("kind", ["bert", "xlmr", "modernbert"])
def test_eight_bits(kind, fused, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "_TABLE", 100_000)  # of 3,000 tokens
    model, (ids, mask) = backbone(kind), texts()
    path = shutil.copy(fused(kind)[0], tmp_path / "model.onnx")
    size = path.stat().st_size
    quantize(path)
    assert path.stat().st_size < 0.4 * size
    found = nodes(path)
    assert found["MatMul"] == 0
    assert found["QAttention" if kind != "modernbert" else "MultiHeadAttention"] == 2
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    wanted = expected(model, ids, mask)[1]
    assert ((run(path, ids, mask)[1] * wanted).sum(1) > 0.99).all()
    # Padding changes nothing but how it is rounded: it is masked in the 8-bit attention, too.
    short = run(path, ids[1:2, :20], mask[1:2, :20])[1]
    assert (short * wanted[1]).sum() > 0.99


def test_eight_bits_of_a_table_have_a_scale_for_each_token():
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(500, 64)) * np.logspace(-4, 2, 500)[:, None]).astype(np.float32)
    table[7] = 0
    rows, scales = quantization._eight_bits(table)
    assert rows.dtype == np.int8
    error = np.abs(rows * scales - table).max(1)
    assert (error <= np.abs(table).max(1) / 127 / 2 * 1.001).all()
    assert not rows[7].any()


def test_sixteen_bits(fused, tmp_path):
    model, (ids, mask) = backbone("bert"), texts()
    write_graph(model, tmp_path / "half.onnx", fuse=True, half=True, max_length=LENGTH)
    assert next(model.parameters()).dtype == torch.float32
    sizes = [path.stat().st_size for path in (tmp_path / "half.onnx", fused("bert")[0])]
    assert sizes[0] < 0.52 * sizes[1]
    tokens, vectors = run(tmp_path / "half.onnx", ids, mask)
    assert tokens.dtype == vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(model, ids, mask)[1], atol=2e-3)


def test_sums_over_tokens_beyond_sixteen_bits(tmp_path):
    """Token vectors of hundreds, as XLM-R has some: their sum over a text is above 65,504."""
    model, (ids, mask) = backbone("bert"), texts()
    with torch.no_grad():
        model.backbone.encoder.layer[-1].output.LayerNorm.bias.fill_(900)
    model.normalize = False
    write_graph(model, tmp_path / "half.onnx", fuse=True, half=True, max_length=LENGTH)
    np.testing.assert_allclose(
        run(tmp_path / "half.onnx", ids, mask)[1], expected(model, ids, mask)[1], rtol=2e-3
    )


def test_weights_in_a_second_file(tmp_path, monkeypatch):
    """As of models past 2 GB."""
    for module in (onnx_graph, quantization):
        monkeypatch.setattr(module, "ONE_FILE", 1000)
    monkeypatch.setattr(quantization, "_TABLE", 100_000)
    model, (ids, mask) = backbone("xlmr"), texts()
    path = tmp_path / "model.onnx"
    for precision in ("float32", "int8"):
        if precision == "int8":
            quantize(path)
        else:
            write_graph(model, path, fuse=True, max_length=LENGTH)
        assert sorted(f.name for f in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
        assert path.stat().st_size < 300_000 < path.with_name("model.onnx.data").stat().st_size
        assert ((run(path, ids, mask)[1] * expected(model, ids, mask)[1]).sum(1) > 0.99).all()
