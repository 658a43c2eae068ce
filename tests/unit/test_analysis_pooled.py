"""Pooled and moderated seed variance against slow references, and what they must not do."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma

from bridge.analysis.numbers.paired import paired_difference
from bridge.analysis.numbers.pooled import (
    moderated,
    pooled_uncertainty,
    prior_df,
    seed_spread,
)
from bridge.analysis.numbers.statistics import components


def _scores(n_methods=6, n_seeds=4, seed=0):
    random = np.random.default_rng(seed)
    level = random.normal(0.6, 0.1, (n_methods, 1))
    return (
        level + random.normal(0, 0.03, (1, n_seeds)) + random.normal(0, 0.02, (n_methods, n_seeds))
    )


def test_the_pooled_variance_is_the_mean_over_all_pairs():
    """Of the variance over seeds of their differences: an identity of the two-way layout."""
    y = _scores()
    pairs = [np.var(a - b, ddof=1) for a, b in combinations(y, 2)]
    spread = seed_spread(y)
    assert spread.pair == pytest.approx(np.mean(pairs))
    assert spread.pair_df == 5 * 3
    # The variance of one run, what the seeds share included: the mean of the methods' own.
    assert spread.single == pytest.approx(np.mean([np.var(row, ddof=1) for row in y]))


def test_missing_runs_give_the_least_squares_residual():
    y, present = _scores(), np.ones((6, 4), bool)
    present[0, 1] = present[3, 3] = present[3, 2] = False
    rows = [
        (y[m, s], np.eye(6)[m], np.eye(4)[s]) for m in range(6) for s in range(4) if present[m, s]
    ]
    design = np.array([np.concatenate([m, s[1:]]) for _, m, s in rows])
    target = np.array([value for value, _, _ in rows])
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    df = len(rows) - design.shape[1]
    spread = seed_spread(np.where(present, y, 99.0), present)
    assert spread.pair == pytest.approx(2 * (residual**2).sum() / df)
    assert spread.pair_df == df


def test_two_methods_are_the_paired_t_test_over_seeds():
    """With answers that no question changes, so that seeds are all that varies."""
    a, b = _scores(2, 5)
    first, second = (np.repeat(row[:, None], 40, axis=1) for row in (a, b))
    mean, spread = pooled_uncertainty([first], [second], seed_spread(np.stack([a, b])))
    expected = stats.ttest_rel(a, b)
    assert mean == pytest.approx(np.mean(a - b))
    assert spread.p_value(mean) == pytest.approx(expected.pvalue, rel=1e-6)


def test_one_method_alone_or_one_seed_has_nothing_to_pool():
    assert seed_spread(_scores(1, 4)) is None
    assert seed_spread(_scores(4, 1)) is None


def test_questions_count_once_whatever_the_seeds_say():
    """Total variance by hand: moderated seeds, and questions without the noise that seeds hold."""
    random = np.random.default_rng(3)
    answers = (random.random((5, 3, 60)) < 0.6).astype(float)
    spread = seed_spread(answers.mean(-1))
    gap = answers[0] - answers[1]
    parts = components([gap])
    own = gap.mean(1).var(ddof=1)
    variance, df = moderated(own, 2, spread.pair, spread.pair_df, spread.prior_df)
    _, found = pooled_uncertainty([answers[0]], [answers[1]], spread)
    assert found.sources[0].variance == pytest.approx(variance / 3)
    assert found.sources[0].df == df
    assert found.sources[1].variance == pytest.approx(max(parts.question - parts.rest, 0))


def test_equal_answers_leave_no_width_but_equal_accuracies_do():
    random = np.random.default_rng(4)
    answers = (random.random((4, 3, 50)) < 0.5).astype(float)
    spread = seed_spread(answers.mean(-1))
    same = paired_difference([answers[0]], [answers[0].copy()], spread)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    moved = answers[0][:, ::-1]  # The same accuracies, other questions.
    assert paired_difference([answers[0]], [moved], spread).half_width > 0


def test_what_all_methods_share_in_a_seed_cancels_in_a_pair_but_not_against_the_untrained():
    random = np.random.default_rng(5)
    lucky = np.array([-0.2, 0.0, 0.2])[:, None]
    chance = 0.5 + lucky + random.normal(0, 0.01, (4, 3, 1))
    answers = (random.random((4, 3, 400)) < chance).astype(float)
    spread = seed_spread(answers.mean(-1))
    base = np.tile((random.random(400) < 0.2).astype(float), (3, 1))
    pair = paired_difference([answers[0]], [answers[1]], spread)
    alone = paired_difference([answers[0]], [base], spread, trained=1)
    assert pair.half_width < 0.1 < alone.half_width
    assert paired_difference([answers[0]], [answers[1]]).half_width > 2 * pair.half_width


def test_prior_df_solves_the_moment_equation_of_limma():
    """Smyth (2004): var of the logs = mean trigamma(df / 2) + trigamma(prior / 2)."""
    df = np.full(200, 4.0)
    random = np.random.default_rng(6)
    true = 1 / random.chisquare(5, 200) * 5
    variances = true * random.chisquare(4, 200) / 4
    found = float(prior_df(variances, df))
    left = np.var(np.log(variances), ddof=1)
    assert left == pytest.approx(polygamma(1, 2.0) + polygamma(1, found / 2), rel=1e-9)
    assert 2.5 < found < 10
    assert prior_df(np.ones(10), np.full(10, 2.0)) == np.inf


def test_moderation_is_a_weighted_mean_whose_df_stay_below_the_pooled_ones():
    assert moderated(4.0, 2, 1.0, 30, 6.0) == pytest.approx((1.75, 8))
    assert moderated(4.0, 2, 1.0, 5, 6.0)[1] == 5
    assert moderated(4.0, 2, 1.0, 30, np.inf) == pytest.approx((1.0, 30))


def test_simulated_experiments_on_leading_axes_are_the_single_ones():
    random = np.random.default_rng(7)
    answers = (random.random((3, 4, 3, 50)) < 0.5).astype(float)
    spread = seed_spread(answers.mean(-1))
    means, together = pooled_uncertainty([answers[:, 0]], [answers[:, 1]], spread)
    p = together.p_value(means)
    for i, one in enumerate(answers):
        alone = paired_difference([one[0]], [one[1]], seed_spread(one.mean(-1)))
        assert (means[i], p[i]) == pytest.approx((alone.mean, alone.p_value))
