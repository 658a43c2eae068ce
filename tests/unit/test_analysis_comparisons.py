"""Paired differences, sign test and Holm."""

import numpy as np
import pytest
from scipy import stats

from bridge.analysis.numbers.paired import (
    Refused,
    holm,
    paired_difference,
    sign_test,
)


def _arm(seed: int, chance: float, n_seeds: int = 3, n_questions: int = 100) -> np.ndarray:
    questions = np.random.default_rng(99).normal(0, 0.2, n_questions)
    random = np.random.default_rng(seed)
    return (random.random((n_seeds, n_questions)) < chance + questions).astype(float)


def test_difference_of_two_single_runs_is_the_paired_t_test():
    first, second = _arm(1, 0.7, n_seeds=1), _arm(2, 0.5, n_seeds=1)
    expected = stats.ttest_rel(first[0], second[0])
    limits = expected.confidence_interval(0.95)
    found = paired_difference([first], [second])
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.covers == "questions"


def test_difference_changes_sign_with_the_order_of_the_methods():
    first, second = [_arm(1, 0.6), _arm(2, 0.6)], [_arm(3, 0.5, 4), _arm(4, 0.5, 4)]
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.p_value == pytest.approx(back.p_value)
    assert there.seeds == (3, 4)
    assert there.covers == "seeds and questions"


@pytest.mark.parametrize("chance", [0.50, 0.55, 0.60, 0.65, 0.70])
def test_p_below_five_percent_means_that_zero_is_outside(chance):
    found = paired_difference([_arm(1, chance)], [_arm(2, 0.5)])
    assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_pairing_by_question_is_narrower_than_not_pairing():
    first, second = _arm(1, 0.6, n_questions=400), _arm(2, 0.5, n_questions=400)
    shuffled = second[:, np.random.default_rng(0).permutation(400)]
    paired = paired_difference([first], [second])
    unpaired = paired_difference([first], [shuffled])
    assert paired.standard_error < unpaired.standard_error


def test_identical_arms_do_not_differ():
    arm = _arm(1, 0.5, n_seeds=1)
    found = paired_difference([arm], [arm])
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_copies_do_not_differ_whatever_their_seeds_do():
    arm = _arm(1, 0.5)
    found = paired_difference([arm], [arm.copy()])
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert paired_difference([arm], [arm[::-1]]).half_width > 0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_answers_that_are_all_wrong_or_all_right_are_no_proof_of_equality(score):
    """0 of 30 twice would be a difference of 0 with zero width."""
    arm = np.full((3, 30), score)
    with pytest.raises(Refused, match=f"both sides score {score:g}: too hard or too easy"):
        paired_difference([arm], [arm])


def test_fewer_than_twenty_shared_questions_are_refused_with_the_reason():
    arm = _arm(1, 0.5, n_questions=19)
    with pytest.raises(Refused, match="only 19 shared questions"):
        paired_difference([arm], [arm])
    arm = _arm(1, 0.5, n_questions=20)
    assert paired_difference([arm], [arm]).n_questions == 20


def test_unequal_questions_are_an_error():
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([_arm(1, 0.5, n_questions=30)], [_arm(1, 0.5, n_questions=31)])


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (8, 2), (2, 8), (10, 10), (61, 40)])
def test_sign_test_agrees_with_scipy(wins, losses):
    total = wins + losses
    expected = stats.binomtest(wins, total).pvalue if total else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)


def test_sign_test_refuses_negative_counts():
    with pytest.raises(ValueError, match="counts"):
        sign_test(-1, 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_holm_never_lowers_a_p_value_and_keeps_their_order():
    p = np.random.default_rng(0).random(50)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.1], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_list_of_p_values(p):
    with pytest.raises(ValueError, match="holm"):
        holm(p)
