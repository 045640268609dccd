"""The loss as torch sees it: autograd, dtypes, autocast, compile, other processes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import twins

from hybridret import InfoNCELoss, infonce, infonce_statistics

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def leaves(n, m, depth, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return [
        F.normalize(torch.randn(rows, depth), dim=1).to(dtype).requires_grad_() for rows in (n, m)
    ]


def gradients(loss, *tensors):
    return [x.double() for x in torch.autograd.grad(loss, tensors)]


def reference(q, d, labels=None, scale=20.0, **options):
    """The eager loss in float64, from leaves of its own."""
    q, d = (x.detach().double().requires_grad_() for x in (q, d))
    labels = torch.arange(len(q)) if labels is None else labels
    return q, d, F.cross_entropy(q @ d.T * scale, labels, **options)


def distance(actual, expected):
    return twins.relative(actual.detach().double().numpy(), expected.detach().double().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_against_cross_entropy(dtype, reduction):
    q, d = leaves(300, 400, 96, dtype=dtype)
    labels = torch.randperm(400)[:300]
    weights = torch.rand(300) if reduction == "none" else torch.tensor(2.0)
    loss = infonce(q, d, labels, reduction=reduction)
    assert loss.dtype == torch.float32
    eager_q, eager_d, eager = reference(q, d, labels, reduction=reduction)
    assert distance(loss, eager) < 1e-6
    found = torch.autograd.grad((loss * weights).sum(), (q, d))
    expected = torch.autograd.grad((eager * weights).sum(), (eager_q, eager_d))
    bound = {torch.float32: 5e-6, torch.bfloat16: 2.5e-3, torch.float16: 5e-4}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert distance(a, b) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_convergence_ten_times_more_accurate_than_eager(dtype):
    torch.manual_seed(1)
    d = F.normalize(torch.randn(256, 768), dim=1)
    q = F.normalize(d + 0.02 * torch.randn(256, 768), dim=1)
    q, d = (x.to(dtype).requires_grad_() for x in (q, d))
    exact_q, exact_d, _ = reference(q, d)
    logits = exact_q @ exact_d.T * 20
    others = logits.masked_fill(torch.eye(256, dtype=torch.bool), -torch.inf)
    exact = F.softplus(torch.logsumexp(others, 1) - logits.diagonal(), threshold=1e9).mean()
    assert exact < 1e-3
    expected = torch.autograd.grad(exact, (exact_q, exact_d))
    ours = infonce(q, d)
    eager = F.cross_entropy((q @ d.T * 20).float(), torch.arange(256))
    assert distance(ours, exact) * 10 < distance(eager, exact)
    if dtype == torch.float32:  # in 16 bits the rounding of the gradient itself is the error
        for a, b, c in zip(
            torch.autograd.grad(ours, (q, d)),
            torch.autograd.grad(eager, (q, d)),
            expected,
            strict=True,
        ):
            assert distance(a, c) * 10 < distance(b, c)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"normalize": True}], ids=str)
def test_the_temperature_takes_a_gradient(reduction, options):
    q, d = leaves(30, 30, 16)
    for shape in ([], [1]):
        temperature = torch.full(shape, 0.07, requires_grad=True)
        infonce(q, d, temperature=temperature, reduction=reduction, **options).mean().backward()
        twin = twins.infonce(q.detach().numpy(), d.detach().numpy(), temperature=0.07, **options)
        expected = twin.by_scale * -1 / 0.07**2
        assert temperature.grad.item() == pytest.approx(expected, rel=1e-4)
        assert temperature.grad.shape == temperature.shape


def test_the_loss_from_statistics_of_split_documents():
    """Documents in two shards; the shares of both come from the completed sums."""
    q, d = leaves(40, 60, 16)
    temperature = torch.tensor(0.05, requires_grad=True)
    labels = torch.randperm(60)[:40]
    whole = infonce(q, d, labels, temperature=temperature)
    expected = gradients(whole, q, d, temperature)
    shards = [
        infonce_statistics(
            q,
            d[a:b],
            torch.where((labels >= a) & (labels < b), labels - a, -1),
            temperature=temperature,
        )
        for a, b in ((0, 25), (25, 60))
    ]
    lse = torch.logaddexp(shards[0].negatives_lse, shards[1].negatives_lse)
    loss = F.softplus(lse - torch.maximum(shards[0].positive, shards[1].positive)).mean()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for a, b in zip(gradients(loss, q, d, temperature), expected, strict=True):
        assert distance(a, b) < 5e-6


def test_column_statistics_take_gradients():
    q, d = leaves(20, 30, 16)
    expected = gradients(infonce(q, d, symmetric=True), q, d)
    lse, positive, column_lse = infonce_statistics(q, d, columns=True)
    loss = (F.softplus(lse - positive) + F.softplus(column_lse[:20] - positive)).mean() / 2
    for a, b in zip(gradients(loss, q, d), expected, strict=True):
        assert distance(a, b) < 5e-6


def test_gradcache():
    """GradCache (arXiv 2101.06983): embed without a graph, then backward chunk by chunk."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(12, 16)
    texts, translations = torch.randn(40, 12), torch.randn(40, 12)
    infonce(encoder(texts), encoder(translations), normalize=True).backward()
    expected = encoder.weight.grad.clone()
    encoder.weight.grad = None
    with torch.no_grad():
        q, d = encoder(texts), encoder(translations)
    q.requires_grad_(), d.requires_grad_()
    infonce(q, d, normalize=True).backward()
    for inputs, cached in ((texts, q.grad), (translations, d.grad)):
        for chunk, gradient in zip(inputs.split(7), cached.split(7), strict=True):
            encoder(chunk).backward(gradient)
    torch.testing.assert_close(encoder.weight.grad, expected, rtol=1e-4, atol=1e-6)


OPTIONS = {
    "plain": {},
    "symmetric": {"symmetric": True},
    "masked": {"query_groups": torch.arange(20) % 5, "document_groups": torch.arange(30) % 5},
    "segments": {
        "segments": [(8, 12), (12, 18)],
        "labels": torch.cat([torch.arange(8), 12 + torch.arange(12)]),
    },
    "biased": {"log_bias": torch.linspace(-1, 1, 30), "normalize": True},
    "hard-only": {"negatives": "hard-only"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(options, dtype):
    from hybridret.losses import _ops
    from hybridret.losses._options import Loss, Statistics, make_batch

    q, d = leaves(20, 30, 16, dtype=dtype)
    temperature = torch.tensor(0.05, requires_grad=True)
    rest = {name: value for name, value in options.items() if name != "symmetric"}
    batch = make_batch(_ops, q, d, temperature=temperature, **rest)
    symmetric = options.get("symmetric", False)
    # The gradients of 16 bits differ by their own rounding from run to run of the check.
    for ranks in (False, True):
        total = Loss(symmetric=symmetric, mean=True, ranks=ranks, gradients=True)
        torch.library.opcheck(_ops.total_loss, (*batch, *total))
        parts = Statistics(columns=symmetric, ranks=ranks)
        torch.library.opcheck(_ops.row_statistics, (*batch, *parts))
    detached = batch._replace(queries=q.detach(), documents=d.detach(), scale=batch.scale.detach())
    lse, _, column_lse, _ = _ops.row_statistics(*detached, symmetric, False)
    columns = (column_lse, torch.rand(30)) if symmetric else (None, None)
    torch.library.opcheck(
        _ops.statistics_backward,
        (*detached, lse, columns[0], torch.rand(20), torch.rand(20), columns[1]),
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_into_one_graph(options, reduction, dynamic):
    torch.compiler.reset()
    q, d = leaves(20, 30, 16)

    def loss(q, d, temperature):
        return infonce(q, d, temperature=temperature, reduction=reduction, **options).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    temperature = torch.tensor(0.05, requires_grad=True)
    found = gradients(compiled(q, d, temperature), q, d, temperature)
    for a, b in zip(found, gradients(loss(q, d, temperature), q, d, temperature), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_statistics_compile_with_stats():
    torch.compiler.reset()
    q, d = leaves(20, 30, 16)
    compiled = torch.compile(infonce, fullgraph=True, backend="aot_eager", dynamic=True)
    loss, stats = compiled(q, d, return_stats=True)
    eager, expected = infonce(q, d, return_stats=True)
    assert loss.item() == eager.item()
    assert torch.equal(stats.rank, expected.rank)
    assert stats.accuracy == expected.accuracy
    assert not stats.accuracy.requires_grad


def test_autocast_uses_its_dtype_and_keeps_the_loss_in_float32():
    q, d = leaves(20, 30, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = infonce(q, d)
        rows = infonce(q, d, reduction="none")
    assert loss.dtype == rows.dtype == torch.float32
    assert loss.item() == infonce(q.bfloat16(), d.bfloat16()).item()
    loss.backward()
    assert q.grad.dtype == torch.float32


def test_a_loss_scaler_keeps_gradients_too_small_for_float16():
    """One over the batch times a small gradient is far below 6e-8; the scaler comes afterwards."""
    q, d = leaves(2000, 2000, 64, dtype=torch.float16)
    (infonce(q, d, temperature=1.0) * 65536.0).backward()
    eager_q, _, eager = reference(q, d, scale=1.0)
    (eager * 65536.0).backward()
    assert distance(q.grad, eager_q.grad) < 1e-3


def test_gradients_are_computed_only_if_requested():
    q, d = leaves(30, 30, 8)
    with torch.no_grad():
        loss = infonce(q, d)
    assert loss.item() == infonce(q.detach().numpy(), d.detach().numpy())
    assert not loss.requires_grad
    only = infonce(q.detach(), d)
    only.backward()
    assert q.grad is None
    assert d.grad is not None


def test_numpy_and_torch_agree():
    q, d = leaves(30, 40, 24)
    arrays = [x.detach().numpy() for x in (q, d)]
    for options in OPTIONS.values():
        if "segments" in options or "query_groups" in options or "log_bias" in options:
            continue
        for reduction in ("mean", "sum", "none"):
            a = infonce(q, d, reduction=reduction, **options)
            b = infonce(*arrays, reduction=reduction, **options)
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-6)


def test_threads_follow_torch():
    q, d = leaves(64, 64, 16)
    before = torch.get_num_threads()
    try:
        losses = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            losses.append(infonce(q, d).item())
    finally:
        torch.set_num_threads(before)
    assert losses[0] == losses[1]


def test_non_contiguous_tensors():
    q, d = leaves(16, 16, 12)
    expected = infonce(q, d)
    by = gradients(expected, q, d)
    columns = q.detach().T.contiguous().T.requires_grad_()
    wide = torch.zeros(32, 30)
    wide[::2, 5:17] = d.detach()
    strided = wide[::2, 5:17].requires_grad_()
    loss = infonce(columns, strided)
    assert loss.item() == expected.item()
    for a, b in zip(gradients(loss, columns, strided), by, strict=True):
        assert torch.equal(a, b)


def test_gradients_are_the_users_own():
    q, d = leaves(16, 16, 12)
    expected = gradients(infonce(q, d), q)[0]
    loss = infonce(q, d)
    for _ in range(3):
        loss.backward(retain_graph=True)
    assert distance(q.grad, 3 * expected) < 1e-6
    q.grad.data.zero_()
    (by_query,) = torch.autograd.grad(loss, q, retain_graph=True)
    assert distance(by_query, expected) < 1e-6
    by_query /= 2
    assert distance(torch.autograd.grad(loss, q)[0], expected) < 1e-6


def test_the_first_loss_in_a_forked_child():
    """OpenMP's threads are the parent's: the extension has its own."""
    code = """
import os, torch
x = torch.randn(3_000_000)
(x.exp() + 1).sum()
child = os.fork()
if child == 0:
    from hybridret import infonce
    infonce(torch.randn(600, 32), torch.randn(600, 32))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_changed_default_device():
    q, d = leaves(8, 8, 32)
    expected = infonce(q, d).item()
    with torch.device("meta"):
        assert infonce(q, d).item() == expected


def test_bad_tensors_are_named():
    q, d = leaves(4, 4, 8)
    wrong = [
        (TypeError, "float32, bfloat16 or float16 tensor", (q.double(), d), {}),
        (TypeError, "integers", (q, d, torch.rand(4)), {}),
        (TypeError, "integers", (q, d, [0, 1, 2, 3]), {}),
        (ValueError, "temperature", (q, d), {"temperature": -1.0}),
        (ValueError, "temperature", (q, d), {"temperature": torch.tensor(0.0)}),
        (ValueError, "scalar", (q, d), {"temperature": torch.ones(2)}),
        (ValueError, "differ in dtype", (q, d.bfloat16()), {}),
        (
            ValueError,
            "log_bias must not require a gradient",
            (q, d),
            {"log_bias": torch.zeros(4, requires_grad=True)},
        ),
        (ValueError, "queries are on meta", (q.to("meta"), d.to("meta")), {}),
        (
            ValueError,
            "temperature is on meta",
            (q, d),
            {"temperature": torch.ones((), device="meta")},
        ),
        (ValueError, "labels is on meta", (q, d, torch.arange(4, device="meta")), {}),
        (ValueError, "log_bias is on meta", (q, d), {"log_bias": torch.zeros(4, device="meta")}),
        (TypeError, "log_bias must be a tensor, got list", (q, d), {"log_bias": [0.0] * 4}),
        (
            TypeError,
            "documents must be a float32.* tensor, got ndarray",
            (q, d.detach().numpy()),
            {},
        ),
        (TypeError, "temperature must be a number, got str", (q, d), {"temperature": "warm"}),
    ]
    for error, message, arguments, options in wrong:
        with pytest.raises(error, match=message):
            infonce(*arguments, **options)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_an_error(reduction):
    q, d = leaves(4, 4, 8)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(infonce(q, d, reduction=reduction).sum(), q, create_graph=True)


def across_devices(rank: int, address: str) -> None:
    """One of two processes: gathered negatives against one process that holds the whole batch."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)
    rows, negatives = 6, 2
    embeddings = [F.normalize(torch.randn(2 * rows, 16), dim=1) for _ in range(2 + negatives)]
    groups = torch.randint(0, 8, (2 * rows,))
    own = slice(rank * rows, (rank + 1) * rows)
    for options in (
        {},
        {"labels_are_groups": True},
        {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    ):
        whole = [x.clone().requires_grad_() for x in embeddings]
        alone = InfoNCELoss(torch.nn.Identity(), **options)
        expected = alone.compute_loss_from_embeddings(whole, groups)
        expected.backward()
        local = [x[own].clone().requires_grad_() for x in embeddings]
        module = InfoNCELoss(torch.nn.Identity(), gather_across_devices=True, **options)
        loss = module.compute_loss_from_embeddings(local, groups[own])
        loss.backward()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        assert abs(mean / 2 - expected) < 1e-6, (options, mean / 2, expected)
        for ours, one in zip(local, whole, strict=True):
            # Each process averages over its own rows; data-parallel training averages the rest.
            torch.testing.assert_close(ours.grad / 2, one.grad[own], rtol=1e-5, atol=1e-7)

    # Documents never gathered: every process sums its own share of everybody's negatives.
    q, d = (F.normalize(torch.randn(2 * rows, 16), dim=1) for _ in range(2))
    whole_q, whole_d = (x.clone().requires_grad_() for x in (q, d))
    infonce(whole_q, whole_d).backward()
    all_q, local_d = q.clone().requires_grad_(), d[own].clone().requires_grad_()
    labels = torch.full((2 * rows,), -1)
    labels[own] = torch.arange(rows)
    part = infonce_statistics(all_q, local_d, labels)
    import torch.distributed.nn as gathering

    lse = torch.stack(gathering.all_gather(part.negatives_lse)).logsumexp(0)
    positive = torch.stack(gathering.all_gather(part.positive)).amax(0)
    F.softplus(lse - positive).mean().backward()
    # Both processes computed the same total, whose gradient all_gather sums over them.
    torch.testing.assert_close(local_d.grad / 2, whole_d.grad[own], rtol=1e-4, atol=1e-7)
    torch.distributed.all_reduce(all_q.grad)
    torch.testing.assert_close(all_q.grad / 2, whole_q.grad, rtol=1e-4, atol=1e-7)
    torch.distributed.destroy_process_group()


def test_negatives_across_two_processes(tmp_path):
    torch.multiprocessing.spawn(across_devices, args=(f"file://{tmp_path}/store",), nprocs=2)


class Embedding(torch.nn.Module):
    """The least of a sentence-transformers model."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(12, 16, dtype=dtype)

    def forward(self, features):
        return {"sentence_embedding": self.linear(features["x"])}


class TestInfoNCELoss:
    peers = pytest.importorskip("sentence_transformers.losses")

    def columns(self, count=4):
        torch.manual_seed(1)
        return [{"x": torch.randn(10, 12)} for _ in range(count)]

    @pytest.mark.parametrize("kind", ["cos_sim", "dot_score"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"scale": 5.0},
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
        ],
        ids=["default", "scale", "symmetric"],
    )
    def test_equals_multiple_negatives_ranking_loss(self, kind, options):
        from sentence_transformers import util

        model = Embedding()
        options = options | {"similarity_fct": getattr(util, kind)}
        columns = self.columns(2 if "directions" in options else 4)
        peer = self.peers.MultipleNegativesRankingLoss(model, **options)(columns, None)
        ours = InfoNCELoss(model, **options)(columns, None)
        assert ours.item() == pytest.approx(peer.item(), rel=1e-6)
        for a, b in zip(
            gradients(ours, *model.parameters()), gradients(peer, *model.parameters()), strict=True
        ):
            assert twins.relative(a.numpy(), b.numpy()) < 1e-5

    def test_bfloat16_embeddings_stay_bfloat16(self):
        model = Embedding(torch.bfloat16)
        columns = [{"x": c["x"].bfloat16()} for c in self.columns()]
        loss = InfoNCELoss(model)(columns)
        assert loss.dtype == torch.float32
        loss.backward()
        assert model.linear.weight.grad.dtype == torch.bfloat16

    def test_a_learned_temperature(self):
        temperature = torch.nn.Parameter(torch.tensor(0.1))
        loss = InfoNCELoss(Embedding(), temperature=temperature)
        loss(self.columns()).backward()
        assert temperature.grad.abs() > 0
        assert "temperature" in dict(loss.named_parameters())

    def test_translations_are_not_used_as_negatives(self):
        columns = self.columns(3)
        groups = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
        model = Embedding()
        loss = InfoNCELoss(model, labels_are_groups=True)(columns, groups)
        assert loss < InfoNCELoss(model)(columns, groups)
        with pytest.raises(ValueError, match="no labels"):
            InfoNCELoss(model, labels_are_groups=True)(columns)

    def test_unsupported_options_are_errors(self):
        model = Embedding()
        with pytest.raises(ValueError, match="give one of them"):
            InfoNCELoss(model, scale=20.0, temperature=0.05)
        with pytest.raises(ValueError, match="directions must be"):
            InfoNCELoss(model, directions=("query_to_doc", "doc_to_doc"))
        with pytest.raises(ValueError, match="similarity_fct"):
            InfoNCELoss(model, similarity_fct=torch.cdist)
        with pytest.raises(ValueError, match="positive"):
            InfoNCELoss(model, scale=0.0)
        with pytest.raises(ValueError, match=r"as many rows as the anchors, got \[10, 9\]"):
            InfoNCELoss(model)([{"x": torch.randn(10, 12)}, {"x": torch.randn(9, 12)}])
        with pytest.raises(ValueError, match="anchors and positives"):
            InfoNCELoss(model)(self.columns(1))
        assert InfoNCELoss(model).get_config_dict()["temperature"] == pytest.approx(0.05)
        assert "1807.03748" in InfoNCELoss(model).citation
