"""Exact ranks against a full sort in float64: ties, formats, screening, shards, bad rows."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridret import _native
from hybridret.data.table import Dataset, Document, Query
from hybridret.errors import DataError
from hybridret.evaluation.judging import Evaluation
from hybridret.evaluation.metrics import NEVER
from hybridret.evaluation.ranking import Pool, Ranks, rank_embeddings, ranks_of_ids
from hybridret.evaluation.trec import evaluate_run

FLOATS = np.float32
SCREENING = ["auto", "bfloat16", "float32"]


def make_dataset(
    rng: np.random.Generator, groups: int, languages: str, per_group: int = 1
) -> Dataset:
    """Questions in every language, each with ``per_group`` answers in its own."""
    queries, documents, qrels = [], [], {}
    for g in range(groups):
        for language in languages:
            query = Query(f"q{g}{language}", "?", language, f"g{g}")
            queries.append(query)
            qrels[query.query_id] = {}
            for n in range(per_group):
                document_id = f"d{rng.integers(10**9)}-{g}{language}{n}"
                documents.append(Document(document_id, "!", language, f"g{g}"))
                qrels[query.query_id][document_id] = int(rng.integers(1, 4))
    order = rng.permutation(len(documents))
    return Dataset("made", queries, [documents[i] for i in order], qrels)


def exact_scores(q: np.ndarray, d: np.ndarray, similarity: str) -> np.ndarray:
    scores = q.astype(np.float64) @ d.astype(np.float64).T
    if similarity == "cosine":
        scores = scores / np.linalg.norm(d.astype(np.float64), axis=1)
    return scores


def sorted_ranks(pool: Pool, scores: np.ndarray) -> Ranks:
    """The slow twin: sorts every pool for every query by (score, document id descending)."""
    ids = [d.document_id for d in pool.dataset.documents]
    by_id = np.array(sorted(range(len(ids)), key=lambda i: ids[i].encode(), reverse=True))
    tie = np.empty(len(ids), dtype=np.int64)
    tie[by_id] = np.arange(len(ids))
    in_language, in_all, above, best = [], [], [], []
    lists = [twins.before(row, tie) for row in scores]
    for q, d in zip(pool.target_query, pool.targets, strict=True):
        order = lists[q]
        place = int(np.flatnonzero(order == d)[0])
        in_all.append(place + 1)
        languages = pool.document_language[order[:place]]
        above.append(np.bincount(languages, minlength=len(pool.languages)))
        in_language.append(above[-1][pool.document_language[d]] + 1)
    best = np.array(lists)
    return Ranks(np.array(in_language), np.array(in_all), np.array(above), best)


def assert_equal(actual: Ranks, expected: Ranks) -> None:
    assert (actual.in_all == expected.in_all).all()
    assert (actual.in_language == expected.in_language).all()
    assert (actual.above == expected.above).all()
    k = actual.best.shape[1]
    assert (actual.best == expected.best[:, :k]).all()


@given(
    groups=st.integers(1, 12),
    languages=st.sampled_from(["a", "ab", "abcde"]),
    per_group=st.integers(1, 3),
    depth=st.integers(1, 40),
    levels=st.sampled_from([2, 3, 1000]),
    screening=st.sampled_from(SCREENING),
    best=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_ranks_are_those_of_a_full_sort(
    groups, languages, per_group, depth, levels, screening, best, seed
):
    """Small integers are exact: with few levels most scores tie, exactly."""
    rng = np.random.default_rng(seed)
    pool = Pool(make_dataset(rng, groups, languages, per_group))
    q = rng.integers(-levels, levels + 1, (len(pool.query_language), depth)).astype(FLOATS)
    d = rng.integers(-levels, levels + 1, (len(pool.document_language), depth)).astype(FLOATS)
    expected = sorted_ranks(pool, exact_scores(q, d, "dot"))
    actual = rank_embeddings(pool, q, d, similarity="dot", screening=screening, best=best)
    assert_equal(actual, expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("screening", SCREENING)
@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16", "float64"])
def test_ranks_equal_a_float64_sort_on_many_documents(form, screening, similarity):
    rng = np.random.default_rng(0)
    pool = Pool(make_dataset(rng, 300, "abc"))
    q, d = (rng.standard_normal((900, 80), dtype=FLOATS) for _ in range(2))
    given_q, given_d = q, d
    if form == "bfloat16":
        torch = pytest.importorskip("torch")
        given_q, given_d = (torch.from_numpy(x).bfloat16() for x in (q, d))
        q, d = (x.float().numpy() for x in (given_q, given_d))
    elif form != "float32":
        given_q, given_d = q.astype(form), d.astype(form)
        q, d = given_q.astype(FLOATS), given_d.astype(FLOATS)
    expected = sorted_ranks(pool, exact_scores(q, d, similarity))
    actual = rank_embeddings(
        pool, given_q, given_d, similarity=similarity, screening=screening, best=25
    )
    assert_equal(actual, expected)


def narrow_cone(rng: np.random.Generator, rows: int, depth: int, spread: float) -> np.ndarray:
    """An anisotropic encoder's vectors: one direction and little else."""
    common = rng.standard_normal(depth)
    return (common + spread * rng.standard_normal((rows, depth))).astype(FLOATS)


@pytest.mark.parametrize("screening", SCREENING)
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-5, 1e-3, 0.1])
def test_adversarial_vectors(spread, screening):
    """All scores within the rounding of bfloat16, of float32, and exactly equal."""
    rng = np.random.default_rng(5)
    pool = Pool(make_dataset(rng, 60, "ab"))
    q, d = narrow_cone(rng, 120, 48, 0.3), narrow_cone(rng, 120, 48, spread)
    expected = sorted_ranks(
        pool,
        np.array(
            [
                [
                    _native.pair_scores(
                        q, d, query_rows=np.full(120, i), document_rows=np.arange(120), cosine=True
                    )
                ]
                for i in range(120)
            ]
        )[:, 0],
    )
    actual = rank_embeddings(pool, q, d, screening=screening, best=7)
    assert_equal(actual, expected)
    assert actual.unsettled <= 1


@pytest.mark.parametrize("screening", SCREENING)
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-3, 1e15, 1e17])
def test_any_scale_of_the_vectors(scale, screening):
    """Products too small for float32's normal numbers, and nearly too large for it."""
    rng = np.random.default_rng(6)
    pool = Pool(make_dataset(rng, 40, "ab"))
    q = rng.standard_normal((80, 24), dtype=FLOATS)
    d = (rng.standard_normal((80, 24)) * scale).astype(FLOATS)
    lengths = (10.0 ** rng.uniform(-3, 0, (80, 1))).astype(FLOATS)
    for vectors in (d, d * lengths):
        expected = sorted_ranks(pool, exact_scores(q, vectors, "dot"))
        actual = rank_embeddings(pool, q, vectors, similarity="dot", screening=screening, best=3)
        assert_equal(actual, expected)
        if scale > 1e-40:  # below, a row may be zero
            expected = sorted_ranks(pool, exact_scores(q, vectors, "cosine"))
            assert_equal(rank_embeddings(pool, q, vectors, screening=screening, best=3), expected)


def test_the_largest_possible_rounding_errors():
    """Every element of both vectors half-way between two bfloat16, all errors of one sign."""
    rng = np.random.default_rng(7)
    pool = Pool(make_dataset(rng, 50, "ab"))
    signs = rng.choice([-1, 1], (100, 64))
    q = (signs * (1 + 2.0**-8 - 2.0**-20)).astype(FLOATS)
    wobble = 1 + rng.integers(0, 3, (100, 64)) * 2.0**-9
    d = (rng.choice([-1, 1], (100, 64)) * wobble).astype(FLOATS)
    for similarity in ("cosine", "dot"):
        expected = sorted_ranks(pool, exact_scores(q, d, similarity))
        for screening in SCREENING:
            actual = rank_embeddings(pool, q, d, similarity=similarity, screening=screening, best=5)
            assert_equal(actual, expected)


def test_hundreds_of_relevant_documents():
    rng = np.random.default_rng(8)
    documents = [Document(f"d{i}", "!", "ab"[i % 2], "g") for i in range(700)]
    queries = [Query(f"q{i}", "?", "a", f"q{i}") for i in range(5)]
    qrels = {
        f"q{i}": {f"d{j}": 1 for j in rng.choice(700, 475, replace=False)} for i in range(4)
    } | {"q4": {}}
    pool = Pool(Dataset("made", queries, documents, qrels))
    q, d = rng.standard_normal((5, 32)).astype(FLOATS), rng.standard_normal((700, 32))
    d = np.repeat(d[:350], 2, axis=0).astype(FLOATS)  # each twice
    expected = sorted_ranks(pool, exact_scores(q, d, "dot"))
    for screening in SCREENING:
        actual = rank_embeddings(pool, q, d, similarity="dot", screening=screening, best=700)
        assert_equal(actual, expected)


def test_the_best_documents_when_every_score_exceeds_the_previous():
    """Every document is better than all before it: each is kept for a while."""
    rng = np.random.default_rng(9)
    documents = [Document(f"d{i:04}", "!", "a", "g") for i in range(1500)]
    pool = Pool(Dataset("made", [Query("q", "?", "a", "g")], documents, {"q": {"d0000": 1}}))
    d = np.c_[np.linspace(1, 2, 1500), rng.standard_normal(1500) * 1e-3].astype(FLOATS)
    q = np.array([[1, 0]], dtype=FLOATS)
    for screening in SCREENING:
        actual = rank_embeddings(pool, q, d, similarity="dot", best=20, screening=screening)
        assert actual.best[0].tolist() == list(range(1499, 1479, -1))
        assert actual.best_scores[0] == pytest.approx(np.linspace(1, 2, 1500)[:1479:-1])
        assert actual.in_all.tolist() == [1500]


def test_fewer_documents_than_requested():
    pool = Pool(
        Dataset(
            "made", [Query("q", "?", "a", "g")], [Document("d", "!", "a", "g")], {"q": {"d": 1}}
        )
    )
    ranks = rank_embeddings(pool, np.ones((1, 3)), np.ones((1, 3)), best=5)
    assert ranks.best.tolist() == [[0]]
    assert ranks.in_all.tolist() == [1]


def test_equal_embeddings_are_ranked_by_id_only():
    """Counting strictly greater scores would call this a perfect system."""
    rng = np.random.default_rng(1)
    pool = Pool(make_dataset(rng, 20, "ab"))
    ones = np.ones((40, 8), dtype=FLOATS)
    ranks = rank_embeddings(pool, ones, ones)
    for language in (0, 1):
        of = pool.document_language[pool.targets] == language
        first = pool.query_language[pool.target_query] == language
        assert sorted(ranks.in_language[of & first]) == list(range(1, 21))
    optimistic = rank_embeddings(pool, ones, ones, ties="optimistic")
    pessimistic = rank_embeddings(pool, ones, ones, ties="pessimistic")
    # Two answers a question, all 40 documents equal.
    assert sorted(optimistic.in_all) == [1] * 40 + [2] * 40
    assert sorted(pessimistic.in_all) == [39] * 40 + [40] * 40
    assert set(optimistic.in_language) == {1}
    assert set(pessimistic.in_language) == {20}


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 3), per_group=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_optimistic_and_pessimistic_ties(seed, levels, per_group):
    rng = np.random.default_rng(seed)
    pool = Pool(make_dataset(rng, 6, "abc", per_group))
    q = rng.integers(-levels, levels + 1, (len(pool.query_language), 3)).astype(FLOATS)
    d = rng.integers(-levels, levels + 1, (len(pool.document_language), 3)).astype(FLOATS)
    scores = exact_scores(q, d, "dot")
    relevant = np.zeros(scores.shape, dtype=bool)
    relevant[pool.target_query, pool.targets] = True
    for ties, sign in (("optimistic", -1), ("pessimistic", 1)):
        actual = rank_embeddings(pool, q, d, similarity="dot", ties=ties)
        for t, (i, j) in enumerate(zip(pool.target_query, pool.targets, strict=True)):
            order = np.lexsort((pool.tie_order, sign * relevant[i], -scores[i]))
            assert actual.in_all[t] == np.flatnonzero(order == j)[0] + 1
            same = order[pool.document_language[order] == pool.document_language[j]]
            assert actual.in_language[t] == np.flatnonzero(same == j)[0] + 1


def test_the_same_ranks_for_any_order_and_number_of_threads():
    rng = np.random.default_rng(2)
    dataset = make_dataset(rng, 150, "abcd")
    q = rng.standard_normal((600, 33), dtype=FLOATS)
    d = np.repeat(rng.standard_normal((300, 33), dtype=FLOATS), 2, axis=0)  # exact ties
    pool = Pool(dataset)
    expected = rank_embeddings(pool, q, d, threads=1, best=5)
    for threads in (2, 5):
        assert_equal(rank_embeddings(pool, q, d, threads=threads, best=5), expected)
    order = rng.permutation(600)
    shuffled = Dataset(
        "made", dataset.queries, [dataset.documents[i] for i in order], dataset.qrels
    )
    again = rank_embeddings(Pool(shuffled), q, d[order], best=5)
    assert (again.in_all == expected.in_all).all()
    assert (again.in_language == expected.in_language).all()
    assert (order[again.best] == expected.best).all()
    assert (again.best_scores == expected.best_scores).all()


_OF_ISA = """
import hashlib, sys
import numpy as np
from hybridret import _native
rng = np.random.default_rng(3)
q, d = (rng.standard_normal((n, 70), dtype=np.float32) for n in (90, 400))
q[5], d[7] = q[6], d[8]
pairs = dict(query_rows=np.repeat(np.arange(90), 3), document_rows=rng.integers(0, 400, 270))
found = []
for cosine in (True, False):
    scores = _native.pair_scores(q, d, cosine=cosine, **pairs)
    ties = rng.permutation(400)
    for screening in ("bfloat16", "float32"):
        above, _, best, top, _ = _native.rank(
            q, d, document_language=np.arange(400, dtype=np.int32) % 3, tie_order=ties,
            target_begin=np.arange(91) * 3, target_scores=scores,
            target_order=ties[pairs["document_rows"]], languages=3, cosine=cosine, k=4,
            screening=screening)
        found.append((above.tolist(), best.tolist(), top.tolist(), scores.tolist()))
    assert found[-1] == found[-2]
for depth in (63, 127, 191, 255, 319):
    # Every product after the first is lost in float32, however it is summed one by one.
    q = np.full((1, depth), 2.0**-12, np.float32)
    d = np.zeros((2, depth), np.float32)
    q[0, 0], d[1], d[:, 0] = 1, 2.0**-12 * (1 - 2.0**-10), 1
    for steps in range(depth):
        d[0, 0] = 1 + steps * 2.0**-23
        scores = _native.pair_scores(
            q, d, query_rows=np.r_[0], document_rows=np.r_[0], cosine=False)
        for screening in ("bfloat16", "float32"):
            above = _native.rank(
                q, d, document_language=np.zeros(2, np.int32), tie_order=np.arange(2),
                target_begin=np.r_[0, 1], target_scores=scores, target_order=np.r_[0], languages=1,
                cosine=False, screening=screening)[0]
            exact = q[0].astype(float) @ d.T.astype(float)
            assert above.tolist() == [[int(exact[1] > exact[0])]], (depth, steps)
print(hashlib.sha256(repr(found).encode()).hexdigest())
"""


def test_the_same_bits_on_every_instruction_set():
    digests = {}
    for isa in _native.usable_isas():
        done = subprocess.run(
            [sys.executable, "-c", _OF_ISA],
            env=os.environ | {"HYBRIDRET_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        digests[isa] = done.stdout
    assert len(set(digests.values())) == 1, digests


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 150), cosine=st.booleans())
@settings(max_examples=40, deadline=None)
def test_counts_of_shards_can_be_added(seed, cut, cosine):
    rng = np.random.default_rng(seed)
    q = rng.integers(-2, 3, (20, 6)).astype(FLOATS)
    d = rng.integers(-2, 3, (151, 6)).astype(FLOATS)
    d[~d.any(1)] = 1
    q[~q.any(1)] = 1
    targets = rng.integers(0, 151, 40)
    rows = np.repeat(np.arange(20), 2)
    scores = _native.pair_scores(q, d, query_rows=rows, document_rows=targets, cosine=cosine)
    ties = rng.permutation(151)

    def count(part: slice) -> np.ndarray:
        return _native.rank(
            q,
            d[part],
            document_language=np.zeros(len(d[part]), np.int32),
            tie_order=ties[part],
            target_begin=np.arange(21) * 2,
            target_scores=scores,
            target_order=ties[targets],
            languages=1,
            cosine=cosine,
        )[0]

    whole = count(slice(None))
    assert (whole == count(slice(0, cut)) + count(slice(cut, None))).all()


def test_a_pool_on_disk_is_read_in_place(tmp_path):
    rng = np.random.default_rng(4)
    pool = Pool(make_dataset(rng, 50, "ab"))
    q, d = (rng.standard_normal((100, 16)).astype(np.float16) for _ in range(2))
    np.save(tmp_path / "d.npy", d)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    expected = rank_embeddings(pool, q, d, best=3)
    assert_equal(rank_embeddings(pool, q, mapped, best=3), expected)
    # Columns of a wider array, rows of another order of bytes, and a transposed array.
    wide = np.concatenate([d, d], axis=1)
    assert_equal(rank_embeddings(pool, q, wide[:, 16:], best=3), expected)
    assert_equal(rank_embeddings(pool, q, d.astype(">f2"), best=3), expected)
    assert_equal(rank_embeddings(pool, q, np.asfortranarray(d), best=3), expected)


def test_documents_with_the_id_of_the_query_are_excluded():
    """As BEIR does on sets whose queries are documents."""
    ids = [f"x{i}" for i in range(30)]
    queries = [Query(i, "?", "a", i) for i in ids]
    documents = [Document(i, "!", "ab"[n % 2], i) for n, i in enumerate(ids)]
    qrels = {ids[n]: {ids[(n + 1) % 30]: 1, ids[(n + 2) % 30]: 1} for n in range(30)}
    pool = Pool(Dataset("made", queries, documents, qrels))
    rng = np.random.default_rng(10)
    for vectors in (rng.standard_normal((30, 4)), rng.integers(1, 3, (30, 2))):
        v = vectors.astype(FLOATS)
        scores = exact_scores(v, v, "cosine")
        scores[np.eye(30, dtype=bool)] = -np.inf
        expected = sorted_ranks(pool, scores)
        if np.unique(vectors).size > 2:
            actual = rank_embeddings(pool, v, v, ignore_identical_ids=True, best=6)
            assert_equal(actual, expected)
        for ties in ("optimistic", "pessimistic"):
            actual = rank_embeddings(pool, v, v, ignore_identical_ids=True, ties=ties)
            assert (actual.in_all >= 1).all()
            assert (actual.in_all <= 29).all()


def test_ids_are_ordered_by_their_bytes():
    ids = ["a", "B", "é", "zz", "z", "中", "𝒳", "10", "9"]
    by_bytes = sorted(range(len(ids)), key=lambda i: ids[i].encode(), reverse=True)
    assert np.argsort(ranks_of_ids(ids)).tolist() == by_bytes
    assert np.argsort(ranks_of_ids(ids, "ascending")).tolist() == by_bytes[::-1]


def test_embeddings_that_cannot_be_ranked_are_named():
    dataset = make_dataset(np.random.default_rng(0), 3, "ab")
    pool = Pool(dataset)
    good = np.ones((6, 4), dtype=FLOATS)
    document_id = dataset.documents[4].document_id
    for value in (np.inf, -np.inf, np.nan):
        bad = good.copy()
        bad[4, 1] = value
        with pytest.raises(
            DataError, match=f"row 4 .id '{document_id}'. has a value that is not finite"
        ):
            rank_embeddings(pool, good, bad)
        with pytest.raises(DataError, match=r"query embedding in row 4 .*not finite"):
            rank_embeddings(pool, bad, good)
    bad[4] = 0
    for similarity, error in (("cosine", "zero vector"), ("dot", None)):
        for q, d in ((good, bad), (bad, good)):
            if error:
                with pytest.raises(DataError, match=error):
                    rank_embeddings(pool, q, d, similarity=similarity)
            else:
                rank_embeddings(pool, q, d, similarity=similarity)
    with pytest.raises(DataError, match=r"shape \[5, 4\]; expected \[6, dimension\]"):
        rank_embeddings(pool, good[:5], good)
    with pytest.raises(DataError, match="4 dimensions, document embeddings 3"):
        rank_embeddings(pool, good, good[:, :3])
    for wrong in (np.int64, np.uint16, bool, complex):
        with pytest.raises(DataError, match=r"expected floating point"):
            rank_embeddings(pool, good.astype(wrong), good)


def test_products_that_would_overflow_are_refused():
    """Infinity minus infinity is not above anything: the rank would be the best."""
    dataset = make_dataset(np.random.default_rng(0), 3, "a")
    good = np.ones((3, 4), dtype=FLOATS)
    with pytest.raises(DataError, match=r"row . .* is longer than 1e18"):
        rank_embeddings(Pool(dataset), good, good * FLOATS(1e20), similarity="dot")
    rank_embeddings(Pool(dataset), good, good * FLOATS(1e20))  # a cosine does not mind


def test_a_relevant_document_that_is_the_query_is_not_retrieved():
    """BEIR takes it out of the list; R stays. The same ranks as from the list that is written."""
    rng = np.random.default_rng(11)
    ids = [f"x{i}" for i in range(20)]
    queries = [Query(i, "?", "a", i) for i in ids]
    documents = [Document(i, "!", "a", i) for i in ids]
    qrels = {ids[n]: {ids[n]: 1, ids[(n + 1) % 20]: 2} for n in range(20)}
    pool = Pool(Dataset("made", queries, documents, qrels))
    v = rng.standard_normal((20, 3)).astype(FLOATS)
    ranks = rank_embeddings(pool, v, v, ignore_identical_ids=True, best=20)
    metrics = ["AP", "nDCG@10", "recall@10"]
    expected = Evaluation(pool.dataset, metrics=metrics, convention="beir").judge(ranks, "made")
    run = {
        q: {ids[d]: s for d, s in zip(best, scores, strict=True) if d >= 0}
        for q, best, scores in zip(
            ids, ranks.best.tolist(), ranks.best_scores.tolist(), strict=True
        )
    }
    actual = evaluate_run(qrels, run, metrics=metrics, convention="beir")
    assert actual.metrics == pytest.approx(expected.summary["mono"])
    assert expected.bias.rank_distance.mean is None
    # All equal: the other relevant document is first of 19, or last.
    ones = np.ones((20, 3))
    for ties, rank in (("optimistic", 1), ("pessimistic", 19)):
        ranks = rank_embeddings(pool, ones, ones, ignore_identical_ids=True, ties=ties)
        assert sorted(set(ranks.in_all)) == [rank, NEVER]


def test_the_best_of_equal_documents_take_little_memory():
    """A collapsed encoder: every document may be among the best of every query."""
    import resource

    rng = np.random.default_rng(12)
    documents = [Document(f"d{i}", "!", "a", "g") for i in range(20_000)]
    queries = [Query(f"q{i}", "?", "a", "g") for i in range(800)]
    pool = Pool(Dataset("made", queries, documents, {q.query_id: {"d0": 1} for q in queries}))
    q, d = np.ones((800, 8), FLOATS), np.ones((20_000, 8), FLOATS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for screening in SCREENING:
        ranks = rank_embeddings(pool, q, d, best=10, screening=screening)
        first = np.argsort(pool.tie_order)[:10]
        assert (ranks.best == first).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000
    near = (1 + 1e-6 * rng.standard_normal((20_000, 8))).astype(FLOATS)
    ranks = rank_embeddings(pool, q[:1].repeat(800, 0), near, best=10, screening="bfloat16")
    expected = np.lexsort((pool.tie_order, -exact_scores(q[:1], near, "cosine")[0]))[:10]
    scores = exact_scores(q[:1], near, "cosine")[0]
    assert ranks.best_scores[0] == pytest.approx(scores[expected], abs=1e-15)


def test_a_caller_that_flushes_denormal_numbers():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(13)
    pool = Pool(make_dataset(rng, 20, "ab"))
    q = rng.standard_normal((40, 8)).astype(FLOATS)
    d = (rng.standard_normal((40, 8)) * 1e-39).astype(FLOATS)
    expected = rank_embeddings(pool, q, d, similarity="dot", best=3, threads=1)
    torch.set_flush_denormal(True)
    try:
        for threads in (1, 3):
            actual = rank_embeddings(pool, q, d, similarity="dot", best=3, threads=threads)
            assert_equal(actual, expected)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "cosinus"}, "unknown similarity 'cosinus'; expected one of cosine, dot"),
        ({"ties": "optimistc"}, "unknown ties"),
        ({"screening": "fp8"}, "unknown screening"),
        ({"best": -1}, "must not be negative"),
        ({"threads": -3}, "must not be negative"),
    ],
)
def test_unknown_arguments_are_errors(options, message):
    pool = Pool(make_dataset(np.random.default_rng(0), 3, "ab"))
    ones = np.ones((6, 2))
    with pytest.raises(DataError, match=message):
        rank_embeddings(pool, ones, ones, **options)
    with pytest.raises(DataError, match="have no dimensions"):
        rank_embeddings(pool, np.ones((6, 0)), np.ones((6, 0)), similarity="dot")
    with pytest.raises(DataError, match="not finite"):
        rank_embeddings(pool, ones, ones * 1e300)
