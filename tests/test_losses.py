"""The native InfoNCE against its float64 twin, as numpy and as torch see it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret import _native, infonce

FLOATS = np.float32


def vectors(rng: np.random.Generator, rows: int, depth: int, spread: float = 1.0) -> np.ndarray:
    v = rng.standard_normal((rows, depth))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return (v * spread).astype(FLOATS)


def check(q, d, labels=None, *, temperature=0.05, groups=(None, None), loss=1e-6, grad=5e-6):
    n = len(q)
    labels = np.arange(n) if labels is None else labels
    expected = twins.infonce(
        q, d, labels, temperature=temperature, query_groups=groups[0], document_groups=groups[1]
    )
    actual = infonce(
        q, d, labels, temperature=temperature, query_groups=groups[0], document_groups=groups[1],
        reduction="none",
    )  # fmt: skip
    assert twins.relative(actual, expected.rows) < loss
    lse, positive, by_query, by_document = _native.infonce_forward(
        q, d, labels, query_groups=groups[0], document_groups=groups[1], scale=1 / temperature,
        row_weights=np.full(n, 1 / n, FLOATS),
    )  # fmt: skip
    assert twins.relative(by_query, expected.by_query, expected.terms) < grad
    assert twins.relative(by_document, expected.by_document, expected.terms) < grad
    again = _native.infonce_backward(
        q, d, labels, lse, positive, query_groups=groups[0], document_groups=groups[1],
        scale=1 / temperature, row_weights=np.full(n, 1 / n, FLOATS),
    )  # fmt: skip
    assert twins.relative(again[0], expected.by_query, expected.terms) < grad
    assert twins.relative(again[1], expected.by_document, expected.terms) < grad


@given(
    n=st.integers(1, 70),
    extra=st.integers(0, 70),
    depth=st.integers(1, 70),
    temperature=st.sampled_from([1.0, 0.05, 0.01, 0.005]),
    groups=st.sampled_from([None, 1, 5, 1000]),
    spread=st.sampled_from([0.1, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_any_shape_agrees_with_the_twin(n, extra, depth, temperature, groups, spread, seed):
    rng = np.random.default_rng(seed)
    q, d = vectors(rng, n, depth, spread), vectors(rng, n + extra, depth, spread)
    labels = rng.integers(0, n + extra, n)
    masks = (None, None)
    if groups:
        document_groups = rng.integers(-1, groups, n + extra)
        masks = (document_groups[labels], document_groups)
    # Inner products lose 1e-7 of the largest term, which the temperature magnifies.
    slack = max(1.0, 4 * spread**2 * 0.05 / temperature)
    check(q, d, labels, temperature=temperature, groups=masks, loss=1e-6 * slack, grad=5e-6 * slack)


@pytest.mark.parametrize(
    "shape", [(300, 300, 64), (257, 700, 33), (1, 1, 8), (1, 500, 8), (600, 600, 7)]
)
def test_several_panels_and_ragged_tiles(shape):
    rng = np.random.default_rng(1)
    n, m, depth = shape
    check(vectors(rng, n, depth), vectors(rng, m, depth))


@pytest.mark.parametrize("noise", [0.3, 0.05, 0.01])
def test_near_convergence_the_loss_and_gradients_keep_their_digits(noise):
    rng = np.random.default_rng(2)
    d = vectors(rng, 200, 768)
    q = d + noise * vectors(rng, 200, 768)
    q = (q / np.linalg.norm(q, axis=1, keepdims=True)).astype(FLOATS)
    assert twins.infonce(q, d, temperature=0.03).rows.mean() < 1e-9
    check(q, d, temperature=0.03, loss=2e-5, grad=2e-5)


def test_masks_follow_the_rule():
    """A document of the row's group other than its label is no negative; -1 matches nothing."""
    rng = np.random.default_rng(3)
    q, d = vectors(rng, 4, 16), vectors(rng, 6, 16)
    query_groups = np.array([7, -1, 9, 7])
    document_groups = np.array([7, -1, 9, 7, 7, -1])
    rows = infonce(
        q, d, query_groups=query_groups, document_groups=document_groups, reduction="none"
    )
    s = q.astype(np.float64) @ d.T.astype(np.float64) / 0.05
    for i, columns in enumerate(
        [[0, 1, 2, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 2, 3, 5]]
    ):
        expected = -s[i, i] + np.log(np.exp(s[i, columns]).sum())
        assert rows[i] == pytest.approx(expected, rel=1e-5)


def test_a_row_without_negatives_costs_nothing():
    rng = np.random.default_rng(4)
    q, d = vectors(rng, 3, 8), vectors(rng, 3, 8)
    groups = np.zeros(3, dtype=np.int64)
    assert infonce(q, d, query_groups=groups, document_groups=groups) == 0
    check(q, d, groups=(groups, groups))


def test_degenerate_vectors():
    same = np.full((5, 8), 0.5, FLOATS)
    assert infonce(same, same) == pytest.approx(math.log(5), rel=1e-6)
    zero = np.zeros((4, 8), FLOATS)
    assert infonce(zero, zero) == pytest.approx(math.log(4), rel=1e-6)


def test_not_a_number_is_passed_on():
    rng = np.random.default_rng(5)
    q, d = vectors(rng, 20, 8), vectors(rng, 20, 8)
    bad = q.copy()
    bad[3, 2] = np.nan
    rows = infonce(bad, d, reduction="none")
    assert np.isnan(rows[3])
    assert not np.isnan(np.delete(rows, 3)).any()
    bad = d.copy()
    bad[3, 2] = np.nan
    assert np.isnan(infonce(q, bad))


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(6)
    q, d = vectors(rng, 700, 96), vectors(rng, 900, 96)
    runs = [
        _native.infonce_forward(
            q, d, np.arange(700), scale=20.0, row_weights=np.full(700, 1 / 700, FLOATS), threads=t
        )
        for t in (1, 2, 3, 7, 2, 1)
    ]
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            assert a.tobytes() == b.tobytes()


def test_rows_may_be_strided():
    rng = np.random.default_rng(7)
    wide = vectors(rng, 40, 64)
    check(wide[::2, :32], wide[1::2, 16:48])


def test_bad_input_is_named():
    q = np.zeros((3, 4), FLOATS)
    with pytest.raises(ValueError, match="3 queries and 2 documents"):
        infonce(q, q[:2])
    with pytest.raises(ValueError, match=r"labels\[1\] is 3, but there are 3 documents"):
        infonce(q, q, np.array([0, 3, 1]))
    with pytest.raises(ValueError, match=r"labels must have shape \[3\], got \[2\]"):
        infonce(q, q, np.array([0, 1]))
    with pytest.raises(ValueError, match="differ in dimension"):
        infonce(q, np.zeros((3, 5), FLOATS))
    with pytest.raises(ValueError, match="two dimensions"):
        infonce(q[0], q)
    with pytest.raises(ValueError, match="temperature"):
        infonce(q, q, temperature=0.0)
    with pytest.raises(ValueError, match="give both or neither"):
        infonce(q, q, query_groups=np.arange(3))
    with pytest.raises(TypeError, match="float32"):
        infonce(q.astype(np.float64), q)
    with pytest.raises(TypeError, match="integers"):
        infonce(q, q, np.array([0.0, 1.0, 2.0]))
    with pytest.raises(TypeError, match="integers that fit int64, got uint64"):
        infonce(q, q, query_groups=np.arange(3, dtype=np.uint64), document_groups=np.arange(3))
    with pytest.raises(TypeError, match="queries must be an array or tensor, got list"):
        infonce([[1.0]], q)
    with pytest.raises(ValueError, match="reduction"):
        infonce(q, q, reduction="median")


def test_an_empty_batch():
    none = np.zeros((0, 4), FLOATS)
    assert infonce(none, none) == 0
    assert infonce(none, np.zeros((3, 4), FLOATS), reduction="none").shape == (0,)
    assert infonce(none, none, labels=[]) == 0


class TestTorch:
    torch = pytest.importorskip("torch")

    def leaves(self, n, m, depth, seed=0):
        rng = np.random.default_rng(seed)
        q = self.torch.from_numpy(vectors(rng, n, depth)).requires_grad_()
        d = self.torch.from_numpy(vectors(rng, m, depth)).requires_grad_()
        return q, d

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_gradients_with_an_upstream_factor(self, reduction):
        torch = self.torch
        q, d = self.leaves(50, 80, 24)
        weights = torch.rand(50) if reduction == "none" else torch.tensor(3.0)
        loss = infonce(q, d, reduction=reduction)
        (loss * weights).sum().backward()
        rows = {"mean": 3 / 50, "sum": 3.0}.get(reduction, weights.double().numpy())
        expected = twins.infonce(
            q.detach().numpy(), d.detach().numpy(), temperature=0.05, weights=np.ones(50) * rows
        )
        assert twins.relative(q.grad.numpy(), expected.by_query) < 5e-6
        assert twins.relative(d.grad.numpy(), expected.by_document) < 5e-6

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_the_temperature_takes_a_gradient(self, reduction):
        torch = self.torch
        q, d = self.leaves(30, 30, 16)
        temperature = torch.tensor(0.07, requires_grad=True)
        infonce(q, d, temperature=temperature, reduction=reduction).mean().backward()
        reference = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
        logits = q.detach().double() @ d.detach().double().T / reference
        torch.nn.functional.cross_entropy(logits, torch.arange(30)).backward()
        assert temperature.grad.item() == pytest.approx(reference.grad.item(), rel=1e-5)

    def test_against_cross_entropy(self):
        torch = self.torch
        q, d = self.leaves(64, 100, 32)
        labels = torch.randperm(100)[:64]
        loss = infonce(q, d, labels, temperature=0.1)
        expected = torch.nn.functional.cross_entropy(q.double() @ d.double().T / 0.1, labels)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)

    def test_opcheck(self):
        torch = self.torch
        from hybridret import _torch

        q, d = self.leaves(20, 30, 16)
        none = (None, None)
        labels, scale = torch.arange(20), torch.tensor(20.0)
        arguments = (q.detach(), d.detach(), labels, *none, scale, 0.05)
        torch.library.opcheck(_torch.infonce_forward, arguments)
        lse, positive, _, _ = _torch.infonce_forward(*arguments)
        torch.library.opcheck(
            _torch.infonce_backward,
            (q.detach(), d.detach(), labels, lse, positive, *none, scale, torch.rand(20)),
        )

    @pytest.mark.parametrize("dynamic", [None, True])
    def test_compiles_into_one_graph(self, dynamic):
        torch = self.torch
        q, d = self.leaves(12, 20, 8)
        compiled = torch.compile(infonce, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        compiled(q, d).backward()
        found = q.grad.clone()
        q.grad = None
        infonce(q, d).backward()
        torch.testing.assert_close(found, q.grad, rtol=0, atol=0)

    def test_no_gradient_is_made_where_none_is_asked_for(self):
        torch = self.torch
        q, d = self.leaves(30, 30, 8)
        with torch.no_grad():
            assert infonce(q, d).item() == infonce(q.detach().numpy(), d.detach().numpy())

    def test_non_contiguous_tensors(self):
        torch = self.torch
        q, d = self.leaves(16, 16, 12)
        loss = infonce(q.T.contiguous().T, d)
        loss.backward()
        expected = twins.infonce(q.detach().numpy(), d.detach().numpy(), temperature=0.05)
        assert loss.item() == pytest.approx(expected.rows.mean(), rel=1e-6)
        assert twins.relative(q.grad.numpy(), expected.by_query) < 5e-6
        assert torch.isfinite(d.grad).all()

    def test_bad_tensors_are_named(self):
        torch = self.torch
        q, d = self.leaves(4, 4, 8)
        with pytest.raises(TypeError, match="float32"):
            infonce(q.double(), d)
        with pytest.raises(TypeError, match="integers"):
            infonce(q, d, torch.rand(4))
        with pytest.raises(ValueError, match="temperature"):
            infonce(q, d, temperature=-1.0)

    def test_double_backward_says_that_it_is_not_there(self):
        q, d = self.leaves(4, 4, 8)
        with pytest.raises(RuntimeError, match="no second derivative"):
            self.torch.autograd.grad(infonce(q, d), q, create_graph=True)
