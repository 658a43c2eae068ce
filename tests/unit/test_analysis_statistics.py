"""Intervals and estimators against closed forms, scipy and slow references."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from bridge.analysis.numbers.statistics import (
    average_at_n,
    cell_interval,
    components,
    pass_at_k,
    t_limits,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(0, 30, 0.0, 11.4), (1, 30, 0.6, 16.7), (15, 30, 33.2, 66.8), (400, 500, 76.3, 83.3)],
)
def test_wilson_gives_the_published_limits(correct, n, low, high):
    interval = wilson(correct, n)
    assert (round(100 * interval.low, 1), round(100 * interval.high, 1)) == (low, high)
    assert interval.covers == "questions"


@pytest.mark.parametrize("n", [1, 30, 40, 272])
def test_wilson_agrees_with_scipy(n):
    for correct in range(n + 1):
        expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
        interval = wilson(correct, n)
        assert interval.low == pytest.approx(expected.low, abs=1e-12)
        assert interval.high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match="wilson needs"):
        wilson(correct, n)


def _answers(seed: int, n_seeds: int, n_questions: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    chance = random.uniform(0.1, 0.9, n_questions) + random.normal(0, 0.05, (n_seeds, 1))
    return (random.random((n_seeds, n_questions)) < chance).astype(float)


def test_components_agree_with_the_textbook_mean_squares():
    answers = _answers(3, 4, 25)
    n_seeds, n_questions = answers.shape
    grand = answers.mean()
    by_seed, by_question = answers.mean(1), answers.mean(0)
    of_seeds = n_questions * sum((m - grand) ** 2 for m in by_seed) / (n_seeds - 1)
    of_questions = n_seeds * sum((m - grand) ** 2 for m in by_question) / (n_questions - 1)
    of_rest = sum(
        (answers[k, q] - by_seed[k] - by_question[q] + grand) ** 2
        for k in range(n_seeds)
        for q in range(n_questions)
    ) / ((n_seeds - 1) * (n_questions - 1))
    parts = components([answers])
    size = n_seeds * n_questions
    assert parts.seed == pytest.approx(max((of_seeds - of_rest) / size, 0))
    assert parts.question == pytest.approx(of_questions / size)
    assert (parts.seed_df, parts.question_df) == (n_seeds - 1, n_questions - 1)


def test_components_of_an_average_add_up_over_benchmarks():
    strata = [_answers(1, 3, 40), _answers(2, 3, 60)]
    alone = [components([stratum]) for stratum in strata]
    both = components(strata)
    assert both.mean == pytest.approx(np.mean([part.mean for part in alone]))
    assert both.question == pytest.approx(sum(part.question for part in alone) / 4)
    assert 39 < both.question_df < 98


def test_seeds_that_move_together_on_all_benchmarks_do_not_average_out():
    good, bad = np.ones((1, 200)), np.zeros((1, 200))
    stratum = np.vstack([good, bad, good])
    one, five = components([stratum]), components([stratum] * 5)
    assert five.seed == pytest.approx(float(one.seed))


def test_one_seed_of_plain_answers_gets_wilson():
    answers = _answers(5, 1, 40)
    assert cell_interval([answers]) == wilson(int(answers.sum()), 40)


def test_one_seed_of_sampled_answers_uses_the_spread_of_question_means():
    answers = np.random.default_rng(0).integers(0, 9, (1, 300)) / 8
    interval = cell_interval([answers])
    error = answers[0].std(ddof=1) / np.sqrt(300)
    assert interval.standard_error == pytest.approx(error)
    assert interval.high - interval.low == pytest.approx(2 * 1.968 * error, rel=0.01)
    assert interval.covers == "questions"


def test_copies_of_one_run_are_no_more_certain_than_the_run():
    run = _answers(7, 1, 200)
    copies = cell_interval([np.repeat(run, 3, axis=0)])
    single = cell_interval([run])
    assert copies.high - copies.low >= single.high - single.low
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.02)


def test_large_differences_between_seeds_meet_the_t_quantile():
    shares = np.array([0.40, 0.50, 0.60])
    answers = (np.linspace(0, 1, 2000, endpoint=False) < shares[:, None]).astype(float)
    interval = cell_interval([answers])
    half = 4.30 * shares.std(ddof=1) / np.sqrt(3)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_unanimous_answers_still_get_a_width_and_stay_inside(value):
    interval = cell_interval([np.full((3, 30), value)])
    assert interval.mean == value
    assert 0 <= interval.low <= value <= interval.high <= 1
    assert 0.1 < interval.high - interval.low < 0.15


def test_empty_and_missing_answers_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        cell_interval([np.empty((0, 5))])
    with pytest.raises(ValueError, match="missing"):
        cell_interval([np.array([[1.0, np.nan]])])
    with pytest.raises(ValueError, match="same seeds"):
        components([np.ones((2, 5)), np.ones((3, 5))])


def test_t_limits_agree_with_scipy_and_skip_missing_values():
    values = np.array([[0.1, 0.5], [0.3, np.nan], [0.8, 0.7], [0.4, np.nan]])
    low, high = t_limits(values)
    for column in range(2):
        seen = values[:, column][~np.isnan(values[:, column])]
        expected = stats.t.interval(0.95, len(seen) - 1, seen.mean(), stats.sem(seen))
        assert (low[column], high[column]) == pytest.approx(expected)
    alone, _ = t_limits(np.array([[0.25, np.nan]]))
    assert alone[0] == 0.25
    assert np.isnan(alone[1])


def test_pass_at_k_agrees_with_counting_all_draws():
    for n in range(1, 7):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([1] * correct + [0] * (n - correct), k))
                expected = sum(any(draw) for draw in draws) / len(draws)
                assert pass_at_k(n, correct, k) == pytest.approx(expected)


def test_pass_at_k_of_many_samples_is_finite_and_pass_at_1_is_the_average():
    n, correct = np.array([2000, 2000]), np.array([3, 1999])
    assert np.isfinite(pass_at_k(n, correct, 1000)).all()
    assert pass_at_k(n, correct, 1) == pytest.approx(average_at_n(n, correct))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n, correct, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


def test_average_at_n_refuses_questions_without_samples():
    with pytest.raises(ValueError, match="avg@n"):
        average_at_n([4, 0], [1, 0])
