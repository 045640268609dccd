"""How fast is the loss on a GPU? Forward and backward in bfloat16, beside its peers at their best.

TFLOP/s count 6 N M D, whoever computes more; `of matmul` is the share of what one large bfloat16
matrix product reaches in the same run. A step is timed over several in a row with one wait at the
end, as a training step would meet it. `workspace MB` is what a step took beside inputs and
gradients. Peers that solve another problem say so: siglip-kernel's loss is a sigmoid.
"""

from __future__ import annotations

import time

import pytest

from hybridret import infonce

torch = pytest.importorskip("torch")
F = torch.nn.functional
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here", allow_module_level=True)

SCALE = 20.0
SIZES = [(n, 768) for n in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)]
SIZES += [(n, 256) for n in (4096, 32768, 131072)]


def ours(q, d):
    return infonce(q, d, temperature=1 / SCALE)


def ours_in_less(q, d):
    return infonce(q, d, temperature=1 / SCALE, workspace=1 << 29)


def symmetric(q, d):
    return infonce(q, d, temperature=1 / SCALE, symmetric=True)


def labels(q):
    return torch.arange(len(q), device=q.device)


def eager(q, d):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return F.cross_entropy(q @ d.T * SCALE, labels(q))


compiled = torch.compile(eager)


def eager_symmetric(q, d):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = q @ d.T * SCALE
        return (F.cross_entropy(logits, labels(q)) + F.cross_entropy(logits.T, labels(q))) / 2


compiled_symmetric = torch.compile(eager_symmetric)


def linear_cross_entropy(q, d):
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(q * SCALE, d, labels(q), options=options)


def multiple_negatives(q, d):
    losses = pytest.importorskip("sentence_transformers.losses")
    identity = torch.nn.Sequential(torch.nn.Identity())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = losses.MultipleNegativesRankingLoss(identity, scale=SCALE)
        return loss.compute_loss_from_embeddings([q, d], None)


def liger(q, d):
    kernels = pytest.importorskip("liger_kernel.transformers.fused_linear_cross_entropy")
    return kernels.LigerFusedLinearCrossEntropyLoss()(d, q * SCALE, labels(q))


def cut_cross_entropy(q, d):
    kernels = pytest.importorskip("cut_cross_entropy")
    return kernels.linear_cross_entropy(q * SCALE, d, labels(q))


def inf_cl(q, d):
    kernels = pytest.importorskip("inf_cl")
    return kernels.cal_flash_loss(q, d, scale=SCALE)


def siglip(q, d):
    kernels = pytest.importorskip("siglip_kernel")
    scale = torch.tensor(SCALE, device=q.device).log()
    return kernels.fused_siglip_loss(q, d, scale, torch.tensor(-10.0, device=q.device))


PEERS = {
    "hybridret": ours,
    "hybridret, 0.5 GB": ours_in_less,
    "three GEMMs": None,
    "torch eager": eager,
    "torch.compile": compiled,
    "torch linear_cross_entropy": linear_cross_entropy,
    "MultipleNegativesRanking": multiple_negatives,
    "liger-kernel": liger,
    "cut-cross-entropy": cut_cross_entropy,
    "inf-cl": inf_cl,
    "siglip-kernel (sigmoid)": siglip,
    "hybridret symmetric": symmetric,
    "torch eager symmetric": eager_symmetric,
    "torch.compile symmetric": compiled_symmetric,
}


@pytest.fixture(scope="module")
def matmul_rate():
    """TFLOP/s of one large bfloat16 product on random data."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * 8192**3 / sorted(times)[10] / 1e12


def leaves(rows, dimension, dtype=torch.bfloat16):
    torch.manual_seed(0)
    made = (F.normalize(torch.randn(rows, dimension, device="cuda"), dim=1) for _ in range(2))
    return [x.to(dtype).requires_grad_() for x in made]


def timed(benchmark, matmul_rate, step, rows, dimension):
    """Steps in a row, about 50 ms of them, with one wait."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    once = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() - before
    inner = max(1, min(100, int(0.05 / once)))

    def steps():
        for _ in range(inner):
            step()
        torch.cuda.synchronize()

    benchmark.pedantic(steps, rounds=5 if once < 0.2 else 1, warmup_rounds=1 if once < 0.2 else 0)
    rate = 6 * rows * rows * dimension * inner / benchmark.stats.stats.median / 1e12
    benchmark.extra_info["scale"] = 1 / inner
    benchmark.extra_info["TFLOP/s"] = round(rate)
    benchmark.extra_info["of matmul"] = f"{rate / matmul_rate:.0%}"
    benchmark.extra_info["workspace MB"] = round(peak / 1e6)


@pytest.mark.parametrize(("rows", "dimension"), SIZES)
@pytest.mark.parametrize("peer", PEERS)
def test_loss_on_a_gpu(benchmark, matmul_rate, rows, dimension, peer):
    benchmark.group = f"forward and backward, N = M = {rows}, D = {dimension}, bfloat16"
    loss = PEERS[peer]
    if peer == "inf-cl" and rows > 32768:
        pytest.skip("minutes")
    q, d = leaves(rows, dimension)

    def step():
        if loss is None:
            with torch.no_grad():
                _ = q @ d.T, weights @ d, weights.T @ q
        else:
            q.grad = d.grad = None
            loss(q, d).backward()

    try:
        if loss is None:
            weights = torch.rand(rows, rows, device="cuda").to(torch.bfloat16)
        timed(benchmark, matmul_rate, step, rows, dimension)
    except torch.OutOfMemoryError:
        pytest.skip("does not fit on this GPU")
    finally:
        q.grad = d.grad = None
        torch.cuda.empty_cache()


@pytest.mark.parametrize("rows", [4096, 16384])
@pytest.mark.parametrize("peer", ["hybridret", "torch eager"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_dtypes_on_a_gpu(benchmark, matmul_rate, rows, dtype, peer):
    benchmark.group = f"forward and backward, N = M = {rows}, D = 768, {dtype}"
    q, d = leaves(rows, 768, getattr(torch, dtype))

    def step():
        q.grad = d.grad = None
        loss = ours(q, d) if peer == "hybridret" else F.cross_entropy(q @ d.T * SCALE, labels(q))
        loss.backward()

    timed(benchmark, matmul_rate, step, rows, 768)


def test_a_million_on_a_gpu(benchmark, matmul_rate):
    benchmark.group = "forward and backward, N = M = 1,048,576, D = 768, bfloat16, 8 GB"
    q, d = leaves(1 << 20, 768)

    def step():
        q.grad = d.grad = None
        infonce(q, d, workspace=8_000_000_000 - 4 * q.numel()).backward()

    torch.cuda.synchronize()
    benchmark.pedantic(step, rounds=1)
    rate = 6 * (1 << 40) * 768 / benchmark.stats.stats.median / 1e12
    benchmark.extra_info["TFLOP/s"] = round(rate)
    benchmark.extra_info["of matmul"] = f"{rate / matmul_rate:.0%}"
