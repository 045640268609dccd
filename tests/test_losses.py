"""The native InfoNCE against its float64 twin, as numpy sees it; test_torch.py: as torch does."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret import _native, infonce, infonce_statistics

FLOATS = np.float32
FORMATS = ["float32", "bfloat16", "float16"]
# Relative Frobenius distance of the gradients; 16-bit ones are rounded once on their way out.
GRADIENT = {"float32": 5e-6, "bfloat16": 2.5e-3, "float16": 5e-6}


def vectors(rng: np.random.Generator, rows: int, depth: int, spread: float = 1.0) -> np.ndarray:
    v = rng.standard_normal((rows, depth))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return (v * spread).astype(FLOATS)


def stored(values: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """What the extension is given, and the value of it."""
    if form == "bfloat16":
        bits = twins.to_bfloat16(values)
        return bits, twins.from_bfloat16(bits)
    given = values.astype(form)
    return given, given.astype(FLOATS)


def values_of(gradient: np.ndarray) -> np.ndarray:
    return twins.from_bfloat16(gradient) if gradient.dtype == np.uint16 else gradient


def check(
    q,
    d,
    labels=None,
    *,
    temperature=0.05,
    form="float32",
    loss=1e-6,
    grad=None,
    threads=2,
    engine=_native.InfoNCE,
    **options,
):
    """Loss, ranks and gradients against the twin, made in the forward pass and recomputed."""
    grad = GRADIENT[form] if grad is None else grad
    (q, q_values), (d, d_values) = stored(q, form), stored(d, form)
    n, m = len(q), len(d)
    labels = np.arange(n) if labels is None else labels
    expected = twins.infonce(q_values, d_values, labels, temperature=temperature, **options)
    symmetric = options.pop("symmetric", False)
    if options.get("segments"):
        options["segments"] = np.array(options["segments"])
    if options.get("log_bias") is not None:
        options["log_bias"] = options["log_bias"].astype(FLOATS)
    options["hard_only"] = options.pop("negatives", "in-batch") == "hard-only"
    native = engine(q, d, labels, scale=1 / temperature, **options)
    lse, positive, column_lse, rank, by_query, by_document, by_scale = native.forward(
        columns=symmetric,
        ranks=True,
        row_weights=np.full(n, 1 / max(n, 1), FLOATS),
        threads=threads,
    )
    gap = lse.astype(np.float64) - positive
    rows = np.logaddexp(0, gap)
    by_lse = twins.sigmoid(gap) / max(n, 1)
    by_column = None
    by_positive = -by_lse
    if symmetric:
        column_gap = column_lse[labels].astype(np.float64) - positive
        rows = (rows + np.logaddexp(0, column_gap)) / 2
        by_column = np.zeros(m)
        by_column[labels] = twins.sigmoid(column_gap) / n / 2
        by_lse = by_lse / 2
        by_positive = -by_lse - by_column[labels]
    assert twins.relative(rows, expected.rows) < loss
    exact = np.abs(rank - expected.rank)
    assert (exact > 0).mean() < 0.02 or n < 50  # near ties in 32 bits
    again = native.backward(
        lse,
        column_lse if symmetric else None,
        by_negatives_lse=by_lse.astype(FLOATS),
        by_positive=by_positive.astype(FLOATS),
        by_column_negatives_lse=by_column.astype(FLOATS) if symmetric else None,
        threads=threads,
    )
    for found in ((by_query, by_document, by_scale), again):
        assert twins.relative(values_of(found[0]), expected.by_query, expected.terms) < grad
        assert twins.relative(values_of(found[1]), expected.by_document, expected.terms) < grad
        size = max(abs(expected.by_scale), expected.terms * temperature)
        # What float32 cannot hold at all is no error.
        bound = max(10 * grad * size, float(np.finfo(FLOATS).tiny))
        assert found[2] == pytest.approx(expected.by_scale, abs=bound)


@given(
    n=st.integers(1, 70),
    extra=st.integers(0, 70),
    depth=st.integers(1, 70),
    temperature=st.sampled_from([1.0, 0.05, 0.01, 0.005]),
    groups=st.sampled_from([None, 1, 5, 1000]),
    spread=st.sampled_from([0.1, 1.0, 3.0]),
    symmetric=st.booleans(),
    normalize=st.booleans(),
    hard_only=st.booleans(),
    biased=st.booleans(),
    segments=st.integers(0, 3),
    form=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=400, deadline=None)
def test_anything_agrees_with_the_twin(
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
    q, d = vectors(rng, n, depth, spread), vectors(rng, n + extra, depth, spread)
    labels = rng.permutation(n + extra)[:n] if symmetric else rng.integers(0, n + extra, n)
    options = {"symmetric": symmetric, "normalize": normalize}
    if groups:
        options["document_groups"] = rng.integers(-1, groups, n + extra)
        options["query_groups"] = options["document_groups"][labels]
    if biased:
        options["log_bias"] = rng.normal(0, 2, n + extra).astype(FLOATS)
    if segments:
        cuts = np.sort(rng.integers(0, n + 1, segments))
        rows = np.diff([0, *cuts, n])
        columns = rows + rng.multinomial(extra, [1 / (segments + 1)] * (segments + 1))
        options["segments"] = [(int(a), int(b)) for a, b in zip(rows, columns, strict=True)]
        starts = np.concatenate([[0], np.cumsum(columns)[:-1]])
        labels = np.concatenate([np.arange(a) + b for a, b in zip(rows, starts, strict=True)])
        if groups:
            options["query_groups"] = options["document_groups"][labels]
    if hard_only and not symmetric:
        options["negatives"] = "hard-only"
    # Inner products lose 1e-7 of the largest term, which the temperature magnifies.
    largest = 1.0 if normalize else spread**2
    slack = max(1.0, 4 * largest * 0.05 / temperature)
    # Few elements: nothing averages. Where bfloat16 is multiplied, weights and scaled queries are
    # stored in it, and so is the result: three roundings of at most 2^-9 each.
    grad = (1 + 2**-9) ** 3 - 1 if form == "bfloat16" else GRADIENT[form] * slack
    check(q, d, labels, temperature=temperature, form=form, loss=1e-6 * slack, grad=grad, **options)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(300, 300, 64), (257, 700, 33), (1, 500, 8), (1100, 1300, 96)])
def test_several_panels_and_ragged_tiles(shape, symmetric, form):
    rng = np.random.default_rng(1)
    n, m, depth = shape
    check(vectors(rng, n, depth), vectors(rng, m, depth), symmetric=symmetric, form=form)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.05, 0.02, 0.01, 0.005])
def test_every_temperature_is_within_the_error_bounds(temperature, form):
    rng = np.random.default_rng(9)
    d = vectors(rng, 512, 256)
    q = vectors(rng, 512, 256) + 0.1 * d
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    slack = max(1.0, 0.02 / temperature)  # a logit of 200 has 24 bits as well
    grad = GRADIENT[form] * (1 if form == "bfloat16" else slack)
    check(q.astype(FLOATS), d, temperature=temperature, form=form, loss=1e-6 * slack, grad=grad)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("noise", [0.3, 0.05, 0.01])
def test_near_convergence_loss_and_gradients_stay_accurate(noise, form):
    rng = np.random.default_rng(2)
    d = vectors(rng, 200, 768)
    q = d + noise * vectors(rng, 200, 768)
    q = (q / np.linalg.norm(q, axis=1, keepdims=True)).astype(FLOATS)
    assert twins.infonce(q, d, temperature=0.03).rows.mean() < 1e-9
    grad = GRADIENT[form] if form == "bfloat16" else 2e-5
    check(q, d, temperature=0.03, form=form, loss=2e-5, grad=grad)


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


def test_segments_equal_separate_batches():
    rng = np.random.default_rng(10)
    q, d = vectors(rng, 9, 16), vectors(rng, 13, 16)
    labels = np.array([0, 1, 2, 3, 6, 7, 8, 9, 10])
    rows = infonce(q, d, labels, segments=[(4, 6), (5, 7)], symmetric=True, reduction="none")
    first = infonce(q[:4], d[:6], symmetric=True, reduction="none")
    second = infonce(q[4:], d[6:], symmetric=True, reduction="none")
    np.testing.assert_array_equal(rows, np.concatenate([first, second]))


def test_many_small_segments():
    rng = np.random.default_rng(11)
    q, d = vectors(rng, 64, 16), vectors(rng, 96, 16)
    segments = [(4, 6)] * 16
    labels = (np.arange(64) // 4) * 6 + np.arange(64) % 4
    check(q, d, labels, segments=segments, symmetric=True)


def test_hard_only_is_equation_1_of_the_paper():
    rng = np.random.default_rng(12)
    q, positives, hard = (vectors(rng, 5, 16) for _ in range(3))
    rows = infonce(
        q, np.concatenate([positives, hard]), negatives="hard-only", temperature=1, reduction="none"
    )
    s = np.exp(q.astype(np.float64) @ np.concatenate([positives, hard]).T.astype(np.float64))
    own = s[np.arange(5), np.arange(5)]
    np.testing.assert_allclose(rows, -np.log(own / (own + s[:, 5:].sum(1))), rtol=1e-5)


def test_normalize_equals_normalising_beforehand():
    rng = np.random.default_rng(13)
    q, d = vectors(rng, 20, 16, 7.0), vectors(rng, 30, 16, 0.01)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, d)]
    assert infonce(q, d, normalize=True) == pytest.approx(infonce(*unit, unit_norm=True), rel=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_unit_norm_with_other_lengths_gives_nan(form):
    rng = np.random.default_rng(14)
    q, d = vectors(rng, 8, 64), vectors(rng, 12, 64)
    assert np.isfinite(
        _native.InfoNCE(
            stored(q, form)[0], stored(d, form)[0], np.arange(8), scale=20.0, unit_norm=True
        ).forward()[0]
    ).all()
    for broken in (q, d):
        broken[5] *= 1.05
        native = _native.InfoNCE(
            stored(q, form)[0], stored(d, form)[0], np.arange(8), scale=20.0, unit_norm=True
        )
        lse, *_, by_query, by_document, _ = native.forward(row_weights=np.ones(8, FLOATS))
        assert np.isnan(lse).all()
        assert np.isnan(values_of(by_query)).all()
        assert np.isnan(values_of(by_document)).all()
        broken[5] /= 1.05


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_loose_bound_on_the_logits_loses_no_accuracy(symmetric):
    """One long vector, orthogonal to all others, makes the bound useless for everybody."""
    rng = np.random.default_rng(15)
    q, d = vectors(rng, 40, 32), vectors(rng, 60, 32)
    q[:, 0] = d[:, 0] = 0
    d[50] = 0
    d[50, 0] = 1000
    check(q, d, symmetric=symmetric)
    q[7] = 0
    q[7, 0] = -30  # the long document's logit is -600000, all others 0
    check(q, d, symmetric=symmetric)


def test_a_bound_that_is_not_finite_leaves_the_other_rows_right():
    q, d = np.ones((6, 8), FLOATS), np.ones((6, 8), FLOATS)
    for bad in (0, 3):
        broken = q.copy()
        broken[bad, 0] = np.nan
        for columns in (False, True):
            lse = infonce_statistics(broken, d, temperature=0.02, columns=columns).negatives_lse
            assert np.isnan(lse[bad])
            np.testing.assert_allclose(np.delete(lse, bad), 400 + math.log(5), rtol=1e-6)
    q, d = np.zeros((4, 8), FLOATS), np.zeros((4, 8), FLOATS)
    q[:, 0] = 1
    d[:, 0] = [120, 1, -5, 3]
    d[3, 1] = 3e19  # its squared length overflows, its logits do not
    rows = infonce(q, d, temperature=1.0, reduction="none")
    np.testing.assert_allclose(rows, [0, 119, 125, 117], atol=1e-5)
    assert np.isfinite(infonce(q, d, normalize=True))


def test_zero_documents():
    q, none = np.ones((5, 8), FLOATS), np.zeros((0, 8), FLOATS)
    statistics = infonce_statistics(q, none, np.full(5, -1))
    assert (statistics.negatives_lse == -np.inf).all()
    native = _native.InfoNCE(q, none, np.full(5, -1), scale=1.0, labels_elsewhere=True)
    by_query, by_document, _ = native.backward(
        statistics.negatives_lse,
        by_negatives_lse=np.ones(5, FLOATS),
        by_positive=np.ones(5, FLOATS),
    )
    assert not by_query.any()
    assert by_document.shape == (0, 8)
    with pytest.raises(ValueError, match=r"labels\[0\] is -1"):
        native.forward(ranks=True)


def test_dimension_zero():
    none = np.zeros((4, 0), FLOATS)
    native = _native.InfoNCE(none, none, np.arange(4), scale=1.0)
    lse, *_, by_query, _, _ = native.forward(row_weights=np.ones(4, FLOATS))
    np.testing.assert_allclose(lse, math.log(3), rtol=1e-6)
    assert by_query.shape == (4, 0)


def test_a_query_without_negatives_has_zero_loss():
    rng = np.random.default_rng(4)
    q, d = vectors(rng, 3, 8), vectors(rng, 3, 8)
    groups = np.zeros(3, dtype=np.int64)
    options = {"query_groups": groups, "document_groups": groups}
    assert infonce(q, d, **options) == 0
    assert infonce(q, d, symmetric=True, **options) == 0
    for symmetric in (False, True):
        check(q, d, symmetric=symmetric, **options)
    some = {"query_groups": np.array([1, 2, 3]), "document_groups": np.array([1, 1, 1])}
    check(q, d, **some)


def test_degenerate_vectors():
    same = np.full((5, 8), 0.5, FLOATS)
    loss, stats = infonce(same, same, return_stats=True)
    assert loss == pytest.approx(math.log(5), rel=1e-6)
    assert (stats.rank == 1).all()  # nothing is above an equal
    zero = np.zeros((4, 8), FLOATS)
    for normalize in (False, True):
        assert infonce(zero, zero, normalize=normalize) == pytest.approx(math.log(4), rel=1e-6)
    native = _native.InfoNCE(zero, zero, np.arange(4), scale=20.0, normalize=True)
    *_, by_query, by_document, _ = native.forward(row_weights=np.ones(4, FLOATS))
    assert not by_query.any()
    assert not by_document.any()


@pytest.mark.parametrize("form", FORMATS)
def test_ranks_and_accuracy(form):
    rng = np.random.default_rng(16)
    q, d = (stored(vectors(rng, n, 48), form) for n in (400, 500))
    d[0][3] = d[0][4]  # twins tie exactly
    d[1][3] = d[1][4]
    loss = _native.InfoNCE(q[0], d[0], np.arange(400), scale=20.0)
    rank = loss.forward(ranks=True)[3]
    scores = q[1].astype(np.float64) @ d[1].T.astype(np.float64)
    expected = 1 + (scores > np.diag(scores)[:, None]).sum(1)
    assert (rank != expected).mean() < 0.01
    if form == "float32":
        loss, stats = infonce(q[0], d[0], return_stats=True)
        np.testing.assert_array_equal(stats.rank, rank)
        assert stats.accuracy == pytest.approx((rank == 1).mean())
        assert loss == infonce(q[0], d[0])


def test_nan_inputs_give_nan_losses():
    rng = np.random.default_rng(5)
    q, d = vectors(rng, 20, 8), vectors(rng, 20, 8)
    bad = q.copy()
    bad[3, 2] = np.nan
    rows = infonce(bad, d, reduction="none")
    assert np.isnan(rows[3])
    assert not np.isnan(np.delete(rows, 3)).any()
    loss, stats = infonce(bad, d, return_stats=True)
    assert np.isnan(loss)
    assert stats.rank[3] == 0
    for value in (np.nan, np.inf):
        bad = d.copy()
        bad[3, 2] = value
        for symmetric in (False, True):
            assert not np.isfinite(infonce(q, bad, symmetric=symmetric))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_same_bits_for_any_number_of_threads(form, symmetric):
    rng = np.random.default_rng(6)
    q, d = (stored(vectors(rng, n, 96), form)[0] for n in (700, 900))
    native = _native.InfoNCE(q, d, np.arange(700), scale=20.0)
    runs = [
        native.forward(
            columns=symmetric, ranks=True, row_weights=np.full(700, 1 / 700, FLOATS), threads=t
        )
        for t in (1, 2, 3, 7, 2, 1)
    ]
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_concurrent_calls():
    """A second caller finds the threads taken and computes alone: the same bits."""
    rng = np.random.default_rng(17)
    native = _native.InfoNCE(
        vectors(rng, 300, 64), vectors(rng, 300, 64), np.arange(300), scale=20.0
    )
    weights = np.ones(300, FLOATS)
    expected = native.forward(row_weights=weights)[4]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: native.forward(row_weights=weights)[4], range(40)))
    assert all((by == expected).all() for by in found)


def test_threads_survive_a_fork():
    code = """
import os, numpy as np
from hybridret import _native
q = np.random.default_rng(0).standard_normal((300, 64), dtype=np.float32)
loss = _native.InfoNCE(q, q, np.arange(300), scale=0.1)
before = loss.forward(threads=4)[0]
child = os.fork()
same = (loss.forward(threads=4)[0] == before).all()
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity mask")
def test_threads_follow_the_affinity_mask():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from hybridret import _native; assert _native.default_threads() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_rows_may_be_strided():
    rng = np.random.default_rng(7)
    wide = vectors(rng, 40, 64)
    q, d = wide[::2, :32], wide[1::2, 16:48]
    expected = twins.infonce(q, d, temperature=0.05)
    assert infonce(q, d) == pytest.approx(expected.rows.mean(), rel=1e-6)
    assert infonce(np.asfortranarray(q), d) == infonce(q, d)
    assert infonce(np.broadcast_to(q[0], (5, 32)), d) == infonce(np.tile(q[0], (5, 1)), d)
    assert infonce(q.astype(">f4"), d.astype(">f4")) == infonce(q, d)
    assert infonce(q[::-1], d[::-1]) == pytest.approx(infonce(q, d), rel=1e-6)


def test_statistics_of_split_documents_combine():
    """Half of the documents here, half there; a row's label is in one of them."""
    rng = np.random.default_rng(8)
    q, d = vectors(rng, 30, 16), vectors(rng, 50, 16)
    labels = rng.permutation(50)[:30]
    whole = infonce_statistics(q, d, labels)
    halves = [
        infonce_statistics(q, d[a:b], np.where((labels >= a) & (labels < b), labels - a, -1))
        for a, b in ((0, 20), (20, 50))
    ]
    lse = np.logaddexp(halves[0].negatives_lse, halves[1].negatives_lse)
    np.testing.assert_allclose(lse, whole.negatives_lse, rtol=1e-6)
    positive = np.maximum(halves[0].positive, halves[1].positive)
    np.testing.assert_array_equal(positive, whole.positive)
    assert whole.column_negatives_lse is None
    assert infonce_statistics(q, d, labels, columns=True).column_negatives_lse.shape == (50,)


def test_bad_input_is_named():
    q = np.zeros((3, 4), FLOATS)
    wrong = [
        (ValueError, "3 queries and 2 documents", (q, q[:2]), {}),
        (ValueError, r"labels\[1\] is 3, but there are 3 documents", (q, q, [0, 3, 1]), {}),
        (ValueError, r"labels\[0\] is -1, but there are 3 documents", (q, q, [-1, 0, 1]), {}),
        (ValueError, r"labels must have shape \[3\], got \[2\]", (q, q, [0, 1]), {}),
        (ValueError, "differ in dimension", (q, np.zeros((3, 5), FLOATS)), {}),
        (ValueError, "differ in dtype", (q, q.astype(np.float16)), {}),
        (ValueError, "two dimensions", (q[0], q), {}),
        (ValueError, "temperature", (q, q), {"temperature": 0.0}),
        (ValueError, "give both or neither", (q, q), {"query_groups": np.arange(3)}),
        (ValueError, "reduction", (q, q), {"reduction": "median"}),
        (ValueError, "negatives must be one of", (q, q), {"negatives": "soft"}),
        (ValueError, "besides the positives", (q, q), {"negatives": "hard-only"}),
        (ValueError, "no symmetric loss", (q, q), {"negatives": "hard-only", "symmetric": True}),
        (ValueError, "give one of them", (q, q), {"normalize": True, "unit_norm": True}),
        (
            ValueError,
            r"labels\[0\] and labels\[2\] are both 1",
            (q, q, [1, 0, 1]),
            {"symmetric": True},
        ),
        (ValueError, "pairs of integers", (q, q), {"segments": [(2**63, 1)]}),
        (ValueError, "pairs of integers", (q, q), {"segments": [(1.0, 1.0)]}),
        (TypeError, "temperature must be a number, got NoneType", (q, q), {"temperature": None}),
        (
            ValueError,
            "segments hold 2 queries and 3 documents, the batch has 3 and 3",
            (q, q),
            {"segments": [(2, 3)]},
        ),
        (ValueError, r"segments\[1\] goes past the batch", (q, q), {"segments": [(2, 2), (2, 1)]}),
        (
            ValueError,
            r"labels\[2\] is 0, outside its segment's documents \[2, 3\)",
            (q, q, [0, 1, 0]),
            {"segments": [(2, 2), (1, 1)]},
        ),
        (ValueError, r"pairs of integers \(queries, documents\)", (q, q), {"segments": [3]}),
        (ValueError, r"log_bias must have shape \[3\]", (q, q), {"log_bias": np.zeros(2)}),
        (TypeError, "float32", (q.astype(np.float64), q), {}),
        (TypeError, "integers", (q, q, np.array([0.0, 1.0, 2.0])), {}),
        (
            TypeError,
            "integers that fit int64, got uint64",
            (q, q),
            {"query_groups": np.arange(3, dtype=np.uint64), "document_groups": np.arange(3)},
        ),
        (TypeError, "queries must be an array or tensor, got list", ([[1.0]], q), {}),
    ]
    for error, message, arguments, options in wrong:
        with pytest.raises(error, match=message):
            infonce(*arguments, **options)


def test_an_empty_batch():
    none = np.zeros((0, 4), FLOATS)
    three = np.zeros((3, 4), FLOATS)
    assert infonce(none, none) == 0
    assert infonce(none, three, reduction="none").shape == (0,)
    assert infonce(none, none, labels=[], symmetric=True) == 0
    assert infonce(three, three, segments=[(0, 0), (3, 3)]) == infonce(three, three)
    loss, stats = infonce(none, three, return_stats=True)
    assert loss == 0
    assert np.isnan(stats.accuracy)
    native = _native.InfoNCE(none, three, np.arange(0), scale=1.0)
    by_document = native.forward(row_weights=np.ones(0, FLOATS))[5]
    assert by_document.shape == (3, 4)
    assert not by_document.any()
