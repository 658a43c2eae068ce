"""Estimators of the coupling study against the exact values of a tabular problem."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studies.coupling import estimates, tabular
from studies.coupling.closed_forms import binary_change
from studies.coupling.tabular import Array, TabularProblem, log_softmax

BETA = 0.5


def problem(seed: int = 0, prompts: int = 200) -> TabularProblem:
    rng = np.random.default_rng(seed)
    shape = (prompts, 4)
    reward = np.zeros(shape)
    reward[:, 0] = 1.0
    return TabularProblem(
        weights=np.full(prompts, 1.0 / prompts),
        log_start=log_softmax(rng.normal(0, 1, shape)),
        expert=rng.dirichlet(np.ones(4), prompts),
        reward=reward,
    )


def sampled(log_p: Array, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(4, n, p=np.exp(row)) for row in log_p])


def at(table: Array, answers: np.ndarray) -> Array:
    return np.take_along_axis(table, answers, axis=1)


def near(estimate: estimates.Expectation, exact: float, *, widths: float = 1.5) -> None:
    assert estimate.low < estimate.value < estimate.high
    assert abs(estimate.value - exact) < widths * (estimate.high - estimate.low) / 2


def test_both_kl_estimators_find_the_exact_kl_of_the_first_argument() -> None:
    task = problem()
    first, second = log_softmax(2.0 * task.log_start), task.log_start
    drawn = sampled(first, 400)
    estimate, k3 = estimates.mean_kl(at(first, drawn), at(second, drawn))
    exact = float(tabular.kl(task, first, second))
    assert estimate.value == pytest.approx(exact, rel=0.03)
    assert k3 == pytest.approx(exact, rel=0.03)
    # The other direction is another number: the samples decide which one is meant.
    assert abs(float(tabular.kl(task, second, first)) - exact) > 0.03


def test_log_z_and_the_predicted_change_are_the_exact_ones() -> None:
    task = problem()
    drawn = sampled(task.log_start, 400)
    start = estimates.log_partition(at(task.reward, drawn), BETA)
    assert start.mean.mean() == pytest.approx(tabular.log_partition(task, BETA).mean(), abs=0.01)
    paid = (task.expert * task.reward).sum(axis=1)
    predicted = estimates.predicted_change(start, paid, BETA)
    near(predicted, float(tabular.coupling_constant(task, BETA)))


def test_a_prompt_without_success_is_counted_and_not_infinitely_sure() -> None:
    reward = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]])
    start = estimates.log_partition(reward, 0.04)
    assert start.without_success == 0.5
    low, high = np.quantile(start.draws[:, 0], (0.025, 0.975))
    # Plug-in would say log 1 = 0 with no spread; the truth may be as high as 25 + log s.
    assert 5 < low < 20
    assert 23 < high < 25
    assert high - low > 3 * np.ptp(np.quantile(start.draws[:, 1], (0.025, 0.975)))


def test_the_residual_is_the_kl_to_the_gibbs_optimum() -> None:
    task = problem()
    start = estimates.log_partition(at(task.reward, sampled(task.log_start, 400)), BETA)
    for policy in (tabular.gibbs(task, BETA), tabular.gibbs(task, 2.0), task.log_start):
        drawn = sampled(policy, 400, seed=3)
        residual = estimates.optimality_residual(
            at(policy, drawn), at(task.log_start, drawn), at(task.reward, drawn), start, BETA
        )
        exact = float(tabular.kl(task, policy, tabular.gibbs(task, BETA)))
        assert residual.value == pytest.approx(exact, abs=0.02)


def test_the_reward_drop_is_identity_i2() -> None:
    task = problem()
    best = tabular.gibbs(task, BETA)
    tuned = tabular.sft_path(task, best, 0.4)
    drop = estimates.reward_drop(
        float(tabular.kl(task, tuned, best)),
        float(tabular.kl(task, best, task.log_start)),
        float(tabular.kl(task, tuned, task.log_start)),
        BETA,
    )
    exact = tabular.mean_reward(task, best) - tabular.mean_reward(task, tuned)
    assert drop == pytest.approx(float(exact), abs=1e-12)


def test_pinsker_holds_and_says_where_it_is_vacuous() -> None:
    task = problem()
    best = tabular.gibbs(task, BETA)
    for s in (0.1, 0.5, 0.9):
        tuned = tabular.sft_path(task, best, s)
        ceiling, vacuous = estimates.pinsker_ceiling(float(tabular.kl(task, tuned, best)))
        change = abs(float(tabular.mean_reward(task, tuned) - tabular.mean_reward(task, best)))
        assert change <= ceiling
        assert vacuous == (ceiling > 1)
    ceiling, vacuous = estimates.pinsker_ceiling(2.1)
    assert ceiling == pytest.approx(math.sqrt(1.05))
    assert vacuous
    assert estimates.pinsker_ceiling(1.9)[1] is False
    assert estimates.pinsker_ceiling(0.5, span=2.0)[0] == pytest.approx(1.0)


def test_intervals_over_prompts_cover() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for repeat in range(200):
        found = estimates.over_prompts(rng.normal(0.3, 1.0, 60), seed=repeat)
        covered += found.low <= 0.3 <= found.high
    # 95 % of 200 with a percentile bootstrap of 60 values; four standard errors are 12.
    assert 176 <= covered <= 199


@pytest.mark.parametrize(("beta", "reward"), [(0.0, 1.0), (0.5, 0.5)])
def test_what_has_no_closed_form_is_refused(beta: float, reward: float) -> None:
    with pytest.raises(ValueError, match=r"beta is 0|rewards of 0 and 1"):
        estimates.log_partition(np.full((2, 3), reward), beta)


def test_the_prediction_of_one_prompt_is_the_closed_form() -> None:
    reward = np.zeros((1, 10_000))
    reward[0, :7000] = 1.0
    start = estimates.log_partition(reward, 0.04)
    predicted = estimates.predicted_change(start, np.array([0.9]), 0.04)
    assert predicted.value == pytest.approx(binary_change(0.7, 0.9, 0.04), abs=0.01)
