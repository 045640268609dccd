"""The CUDA kernels against the float64 twin: on a GPU where there is one, and on the emulator of
tests/native/cuda, which runs the same kernels a thread at a time on a CPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import twins
from cmake_probe import Probe
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_losses import FORMATS, check, stored, vectors

torch = pytest.importorskip("torch")

import cuda_engine  # noqa: E402

from hybridret.losses import _cuda, _library  # noqa: E402

# By format: rows' losses, gradients. The weights of 16-bit input are rounded to bfloat16.
GATES = {"float32": (1e-6, 5e-6), "bfloat16": (1e-5, 4e-3), "float16": (1e-5, 4e-3)}
NO_GPU = "no CUDA GPU here" if not torch.cuda.is_available() else ""


@pytest.fixture(scope="session")
def emulated(tmp_path_factory) -> _library.Library:
    if shutil.which("g++") is None or os.uname().machine != "x86_64":
        pytest.skip("the emulator needs g++ on x86-64")
    return cuda_engine.build_emulated(tmp_path_factory.mktemp("cuda") / "emulated.so")


# Wide tiles and several turns of every block, narrow tiles, and the kernels of sm_80.
@pytest.fixture(params=["hopper3", "hopper999", "ampere3", "gpu"])
def engine(request, monkeypatch):
    monkeypatch.setattr(_cuda, "Problem", cuda_engine.GuardedProblem)
    if request.param == "gpu":
        if NO_GPU:
            pytest.skip(NO_GPU)
        monkeypatch.setattr(cuda_engine.InfoNCE, "device", "cuda")
    else:
        library = request.getfixturevalue("emulated")
        monkeypatch.setenv("HYBRIDRET_EMULATED", request.param)
        monkeypatch.setattr(_library, "library", lambda: library)
    return cuda_engine.InfoNCE


def agrees(engine, q, d, labels=None, *, form="bfloat16", scale=1.0, **options):
    loss, grad = (scale * gate for gate in GATES[form])
    check(q, d, labels, form=form, loss=loss, grad=grad, engine=engine, **options)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(140, 140, 64), (129, 270, 33), (1, 50, 8)])
def test_ragged_tiles(engine, rng, shape, symmetric, form):
    n, m, depth = shape
    agrees(engine, vectors(rng, n, depth), vectors(rng, m, depth), symmetric=symmetric, form=form)


@pytest.mark.parametrize("options", [{"normalize": True}, {"symmetric": True}], ids=str)
def test_a_warp_that_lags_finds_what_it_needs(engine, rng, monkeypatch, options):
    """On the emulator one warp runs sixteen times as slowly: the others have to wait for it."""
    emulated = os.environ.get("HYBRIDRET_EMULATED", "")
    if "999" in emulated:
        pytest.skip("no block has a second tile")
    monkeypatch.setenv("HYBRIDRET_EMULATED", f"{emulated}slow")
    agrees(engine, vectors(rng, 300, 100), vectors(rng, 600, 100), **options)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"normalize": True}], ids=str)
def test_panels_add_up(engine, rng, monkeypatch, options):
    """The least workspace: panels of one tile."""
    q, d = vectors(rng, 300, 24), vectors(rng, 320, 24)
    monkeypatch.setattr(engine, "workspace", 1)
    with pytest.raises(RuntimeError, match=r"is too small: at least \d+ are needed") as error:
        agrees(engine, q, d, **options)
    least = int(error.value.args[0].split("at least ")[1].split()[0])
    monkeypatch.setattr(engine, "workspace", least + (100_000 if options else 0))
    agrees(engine, q, d, **options)


@pytest.mark.parametrize("symmetric", [False, True])
def test_known_bounds_change_nothing(engine, rng, symmetric):
    """Where the host knows that no sum can be weak, nothing looks for weak ones."""
    q, d = vectors(rng, 150, 24), vectors(rng, 170, 24)
    runs = [
        engine(q, d, np.arange(150), scale=20.0, logit_bound=bound).forward(
            columns=symmetric, row_weights=np.ones(150, np.float32)
        )
        for bound in (0.0, 20.6)
    ]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("temperature", [1.0, 0.01, 0.005])
def test_temperatures(engine, rng, temperature, form):
    q, d = vectors(rng, 60, 40), vectors(rng, 70, 40)
    agrees(engine, q, d, temperature=temperature, form=form, scale=2)


@given(
    n=st.integers(1, 150),
    extra=st.integers(0, 150),
    depth=st.integers(1, 70),
    temperature=st.sampled_from([1.0, 0.05, 0.01]),
    groups=st.sampled_from([None, 1, 5, 1000]),
    spread=st.sampled_from([0.1, 1.0, 3.0]),
    symmetric=st.booleans(),
    normalize=st.booleans(),
    hard_only=st.booleans(),
    biased=st.booleans(),
    segments=st.integers(0, 3),
    form=st.sampled_from(["bfloat16", "float16"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_anything_agrees_with_the_twin(
    engine,
    n,
    extra,
    depth,
    temperature,
    groups,
    spread,
    symmetric,
    normalize,
    hard_only,
    biased,
    segments,
    form,
    seed,
):
    rng = np.random.default_rng(seed)
    m = n + extra
    q, d = vectors(rng, n, depth, spread), vectors(rng, m, depth, spread)
    options = {"symmetric": symmetric and not hard_only, "normalize": normalize}
    if groups:
        options["query_groups"] = rng.integers(-1, groups, n)
        options["document_groups"] = rng.integers(-1, groups, m)
    if biased:
        options["log_bias"] = rng.standard_normal(m).astype(np.float32)
    if hard_only:
        options["negatives"] = "hard-only"
    labels = rng.permutation(m)[:n] if options["symmetric"] else rng.integers(0, m, n)
    if segments and n > segments:
        rows = np.diff([0, *np.sort(rng.choice(np.arange(1, n), segments, replace=False)), n])
        columns = rows.copy()
        columns[-1] += extra
        options["segments"] = list(zip(rows.tolist(), columns.tolist(), strict=True))
        labels = np.arange(n)
    agrees(
        engine,
        q,
        d,
        labels,
        temperature=temperature,
        form=form,
        scale=4 * max(spread, 1) ** 2,
        **options,
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", ["float32", "bfloat16"])
def test_a_loose_bound_on_the_logits_costs_no_digits(engine, rng, symmetric, form):
    """One long document makes the bound of all rows useless: they are computed again."""
    q, d = vectors(rng, 50, 16), vectors(rng, 150, 16)
    d[140] *= 60
    q[:, 0] = np.abs(q[:, 0])
    d[140, 0] = -np.abs(d[140, 0])
    d[140, 1:] = 0
    agrees(engine, q, d, symmetric=symmetric, form=form, scale=4)


def test_weak_columns_beyond_the_first_tile(engine, rng, monkeypatch):
    """Their positives are far from the rows' own numbers, and panels are one tile."""
    q, d = vectors(rng, 64, 16), vectors(rng, 300, 16)
    labels = rng.permutation(np.arange(150, 300))[:64]
    for limit in (1 << 32, 600_000):
        monkeypatch.setattr(engine, "workspace", limit)
        agrees(engine, q, d, labels, symmetric=True, temperature=0.002, form="float32", scale=10)


def test_labels_of_another_segment_reach_nothing(engine, rng):
    q, d = vectors(rng, 300, 16), vectors(rng, 300, 16)
    labels = np.arange(300)
    labels[-1] = 0
    found = engine(q, d, labels, scale=20.0, segments=[(10, 10), (290, 290)]).forward(
        row_weights=np.ones(300, np.float32)
    )
    good = engine(q, d, np.arange(300), scale=20.0, segments=[(10, 10), (290, 290)]).forward(
        row_weights=np.ones(300, np.float32)
    )
    assert np.isnan(found[1]).tolist() == [i == 299 for i in range(300)]
    np.testing.assert_array_equal(found[5][:10], good[5][:10])


@pytest.mark.parametrize("temperature", [-0.05, np.inf, np.nan, 0.0])
def test_a_temperature_that_is_none_makes_nothing_of_it(engine, rng, temperature):
    q, d = vectors(rng, 9, 16), vectors(rng, 9, 16)
    with np.errstate(divide="ignore"):
        scale = np.float32(1) / np.float32(temperature)
    assert np.isnan(engine(q, d, np.arange(9), scale=scale, normalize=True).forward()[0]).all()


def test_near_convergence(engine, rng):
    d = vectors(rng, 100, 48)
    q = vectors(rng, 100, 48) * 0.02 + d
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    agrees(engine, q.astype(np.float32), d, temperature=0.03, form="float32", scale=10)


def test_degenerate_rows(engine, rng):
    q, d = vectors(rng, 20, 16), vectors(rng, 20, 16)
    q[3] = d[5] = 0
    agrees(engine, q, d, normalize=True, form="float32")
    agrees(engine, q[:1], d[:1], form="float32")  # no negatives
    groups = np.zeros(20, dtype=np.int64)
    agrees(engine, q, d, query_groups=groups, document_groups=groups, form="float32")


def test_not_a_number_stays_in_its_row(engine, rng):
    q, d = vectors(rng, 40, 16), vectors(rng, 40, 16)
    good = engine(q, d, np.arange(40), scale=20.0).forward()
    q[7, 3] = np.nan
    lse, positive, _, rank, *_ = engine(q, d, np.arange(40), scale=20.0).forward(ranks=True)
    assert np.isnan(lse[7])
    assert rank[7] == 0
    others = np.arange(40) != 7
    np.testing.assert_array_equal(lse[others], good[0][others])
    np.testing.assert_array_equal(positive[others], good[1][others])
    assert (rank[others] > 0).all()


def test_labels_that_no_document_has_are_not_a_number(engine, rng):
    q, d = vectors(rng, 9, 16), vectors(rng, 9, 16)
    labels = np.array([0, 1, 2, 9, -1, 5, 6, 7, 8])
    _, positive, *_ = engine(q, d, labels, scale=20.0).forward()
    assert np.isnan(positive).tolist() == [i in (3, 4) for i in range(9)]
    _, positive, *_ = engine(q, d, labels, scale=20.0, labels_elsewhere=True).forward()
    assert np.isnan(positive).tolist() == [i == 3 for i in range(9)]
    assert positive[4] == -np.inf


def test_a_broken_promise_of_unit_vectors(engine, rng):
    q, d = vectors(rng, 9, 16), vectors(rng, 9, 16)
    kept = engine(q, d, np.arange(9), scale=20.0, unit_norm=True).forward()
    assert np.isfinite(kept[0]).all()
    d[4] *= 1.01
    assert np.isnan(engine(q, d, np.arange(9), scale=20.0, unit_norm=True).forward()[0]).all()


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("n", "m"), [(0, 5), (0, 0), (4, 0)])
def test_empty_sides(engine, columns, n, m):
    q, d = np.ones((n, 8), np.float32), np.ones((m, 8), np.float32)
    native = engine(q, d, np.full(n, -1), scale=1.0, labels_elsewhere=True)
    weights = None if n else np.ones(0, np.float32)
    lse, positive, column_lse, _, _, by_document, _ = native.forward(
        columns=columns, row_weights=weights
    )
    assert (lse == -np.inf).all()
    assert (positive == -np.inf).all()
    assert (column_lse == -np.inf).all()
    assert not by_document.any()
    if not columns:
        by = [np.ones(n, np.float32)] * 2
        by_query, by_document, by_scale = native.backward(
            lse, None, by_negatives_lse=by[0], by_positive=by[1]
        )
        assert not by_query.any()
        assert not by_document.any()
        assert by_scale == 0


def test_no_depth_at_all(engine):
    q, d = np.ones((3, 0), np.float32), np.ones((4, 0), np.float32)
    lse, *_ = engine(q, d, np.arange(3), scale=1.0).forward(row_weights=np.ones(3, np.float32))
    assert lse == pytest.approx(np.log(3))


@pytest.mark.parametrize("form", FORMATS)
def test_rows_may_be_strided(engine, rng, form):
    """Aligned strides are read in place, others through a copy; the numbers are the same."""
    q, d = (stored(vectors(rng, n, 24), form)[0] for n in (30, 40))
    expected = engine(q, d, np.arange(30), scale=20.0).forward(row_weights=np.ones(30, np.float32))
    for spare in (8, 3):
        wide = [np.zeros((len(x), 24 + spare), dtype=x.dtype) for x in (q, d)]
        for whole, x in zip(wide, (q, d), strict=True):
            whole[:, :24] = x
        found = engine(wide[0][:, :24], wide[1][:, :24], np.arange(30), scale=20.0).forward(
            row_weights=np.ones(30, np.float32)
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_same_bits_in_every_run(engine, rng, symmetric):
    q, d = vectors(rng, 200, 32), vectors(rng, 260, 32)
    runs = [
        engine(q, d, np.arange(200), scale=20.0).forward(
            columns=symmetric, ranks=True, row_weights=np.ones(200, np.float32)
        )
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_total_is_the_sum_of_the_rows(engine, rng):
    q, d = vectors(rng, 90, 32), vectors(rng, 90, 32)
    for symmetric in (False, True):
        for segments in (None, [(40, 40), (50, 50)]):
            one = engine(q, d, np.arange(90), scale=20.0, segments=segments)
            one.forward(columns=symmetric, row_weights=np.full(90, 1 / 90, np.float32))
            expected = twins.infonce(
                q, d, temperature=0.05, symmetric=symmetric, segments=segments
            ).rows.mean()
            assert one.loss == pytest.approx(expected, rel=1e-6)


def test_bad_input_is_named(engine):
    q = np.zeros((3, 8), np.float32)
    for message, arguments, options in (
        ("differ in dimension", (q, np.zeros((3, 9), np.float32), np.arange(3)), {}),
        (r"labels must have shape \[3\], got \[2\]", (q, q, np.arange(2)), {}),
        ("give both or neither", (q, q, np.arange(3)), {"query_groups": np.arange(3)}),
        ("segments hold 2 queries and 3 documents", (q, q, np.arange(3)), {"segments": [(2, 3)]}),
    ):
        with pytest.raises(ValueError, match=message):
            engine(*arguments, scale=1.0, **options).forward()


# ---- as torch sees it, on a GPU -----------------------------------------------------------------

gpu = pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU or "there is one")


def leaves(n, m, depth, dtype=torch.bfloat16):
    torch.manual_seed(0)
    rows = (torch.nn.functional.normalize(torch.randn(k, depth), dim=1) for k in (n, m))
    return [x.to("cuda", dtype).requires_grad_() for x in rows]


def both(q, d, **options):
    """Loss and gradients on the GPU, and of the same numbers on the CPU in float32."""
    from hybridret import infonce

    found = []
    for x, y in ((q, d), (q.detach().cpu().float(), d.detach().cpu().float())):
        x, y = (v.detach().requires_grad_() for v in (x, y))
        on = {k: v.to(x.device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        loss = infonce(x, y, **on)
        found.append((loss.cpu(), *(g.cpu() for g in torch.autograd.grad(loss.mean(), (x, y)))))
    return found


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True},
        {"normalize": True},
        {"reduction": "none"},
        {"labels": torch.arange(499, -1, -1)},
        {"query_groups": torch.arange(500) // 7, "document_groups": torch.arange(900) // 7},
        {"segments": [(100, 100), (400, 800)]},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_a_gpu_agrees_with_the_cpu(dtype, options):
    (loss, *by), (expected, *by_expected) = both(*leaves(500, 900, 136, dtype), **options)
    assert (loss - expected).norm() <= 1e-5 * expected.norm()
    bound = 5e-6 if dtype == torch.float32 else 5e-3
    for a, b in zip(by, by_expected, strict=True):
        assert (a.float() - b).norm() < bound * b.norm()


@gpu
def test_large_batches_on_a_gpu():
    """Several panels, and waves of tiles; against eager in float32."""
    from hybridret import infonce

    q, d = leaves(20_000, 20_000, 256)
    loss = infonce(q, d, workspace=1 << 28)
    found = torch.autograd.grad(loss, (q, d))
    x, y = (v.detach().float().requires_grad_() for v in (q, d))
    eager = torch.nn.functional.cross_entropy(x @ y.T * 20, torch.arange(20_000, device="cuda"))
    assert loss.item() == pytest.approx(eager.item(), rel=1e-4)
    for a, b in zip(found, torch.autograd.grad(eager, (x, y)), strict=True):
        assert (a.float() - b).norm() < 5e-3 * b.norm()


@gpu
def test_a_gpu_does_not_wait_and_can_be_captured():
    from hybridret import infonce

    q, d = leaves(300, 300, 64)
    temperature = torch.tensor(0.05, device="cuda", requires_grad=True)

    def step():
        return torch.autograd.grad(infonce(q, d, temperature=temperature), (q, d, temperature))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = [x.clone() for x in step()]
    side.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(captured, expected, strict=True):
        assert torch.equal(a, b)


@gpu
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"reduction": "none"}], ids=str)
def test_the_checks_of_the_ops_on_a_gpu(options):
    from hybridret import infonce
    from hybridret.losses import _ops
    from hybridret.losses._options import Loss, Statistics, make_batch

    q, d = leaves(20, 30, 16, torch.float32)
    batch = make_batch(_ops, q, d)
    total = Loss(symmetric=False, mean=True, ranks=True, gradients=True)
    torch.library.opcheck(torch.ops.hybridret.infonce.default, (*batch, *total))
    parts = Statistics(columns=True, ranks=True)
    torch.library.opcheck(torch.ops.hybridret.infonce_statistics.default, (*batch, *parts))
    compiled = torch.compile(lambda q, d: infonce(q, d, **options), fullgraph=True)
    torch.testing.assert_close(compiled(q, d), infonce(q, d, **options))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert infonce(q, d, **options).dtype == torch.float32


def test_what_a_build_without_kernels_says(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(RuntimeError, match="CPU kernels only: build it where a GPU and nvcc are"):
        _library.library.__wrapped__()
    (tmp_path / "none.so").write_text("no library")
    with pytest.raises(RuntimeError, match=r"none.so cannot be loaded"):
        _library.library.__wrapped__()


# ---- as it is compiled --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """The library for all GPUs, built here: the installed one may be for this machine's alone."""
    if not (ROOT / "cmake").is_dir():
        pytest.skip("no sources here")
    probe = Probe(tmp_path_factory.mktemp("compiled"), "cuda", python=sys.executable)
    done, said = probe.configure(HYBRIDRET_CUDA="on")
    if not done and ("no nvcc was found" in said or "12.5 or newer is needed" in said):
        pytest.skip("no nvcc 12.5 or newer")
    assert done, said
    folder, said = probe.install()
    assert "warning" not in said, said
    return folder / "hybridret" / "libhybridret_cuda.so"


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_a_library_without_a_driver_says_so(compiled, monkeypatch):
    """It loads, since it links no driver; a call is one clear sentence."""
    library = _library.Library(compiled)
    with pytest.raises(RuntimeError, match="infonce on CUDA: no usable GPU or driver"):
        library.workspace(_library.Batch(), columns=False, gradients=False, limit=0)
    monkeypatch.setattr(_library, "LIBRARY", compiled)
    monkeypatch.setattr(_library, "library", lambda: library)
    found = _library.describe()
    assert (found["compiled"], found["available"]) == (True, False)
    assert {"80", "90a"} <= set(found["architectures"])
    assert found["reason"].startswith("no usable GPU or driver")


def test_the_library_needs_no_library(compiled):
    found = subprocess.run(["ldd", compiled], capture_output=True, text=True, check=True).stdout
    names = {Path(line.split()[0]).name.partition(".so")[0] for line in found.splitlines() if line}
    system = {"linux-vdso", "libc", "libm", "libdl", "librt", "libpthread", "ld-linux-x86-64"}
    assert names <= system, found


def test_the_library_exports_what_its_headers_declare(compiled):
    declared = {
        name
        for header in (ROOT / "csrc" / "cuda").rglob("*_cuda.h")
        for name in re.findall(r"\b(hybridret_cuda_\w+)\(", header.read_text())
    }
    assert {"hybridret_cuda_abi", "hybridret_cuda_infonce_forward"} <= declared
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", compiled], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in symbols.splitlines()} == declared


def cuda_tool(name: str) -> str | None:
    """From the package index, beside the compiler's other parts, or the system's."""
    found = importlib.util.find_spec("nvidia")
    places = [
        f"{p}/{part}/bin"
        for p in (found.submodule_search_locations if found else ())
        for part in ("cu13", "cu12")
    ]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))


@pytest.mark.skipif(cuda_tool("cuobjdump") is None, reason="no cuobjdump")
@pytest.mark.skipif(cuda_tool("nvdisasm") is None, reason="no nvdisasm")
def test_the_machine_code_is_what_was_meant(compiled):
    """Matrix instructions in every product, 168 registers where warps trade them, no spills to
    speak of."""
    tools = os.path.dirname(cuda_tool("nvdisasm"))
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}

    def dump(option: str, architecture: str) -> str:
        command = [cuda_tool("cuobjdump"), option, "-arch", architecture, compiled]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    usage = re.findall(r"Function (\w+):\n(.*)", dump("--dump-resource-usage", "sm_90a"))
    assert len(usage) > 60
    for name, line in usage:
        used = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        rare = "Weights" in name or "Maxima" in name  # not on the way of the one-way loss
        assert used["STACK"] <= (184 if rare else 0), name
        assert used["LOCAL"] == 0, name
        if "multiply_hopper" in name:
            assert used["REG"] == 168, name
    for kernel, architecture, instructions in (
        ("multiply_hopper", "sm_90a", ("HGMMA", "UTMALDG", "USETMAXREG")),
        ("multiply_ampere", "sm_80", ("HMMA", "LDGSTS", "LDSM")),
    ):
        functions = re.split(r"\n\s+Function : ", dump("-sass", architecture))[1:]
        products = [f for f in functions if kernel in f.partition("\n")[0]]
        assert len(products) > 15
        for function in products:
            for instruction in instructions:
                assert instruction in function, (function.partition("\n")[0], instruction)
