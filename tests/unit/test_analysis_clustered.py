"""Clustered standard errors against closed forms, and the table of what they change."""

from itertools import combinations

import numpy as np
import pytest

from bridge.analysis.numbers.clustered import clustered_difference, clustered_variance
from bridge.analysis.numbers.paired import Refused, paired_difference
from bridge.analysis.numbers.trials import expected_best

RANDOM = np.random.default_rng(3)


def test_clusters_of_one_give_the_usual_variance():
    strata = [RANDOM.random(30), RANDOM.random(50)]
    labels = [range(30), range(100, 150)]
    variance, df = clustered_variance(strata, labels)
    parts = np.array([x.var(ddof=1) / len(x) for x in strata]) / 4
    assert variance == pytest.approx(parts.sum())
    assert df == pytest.approx(parts.sum() ** 2 / (parts**2 / [29, 49]).sum())


def test_equal_clusters_are_as_many_observations_as_there_are_clusters():
    values = RANDOM.random((12, 5))
    labels = np.repeat(np.arange(12), 5)
    variance, df = clustered_variance([values.ravel()], [labels])
    assert variance == pytest.approx(values.mean(1).var(ddof=1) / 12)
    assert df == 11


def test_copies_of_a_question_add_nothing():
    """Each question asked four times: the standard error of the questions asked once."""
    once = RANDOM.random(40)
    variance, _ = clustered_variance([np.repeat(once, 4)], [np.repeat(np.arange(40), 4)])
    assert variance == pytest.approx(once.var(ddof=1) / 40)


def test_unequal_clusters_by_the_sandwich_written_out():
    """X'X inverse, the sum of X'u u'X over clusters, X'X inverse, times G / (G - 1)."""
    labels = np.array([0] * 7 + [1] * 2 + [2] * 5 + [3])
    y = RANDOM.random(len(labels))
    x = np.ones((len(y), 1))
    residual = y - y.mean()
    meat = sum(
        np.outer(x[labels == g].T @ residual[labels == g], residual[labels == g] @ x[labels == g])
        for g in range(4)
    )
    bread = np.linalg.inv(x.T @ x)
    expected = (bread @ meat @ bread)[0, 0] * 4 / 3
    assert clustered_variance([y], [labels])[0] == pytest.approx(expected)


def test_a_cluster_may_span_benchmarks():
    """Two benchmarks with the same questions in the same clusters: those of one of them."""
    y, labels = RANDOM.random(60), np.repeat(np.arange(15), 4)
    alone, _ = clustered_variance([y], [labels])
    shared, _ = clustered_variance([y, y], [labels, labels])
    apart, _ = clustered_variance([y, y], [labels, labels + 100])
    assert shared == pytest.approx(alone) and apart == pytest.approx(alone / 2)


def test_the_interval_covers_new_clusters_and_the_plain_one_does_not():
    """Normal effects of 20 templates with 10 items each, no spread of training."""
    labels = np.repeat(np.arange(20), 10)
    hits = {"plain": 0, "clustered": 0}
    for _ in range(300):
        gap = np.repeat(RANDOM.normal(0.1, 0.3, 20), 10) + RANDOM.normal(0, 0.2, 200)
        found = paired_difference([np.stack([gap] * 3)], [np.zeros((3, 200))])
        wider = clustered_difference(found, [gap], [labels])
        hits["plain"] += found.low <= 0.1 <= found.high
        hits["clustered"] += wider.low <= 0.1 <= wider.high
        assert wider.mean == found.mean
    assert hits["plain"] / 300 < 0.75
    assert 0.91 < hits["clustered"] / 300 < 0.99


def test_too_few_clusters_are_refused():
    gap = RANDOM.random(40)
    found = paired_difference([np.stack([gap] * 3)], [np.zeros((3, 40))])
    with pytest.raises(Refused, match="a benchmark has 4 patterns; an interval needs 10"):
        clustered_difference(found, [gap], [np.arange(40) % 4])
    with pytest.raises(ValueError, match="one cluster"):
        clustered_variance([gap], [np.zeros(40)])


@pytest.mark.parametrize("k", range(1, 8))
def test_the_expected_best_is_the_mean_over_all_subsets(k):
    values = [0.3, 0.9, 0.9, 0.1, 0.5, -2.0, 0.45]
    every = [max(part) for part in combinations(values, k)]
    assert expected_best(values, k) == pytest.approx(np.mean(every))


def test_the_expected_best_of_many_trials_neither_overflows_nor_is_biased():
    assert expected_best(np.arange(5000), 2500) == pytest.approx(2500 * 5001 / 2501 - 1)
    drawn = RANDOM.random((4000, 6))
    assert np.mean([expected_best(row, 3) for row in drawn]) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("k", [0, 4])
def test_more_trials_than_were_made_are_refused(k):
    with pytest.raises(ValueError, match=f"best of {k} needs 1 <= k <= trials, and there are 3"):
        expected_best([1, 2, 3], k)
    with pytest.raises(ValueError, match="no finite value"):
        expected_best([1, float("nan"), 3], 2)
