"""Tests of significance: by hand, against exhaustive enumeration, and their error rates."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from test_ranking import make_dataset

from hybridret.errors import DataError
from hybridret.evaluation.judging import evaluate_embeddings
from hybridret.evaluation.significance import compare, holm, over_seeds


def systems(noises, groups=8, languages="ab", seed=0, dimension=8):
    """Reports of encoders that see the topic of a group through more or less noise."""
    rng = np.random.default_rng(seed)
    dataset = make_dataset(rng, groups, languages)
    topics = {f"g{g}": rng.standard_normal(dimension) for g in range(groups)}

    def vectors(rows, noise):
        return np.array([topics[r.group_id] + noise * rng.standard_normal(dimension) for r in rows])

    return [
        evaluate_embeddings(
            vectors(dataset.queries, noise),
            vectors(dataset.documents, noise),
            dataset,
            metrics=["AP", "recall@1"],
            name=f"noise {noise}",
        )
        for noise in noises
    ]


def test_p_is_that_of_every_assignment_of_signs():
    better, worse = systems([1.5, 2.5])
    found = compare(better, worse, "AP", draws=20_000)
    table = better.queries
    for number, d in enumerate(found.settings):
        rows = table.setting == number
        gap = better.queries.values["AP"][rows] - worse.queries.values["AP"][rows]
        assert d.difference == pytest.approx(gap.mean())
        clusters = better.clusters[table.query[rows]]
        sums = np.array([gap[clusters == c].sum() for c in np.unique(clusters)]) / len(gap)
        signs = np.array(list(itertools.product([-1, 1], repeat=len(sums))))
        exact = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12).mean()
        assert d.p == pytest.approx(exact, abs=0.02)
        assert d.low <= d.difference <= d.high
    for d, kind in zip(found.means, ("mono", "cross", "multi"), strict=True):
        expected = better.summary[kind]["AP"] - worse.summary[kind]["AP"]
        assert d.difference == pytest.approx(expected)
    json.loads(json.dumps(found.to_dict()))


def test_a_system_does_not_differ_from_itself():
    (one,) = systems([1.0])
    found = compare(one, one, "AP", draws=100)
    assert {d.p for d in found.settings} == {1.0}
    assert {(d.low, d.high) for d in found.settings} == {(0.0, 0.0)}
    assert {d.p_holm for d in found.settings} == {1.0}


def test_a_clear_difference_is_found():
    better, worse = systems([0.5, 3.0], groups=60)
    found = compare(better, worse, "AP", draws=1000)
    assert all(d.p == pytest.approx(1 / 1001) for d in found.means)
    assert all(d.low > 0 for d in found.means)
    assert found.clusters == 60


def test_false_positive_rate():
    """Of equal systems, about one in twenty comparisons is below 0.05: clusters are respected."""
    below, covered, runs = 0, 0, 120
    for seed in range(runs):
        a, b = systems([2.0, 2.0], groups=25, languages="abc", seed=seed)
        multi = compare(a, b, "AP", draws=200, seed=seed).means[2]
        below += multi.p < 0.05
        covered += multi.low <= 0 <= multi.high
    assert below <= 14  # binomial(120, 0.05) exceeds it once in 2,000
    assert covered >= 102


def test_treating_translations_as_independent_would_be_wrong():
    """The interval over clusters is wider than one over queries when translations agree."""
    a, b = systems([1.0, 1.2], groups=30, languages="abcd")
    for report in (a, b):
        values = report.queries.values["AP"]
        report.queries.values["AP"] = (
            np.cos(7.0 * report.clusters[report.queries.query]) * (1 if report is a else -1)
            + 0 * values
        )
    clustered = compare(a, b, "AP", draws=1000).means[2]
    a.clusters, b.clusters = (np.arange(len(r.query_ids)) for r in (a, b))
    single = compare(a, b, "AP", draws=1000).means[2]
    assert clustered.high - clustered.low > 1.6 * (single.high - single.low)


def test_seeds():
    seeds = systems([1.0, 1.1, 0.9])
    spread = over_seeds(seeds)["mono"]["AP"]
    values = [s.summary["mono"]["AP"] for s in seeds]
    assert spread.values == values
    assert spread.mean == pytest.approx(np.mean(values))
    assert spread.deviation == pytest.approx(np.std(values, ddof=1))
    assert over_seeds(seeds[:1])["mono"]["AP"].deviation is None
    found = compare(seeds[:2], seeds[2], "AP", draws=50)
    assert found.means[0].difference == pytest.approx(np.mean(values[:2]) - values[2])


def test_holm():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_reports_that_cannot_be_compared():
    (one,) = systems([1.0])
    (other,) = systems([1.0], groups=5)
    with pytest.raises(DataError, match="were not evaluated on the same queries"):
        compare(one, other, "AP")
    with pytest.raises(DataError, match="no metric 'RR' in this report; it has AP, recall@1"):
        compare(one, one, "RR")
    with pytest.raises(DataError, match="at least one report of each"):
        compare([], one, "AP")
    with pytest.raises(DataError, match="no reports"):
        over_seeds([])
