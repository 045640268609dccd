"""How fast is the loss? Forward and backward of float32 InfoNCE from leaf embeddings."""

from __future__ import annotations

import pytest

from hybridret import infonce

torch = pytest.importorskip("torch")


def native(q, d):
    return infonce(q, d, temperature=0.05)


def eager(q, d):
    return torch.nn.functional.cross_entropy(q @ d.T / 0.05, torch.arange(len(q)))


@pytest.mark.parametrize("rows", [256, 1024, 4096])
@pytest.mark.parametrize("loss", [native, eager], ids=["hybridret", "torch eager"])
def test_loss(benchmark, unit_vectors, rows, loss):
    benchmark.group = f"loss forward and backward, N = M = {rows}, D = 768, float32"
    q, d = (torch.from_numpy(unit_vectors(rows, 768, seed)).requires_grad_() for seed in (0, 1))

    def step():
        q.grad = d.grad = None
        loss(q, d).backward()

    benchmark.pedantic(step, rounds=7, warmup_rounds=2)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["GFLOP/s over 6NMD"] = round(6 * rows * rows * 768 / seconds / 1e9)
