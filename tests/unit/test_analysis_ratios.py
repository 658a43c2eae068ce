"""Fieller's interval against closed forms, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from bridge.analysis.numbers.ratios import ratio_of_means


def test_a_constant_denominator_gives_students_interval() -> None:
    a = np.array([1.0, 2.0, 4.0, 5.0])
    found = ratio_of_means(a, np.full(4, 2.0))
    half = t.ppf(0.975, 3) * a.std(ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx(
        (1.5, (3 - half) / 2, (3 + half) / 2)
    )


def test_proportional_pairs_have_no_spread() -> None:
    b = np.array([3.0, 4.0, 5.0])
    found = ratio_of_means(0.7 * b, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7), abs=1e-7)
    assert found.bounded


def test_every_ratio_in_the_interval_is_not_rejected_and_its_ends_are_the_limit() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 1, 9), rng.normal(5, 1, 9)
    found = ratio_of_means(a, b)
    for end in (found.low, found.high):
        rest = a - end * b
        assert abs(rest.mean()) / (rest.std(ddof=1) / 3) == pytest.approx(t.ppf(0.975, 8))


def test_a_denominator_that_may_be_nothing_bounds_nothing() -> None:
    found = ratio_of_means([1.0, 2.0, 3.0], [-1.0, 2.0, 0.5])
    assert not found.bounded
    assert found.value == pytest.approx(4.0)
    with pytest.raises(ValueError, match="no ratio"):
        ratio_of_means([1.0, 2.0], [-1.0, 1.0])
    with pytest.raises(ValueError, match="pairs"):
        ratio_of_means([1.0], [1.0])


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        b = rng.normal(4, 1, 6)
        a = 0.5 * b + rng.normal(0, 0.7, 6)
        found = ratio_of_means(a, b)
        hits += found.low <= 0.5 <= found.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)
