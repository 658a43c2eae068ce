"""p-values, power, detectable effects, equivalence and planned seeds against closed forms."""

import numpy as np
import pytest
from scipy import stats

from bridge.analysis.numbers.uncertainty import (
    Source,
    Uncertainty,
    beyond_p,
    detectable_effect,
    equivalence_p,
    equivalence_power,
    more_seeds,
    power,
)


def _t(variance=0.0004, df=4.0):
    return Uncertainty((Source(variance, df),))


TWO = Uncertainty((Source(0.0004, 2.0), Source(0.0002, 60.0, 0.00015)))


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.05, 0.2])
def test_one_source_is_a_t_test(effect):
    assert _t().p_value(effect) == pytest.approx(2 * stats.t.sf(effect / 0.02, 4), abs=1e-7)
    assert _t().half_width(0.9) == pytest.approx(0.02 * stats.t.ppf(0.95, 4))


def test_p_is_the_level_at_which_the_interval_touches():
    p = TWO.p_value(0.05)
    assert TWO.half_width(1 - p) == pytest.approx(0.05, rel=1e-9)
    assert _t(0.0).p_value(0.0) == 1 and _t(0.0).p_value(0.1) == 0


def test_satterthwaite_by_hand():
    assert TWO.df == pytest.approx(0.0006**2 / (0.0004**2 / 2 + 0.0002**2 / 60))
    assert _t(0.0).df == np.inf


@pytest.mark.parametrize("level", [0.05, 0.05 / 14])
def test_power_of_one_source_is_that_of_the_noncentral_t(level):
    critical, shift = stats.t.ppf(1 - level / 2, 4), 0.1 / 0.02
    expected = stats.nct.sf(critical, 4, shift) + stats.nct.cdf(-critical, 4, shift)
    assert power(_t(), 0.1, level) == pytest.approx(expected, abs=1e-8)
    assert power(_t(), detectable_effect(_t(), level), level) == pytest.approx(0.8, abs=1e-3)


def test_the_detectable_effect_is_found_in_80_percent_of_simulated_experiments():
    """Not in 40 %, as where 2.80 standard errors are promised with 2 degrees of freedom."""
    random, n, k = np.random.default_rng(0), 20_000, 3
    effect = detectable_effect(Uncertainty((Source(1 / k, k - 1.0),)), 0.05)
    assert effect > 2 * 2.80 / k**0.5
    draws = random.normal(effect, 1, (n, k))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=4 * (0.16 / n) ** 0.5)


@pytest.mark.parametrize("estimate", [-0.015, 0.0, 0.004, 0.03])
def test_equivalence_is_two_one_sided_t_tests(estimate):
    spread = _t(0.005**2, 9.0)
    sides = [stats.t.sf((0.02 + s * estimate) / 0.005, 9) for s in (1, -1)]
    found = equivalence_p(spread, estimate, 0.02)
    assert found == pytest.approx(max(sides), abs=1e-10)
    half = spread.half_width(0.9)
    assert (found < 0.05) == (estimate - half > -0.02 and estimate + half < 0.02)


def test_a_difference_beyond_the_margin_is_tested_against_the_margin():
    spread = _t(0.005**2, 9.0)
    assert beyond_p(spread, 0.01, 0.02) == 1
    assert beyond_p(spread, -0.04, 0.02) == pytest.approx(2 * stats.t.sf(0.02 / 0.005, 9))


def test_the_power_of_equivalence_is_that_of_a_simulation():
    random, n, k, margin = np.random.default_rng(1), 20_000, 12, 0.02
    spread = Uncertainty((Source(0.02**2 / k, k - 1.0),))
    draws = random.normal(0.003, 0.02, (n, k))
    mean, error = draws.mean(1), draws.std(1, ddof=1) / k**0.5
    found = np.abs(mean) + stats.t.ppf(0.95, k - 1) * error < margin
    told = float(equivalence_power(spread, 0.003, margin, 0.05))
    assert told == pytest.approx(found.mean(), abs=0.02)


def test_more_seeds_are_the_fewest_that_reach_the_power():
    extra = more_seeds(TWO, 3, 0.05, 0.01)
    for k, enough in ((3 + extra, True), (2 + extra, False)):
        planned = Uncertainty(
            (
                Source(0.0004 * 3 / k, 2.0 * (k - 1) / 2),
                Source(0.00015 + 0.00005 * 3 / k, 60.0, 0.00015),
            )
        )
        assert (power(planned, 0.05, 0.01) >= 0.8) is np.bool_(enough)


def test_more_seeds_may_decide_for_equivalence_or_not_at_all():
    wide = Uncertainty((Source(0.02**2, 8.0), Source(0.003**2, 400.0, 0.003**2)))
    assert more_seeds(wide, 3, 0.0, margin=None) is None
    assert more_seeds(wide, 3, 0.0) > 1
    few_questions = Uncertainty((Source(0.02**2, 8.0), Source(0.05**2, 29.0, 0.05**2)))
    assert more_seeds(few_questions, 3, 0.01) is None
