"""Do 95 % intervals cover? With the simulator of `benchmarks/coverage.py` and the papers' sizes.

With 2,000 experiments a coverage of 95 % shows as 94-96 %.
"""

import numpy as np
import pytest

from benchmarks.coverage import LEVELS, SIZES, covered, simulate, two_arms
from bridge.analysis.numbers.paired import difference_uncertainty
from bridge.analysis.numbers.statistics import components, crossed_limits, t_limits


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("accuracy", "seed_sd"), [(0.3, 0.0), (0.5, 0.02), (0.7, 0.05)])
def test_cell_intervals_cover_93_to_97_percent(n, accuracy, seed_sd):
    answers = simulate(np.random.default_rng(n), n, accuracy, seed_sd)
    assert 93 <= covered(crossed_limits(components([answers])), accuracy) <= 97.5


def test_the_average_of_five_benchmarks_is_covered():
    random = np.random.default_rng(5)
    strata = [simulate(random, n, p, 0.02) for n, p in zip(SIZES, LEVELS, strict=True)]
    assert 93 <= covered(crossed_limits(components(strata)), float(np.mean(LEVELS))) <= 97.5


def test_seed_means_alone_would_cover_too_little():
    """The reason for the question part: seeds that share questions look too much alike."""
    answers = simulate(np.random.default_rng(1), 500, 0.5, 0.0)
    assert covered(t_limits(answers.mean(-1).T), 0.5) < 92


@pytest.mark.parametrize(("n", "seed_sd"), [(500, 0.05), (272, 0.02), (30, 0.05), (40, 0.0)])
def test_paired_differences_cover(n, seed_sd):
    first, second = two_arms(np.random.default_rng(n), n, seed_sd)
    mean, spread = difference_uncertainty([first], [second])
    half = spread.half_width()
    assert 93 <= covered((mean - half, mean + half), 0.15) <= 98.5


def test_the_simulator_has_the_accuracy_and_the_spread_that_it_is_asked_for():
    """Otherwise the coverage would speak of other experiments than its table says."""
    answers = simulate(np.random.default_rng(0), 300, 0.3, 0.05)
    assert answers.mean() == pytest.approx(0.3, abs=0.002)
    between_seeds = answers.mean(-1).var(axis=-1, ddof=1).mean() ** 0.5
    chance = (0.3 * 0.7 / 300) ** 0.5
    # The logistic curve is flatter once questions differ, so the spread is below what is named.
    assert chance < between_seeds < np.hypot(0.05, chance)
