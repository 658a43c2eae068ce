"""Confidence sequences: the closed form against its integral, and coverage at every look."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import norm

from bridge.analysis.numbers.sequential import e_value, first_decision, half_width, look


def integral(values: np.ndarray, g: float) -> float:
    """Marginal likelihoods by numerical integration: effect ~ N(0, g) and d sigma / sigma, over
    effect = 0 and d sigma / sigma."""

    def likelihood(log_sigma: float, effect: float) -> float:
        sigma = np.exp(log_sigma)
        return float(np.prod(norm.pdf(values, effect * sigma, sigma)))

    def weighted(log_sigma: float, effect: float) -> float:
        return likelihood(log_sigma, effect) * float(norm.pdf(effect, 0, np.sqrt(g)))

    above, _ = dblquad(weighted, -9, 9, -4, 4, epsabs=1e-9, epsrel=1e-4)
    grid = np.linspace(-4, 4, 4001)
    below = np.trapezoid([likelihood(s, 0.0) for s in grid], grid)
    return above / float(below)


def test_the_closed_form_is_the_ratio_of_marginal_likelihoods() -> None:
    values = np.array([0.4, 1.1, -0.2, 0.9])
    assert e_value(values, g=0.5) == pytest.approx(integral(values, 0.5), rel=1e-3)


def test_the_interval_holds_exactly_the_means_that_are_not_rejected() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 12)
    half = half_width(values)
    assert e_value(values, values.mean() + half) == pytest.approx(20)
    assert e_value(values, values.mean() - half) == pytest.approx(20)
    scaled = half_width(1000 * values)
    assert scaled == pytest.approx(1000 * half)


def test_it_covers_at_all_looks_at_once() -> None:
    """A fixed t interval would miss at some of these looks in about 25 % of the experiments."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(1500):
        values = rng.normal(0, 1, 30)
        missed += any(e_value(values[:n]) >= 20 for n in range(2, 31))
    assert missed / 1500 < 0.05


def test_too_few_values_say_nothing() -> None:
    assert half_width([1.0]) == np.inf
    assert half_width([1.0, 1.1]) == np.inf
    assert e_value([3.0]) == 1.0
    assert e_value([2.0, 2.0]) == np.inf and e_value([0.0, 0.0]) == 1.0


def test_decisions() -> None:
    rng = np.random.default_rng(2)
    far, near, wide = rng.normal(5, 1, 20), rng.normal(0, 0.5, 40), rng.normal(0.5, 5, 6)
    assert look(far, 2.0).decision == "different"
    assert look(near, 2.0).decision == "equivalent"
    assert look(wide, 2.0).decision == "go on"
    stopped = first_decision(far, 2.0)
    assert stopped.decision == "different" and 3 <= stopped.n < 20
    assert first_decision(wide, 2.0).n == 6
