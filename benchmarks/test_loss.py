"""How fast is the loss? Forward and backward from leaf embeddings, with memory, beside its peers.

Every peer is what its users run: torch with the logits in memory, the same compiled, a loop over
rows that makes the gradients in the forward pass, and sentence-transformers' losses as they come
(they widen 16-bit embeddings to float32). `three GEMMs` are the bare products: the floor of whoever
uses torch's. GFLOP/s count 6 N M D, whoever computes more.
"""

from __future__ import annotations

import time

import pytest
from conftest import PeakMemory

from hybridret import infonce

torch = pytest.importorskip("torch")
F = torch.nn.functional

SCALE = 20.0
SHAPES = [(1024, 768), (4096, 768), (8192, 768), (4096, 384), (4096, 256)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def ours(q, d):
    return infonce(q, d, temperature=1 / SCALE)


def eager(q, d):
    return F.cross_entropy((q @ d.T * SCALE).float(), torch.arange(len(q)))


compiled = torch.compile(eager)


class ByRows(torch.autograd.Function):
    """Chunks of rows, their gradients made at once: 6 N M D, as far as torch's own ops go."""

    @staticmethod
    def forward(ctx, q, d, rows=512):
        by_q, by_d = torch.empty_like(q), torch.zeros(d.shape)
        total = torch.zeros(())
        for begin in range(0, len(q), rows):
            part = q[begin : begin + rows]
            labels = torch.arange(begin, begin + len(part))
            logits = (part @ d.T).float().mul_(SCALE)
            lse = logits.logsumexp(1, keepdim=True)
            total += (lse[:, 0] - logits.gather(1, labels[:, None])[:, 0]).sum()
            weights = logits.sub_(lse).exp_()
            weights[torch.arange(len(part)), labels] -= 1
            weights = weights.mul_(SCALE / len(q)).to(q.dtype)
            torch.mm(weights, d, out=by_q[begin : begin + rows])
            by_d += weights.T @ part
        ctx.save_for_backward(by_q, by_d.to(d.dtype))
        return total / len(q)

    @staticmethod
    def backward(ctx, upstream):
        by_q, by_d = ctx.saved_tensors
        return by_q * upstream, by_d * upstream, None


def by_rows(q, d):
    return ByRows.apply(q, d)


def multiple_negatives(q, d):
    return loss_of("MultipleNegativesRankingLoss").compute_loss_from_embeddings([q, d], None)


def cached_multiple_negatives(q, d):
    return loss_of("CachedMultipleNegativesRankingLoss").calculate_loss([[q], [d]])


def loss_of(name):
    losses = pytest.importorskip("sentence_transformers.losses")
    return getattr(losses, name)(torch.nn.Sequential(torch.nn.Identity()), scale=SCALE)


def symmetric(q, d):
    return infonce(q, d, temperature=1 / SCALE, symmetric=True)


def eager_symmetric(q, d):
    logits = (q @ d.T * SCALE).float()
    labels = torch.arange(len(q))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


PEERS = {
    "hybridret": ours,
    "three GEMMs": None,
    "torch eager": eager,
    "torch.compile": compiled,
    "loop over rows": by_rows,
    "MultipleNegativesRanking": multiple_negatives,
    "CachedMultipleNegatives": cached_multiple_negatives,
    "hybridret symmetric": symmetric,
    "torch eager symmetric": eager_symmetric,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "dimension"), SHAPES)
@pytest.mark.parametrize("peer", PEERS)
def test_loss(benchmark, unit_vectors, peaks, rows, dimension, dtype, peer):
    benchmark.group = f"forward and backward, N = M = {rows}, D = {dimension}, {dtype}"
    loss = PEERS[peer]
    q, d = (
        torch.from_numpy(unit_vectors(rows, dimension, seed)).to(DTYPES[dtype]).requires_grad_()
        for seed in (0, 1)
    )
    if loss is None:
        weights = torch.rand(rows, rows).to(DTYPES[dtype])

    def step():
        q.grad = d.grad = None
        if loss is None:
            with torch.no_grad():
                _ = q @ d.T, weights @ d, weights.T @ q
        else:
            loss(q, d).backward()

    step()
    with PeakMemory() as memory:
        begin = time.perf_counter()
        step()
        once = time.perf_counter() - begin
    benchmark.pedantic(step, rounds=min(50, max(3, int(2 / once))), warmup_rounds=1)
    rate = 6 * rows * rows * dimension / benchmark.stats.stats.median / 1e9
    benchmark.extra_info["GFLOP/s"] = round(rate)
    if dtype in peaks:
        benchmark.extra_info["of peak"] = f"{rate / peaks[dtype]:.0%}"
    benchmark.extra_info["peak MB"] = round(memory.bytes / 1e6)
