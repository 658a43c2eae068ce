"""The tabular algebra against slow references: loops over answers, quadrature, flows, solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from studies.coupling import closed_forms, identities, tabular
from studies.coupling.identities import (
    IDENTITIES,
    TOLERANCE,
    check_identities,
    identity_errors,
    random_problems,
)
from studies.coupling.tabular import Array, TabularProblem, log_softmax


def one(seed: int, *, prompts: int = 3, answers: int = 4, binary: bool = False) -> TabularProblem:
    problem = random_problems(
        np.random.default_rng(seed), 1, prompts=prompts, answers=answers, binary=binary
    )
    return TabularProblem(*(table[0] for table in vars(problem).values()))


def some_policy(seed: int, problem: TabularProblem) -> Array:
    return log_softmax(np.random.default_rng(seed).normal(0, 1, problem.reward.shape))


def binary_problem(s: float, a: float) -> TabularProblem:
    """One prompt, answers (right, wrong)."""
    with np.errstate(divide="ignore"):
        return TabularProblem(
            weights=np.ones(1),
            log_start=np.log(np.array([[s, 1 - s]])),
            expert=np.array([[a, 1 - a]]),
            reward=np.array([[1.0, 0.0]]),
        )


def test_quantities_equal_loops_over_prompts_and_answers() -> None:
    problem = one(0)
    log_p, log_o = some_policy(1, problem), some_policy(2, problem)
    j = j_d = loss = distance = 0.0
    for x in range(3):
        for y in range(4):
            q, p = problem.weights[x], math.exp(log_p[x, y])
            j += q * p * problem.reward[x, y]
            j_d += q * problem.expert[x, y] * problem.reward[x, y]
            loss -= q * problem.expert[x, y] * log_p[x, y]
            distance += q * p * (log_p[x, y] - log_o[x, y])
    assert tabular.mean_reward(problem, log_p) == pytest.approx(j, abs=1e-12)
    assert tabular.expert_reward(problem) == pytest.approx(j_d, abs=1e-12)
    assert tabular.sft_loss(problem, log_p) == pytest.approx(loss, abs=1e-12)
    assert tabular.kl(problem, log_p, log_o) == pytest.approx(distance, abs=1e-12)
    start_kl = tabular.kl(problem, log_p, problem.log_start)
    assert tabular.regularised_reward(problem, log_p, 0.3) == pytest.approx(j - 0.3 * start_kl)


def test_the_gibbs_optimum_is_what_a_solver_finds() -> None:
    problem = one(3, prompts=1)

    def negative(z: Array) -> float:
        return -float(tabular.regularised_reward(problem, log_softmax(z[None]), 0.4))

    found = minimize(
        negative,
        np.zeros(4),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "maxiter": 9000, "fatol": 1e-14},
    )
    solver = np.exp(log_softmax(found.x[None]))
    assert np.exp(tabular.gibbs(problem, 0.4)) == pytest.approx(solver, abs=1e-5)


def reverse_optimum(problem: tabular.TabularProblem, beta: float) -> Array:
    """log p of the optimum of J(p) - beta E_q KL(p_S || p): p = beta p_S / (lambda - r).

    It is what k3 in the loss, GRPO's usual penalty, pulls to. lambda normalises each prompt and
    lies between max r and max r + beta.
    """
    best = problem.reward.max(axis=-1, keepdims=True)
    low, high = np.zeros_like(best), np.full_like(best, beta)
    p_start = np.exp(problem.log_start)
    # The offset lambda - max r keeps its digits where lambda itself would lose them.
    for _ in range(200):
        middle = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            mass = (beta * p_start / (middle + best - problem.reward)).sum(axis=-1, keepdims=True)
        low, high = np.where(mass > 1, middle, low), np.where(mass > 1, high, middle)
    optimum: Array = np.log(beta) + problem.log_start - np.log(high + best - problem.reward)
    return log_softmax(optimum)


def test_the_reverse_optimum_is_what_a_solver_finds() -> None:
    problem = one(4, prompts=1)

    def negative(z: Array) -> float:
        log_p = log_softmax(z[None])
        penalty = tabular.kl(problem, problem.log_start, log_p)
        return -float(tabular.mean_reward(problem, log_p) - 0.4 * penalty)

    found = minimize(
        negative,
        np.zeros(4),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "maxiter": 9000, "fatol": 1e-14},
    )
    solver = np.exp(log_softmax(found.x[None]))
    assert np.exp(reverse_optimum(problem, 0.4)) == pytest.approx(solver, abs=1e-5)


def test_small_beta_costs_no_digits() -> None:
    problem = one(5)
    best = tabular.gibbs(problem, 1e-3)  # r / beta up to 1000, far beyond exp's range
    assert np.isfinite(best).all()
    assert np.exp(best).sum(-1) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_without_a_kl_term_there_is_no_optimum(beta: float) -> None:
    with pytest.raises(ValueError, match="beta above 0"):
        tabular.gibbs(one(0), beta)


def test_an_answer_the_policy_never_gives_makes_the_loss_infinite_only_if_it_is_taught() -> None:
    problem = binary_problem(0.5, 1.0)
    with np.errstate(divide="ignore"):
        sure, never = np.log(np.array([[1.0, 0.0]])), np.log(np.array([[0.0, 1.0]]))
    assert tabular.sft_loss(problem, sure) == 0.0
    assert tabular.sft_loss(problem, never) == np.inf


def _natural_flow(log_p: Array, slope: Array, time: float, ascent: bool) -> Array:
    """Integrate dz/dt = F^+ g for one prompt, F = diag(p) - p p^T, with a general solver."""

    def rate(_: float, z: Array) -> Array:
        p = np.exp(log_softmax(z))
        fisher = np.diag(p) - np.outer(p, p)
        gradient = p * (slope - p @ slope) if ascent else slope - p
        out: Array = np.linalg.pinv(fisher, rcond=1e-12) @ gradient
        return out

    solved = solve_ivp(rate, (0, time), log_p, rtol=1e-10, atol=1e-12)
    return log_softmax(solved.y[:, -1])


def test_the_rl_path_is_the_natural_gradient_flow_of_the_reward() -> None:
    problem = one(6, prompts=1)
    flow = _natural_flow(problem.log_start[0], problem.reward[0], 2.0, ascent=True)
    assert tabular.rl_path(problem, 2.0)[0] == pytest.approx(flow, abs=1e-6)


def test_the_sft_path_is_the_natural_gradient_flow_of_the_loss() -> None:
    problem = one(7, prompts=1)
    log_p = some_policy(8, problem)
    flow = _natural_flow(log_p[0], problem.expert[0], 1.5, ascent=False)
    along = tabular.sft_path(problem, log_p, 1 - math.exp(-1.5))
    assert along[0] == pytest.approx(flow, abs=1e-6)


def test_identities_hold_on_thousands_of_problems() -> None:
    largest, checked = check_identities(seed=1, n=100)
    assert checked == 3000
    assert set(largest) == set(IDENTITIES)
    assert max(largest.values()) < TOLERANCE


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompts=st.integers(1, 6),
    answers=st.integers(2, 8),
    beta=st.floats(0.01, 2.0),
    t=st.floats(0.0, 20.0),
    s=st.floats(0.0, 0.999),
    binary=st.booleans(),
)
def test_identities_hold_for_any_shape(
    seed: int, prompts: int, answers: int, beta: float, t: float, s: float, binary: bool
) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problems(rng, 3, prompts=prompts, answers=answers, binary=binary)
    log_p = log_softmax(rng.normal(0, 2, problem.reward.shape))
    errors = identity_errors(problem, log_p, beta=beta, t=t, s=s)
    assert max(errors.values()) < TOLERANCE


def test_a_false_identity_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(problem: TabularProblem, beta: float) -> Array:
        return tabular.coupling_constant(problem, beta) + 1e-6

    monkeypatch.setattr(identities, "coupling_constant", wrong)
    with pytest.raises(ArithmeticError, match="I1"):
        check_identities(seed=1, n=5)


def test_the_loss_is_convex_along_the_rl_path() -> None:
    problem = random_problems(np.random.default_rng(2), 200, prompts=4, answers=5)
    grid = np.linspace(0, 5, 101)
    losses = np.stack([tabular.sft_loss(problem, tabular.rl_path(problem, t)) for t in grid])
    assert np.diff(losses, n=2, axis=0).min() > -1e-12


def test_the_loss_is_lowest_where_the_policy_earns_what_the_expert_earns() -> None:
    found = 0
    for seed in range(40):
        problem = one(seed, binary=True)
        t = tabular.crossing(problem, 25.0)
        if t is None:
            continue
        found += 1
        here = tabular.mean_reward(problem, tabular.rl_path(problem, t))
        assert here == pytest.approx(tabular.expert_reward(problem), abs=1e-9)
        grid = np.linspace(0, 25, 501)
        losses = [float(tabular.sft_loss(problem, tabular.rl_path(problem, u))) for u in grid]
        assert float(tabular.sft_loss(problem, tabular.rl_path(problem, t))) <= min(losses) + 1e-12
    assert 5 < found < 40


def test_the_strong_theorem_has_a_counterexample() -> None:
    """r = 0: any KL, no change of reward; the regularised reward falls by exactly beta KL."""
    problem = TabularProblem(
        weights=np.ones(1),
        log_start=np.log(np.array([[0.5, 0.5]])),
        expert=np.array([[0.75, 0.25]]),
        reward=np.zeros((1, 2)),
    )
    optimum, tuned = tabular.gibbs(problem, 0.1), np.log(np.array([[0.75, 0.25]]))
    assert np.exp(optimum) == pytest.approx(np.array([[0.5, 0.5]]), abs=1e-15)
    assert tabular.kl(problem, tuned, optimum) == pytest.approx(0.130812, abs=5e-7)
    assert tabular.mean_reward(problem, tuned) == tabular.mean_reward(problem, optimum)
    drop = tabular.regularised_reward(problem, optimum, 0.1) - tabular.regularised_reward(
        problem, tuned, 0.1
    )
    assert drop == pytest.approx(0.1 * 0.130812, abs=1e-7)


# -- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("s", "a", "beta", "expected"),
    [
        (0.7, 1.0, 0.04, -0.357),
        (0.7, 1.0, 1.0, -0.210),
        (0.7, 0.0, 0.04, 24.643),
        (0.7, 0.0, 1.0, 0.790),
        (0.95, 0.95, 0.04, 1.199),
        (0.9, 0.9, 0.04, 2.395),
        (0.7, 0.7, 0.04, 7.143),
        (0.95, 0.95, 1.0, 0.018),
        (0.9, 0.9, 1.0, 0.035),
        (0.7, 0.7, 1.0, 0.090),
    ],
)
def test_the_table_of_predictions(s: float, a: float, beta: float, expected: float) -> None:
    assert round(closed_forms.binary_change(s, a, beta), 3) == expected
    problem = binary_problem(s, a)
    assert tabular.coupling_constant(problem, beta) == pytest.approx(
        closed_forms.binary_change(s, a, beta), abs=1e-9
    )
    if s == a:
        assert round(closed_forms.matched_noise(1 - s, beta), 3) == expected


@pytest.mark.parametrize(
    ("s", "a", "beta", "expected"), [(0.7, 0.9, 0.741, -0.116), (0.3, 0.9, 0.328, -0.794)]
)
def test_the_best_beta_in_between(s: float, a: float, beta: float, expected: float) -> None:
    best = closed_forms.lowest_beta(s, a)
    assert best is not None
    assert round(best, 3) == beta
    assert round(closed_forms.lowest_change(s, a), 3) == expected
    assert closed_forms.binary_change(s, a, best) == pytest.approx(
        closed_forms.lowest_change(s, a), abs=1e-12
    )
    for other in (0.9 * best, 1.1 * best):
        assert closed_forms.binary_change(s, a, other) > expected


def test_no_rl_is_best_where_the_policy_earns_more_than_the_expert() -> None:
    assert closed_forms.lowest_beta(0.7, 0.7) is None
    assert closed_forms.lowest_change(0.7, 0.5) == 0.0
    assert all(closed_forms.binary_change(0.7, 0.5, beta) > 0 for beta in (0.04, 1.0, 10.0))


@pytest.mark.parametrize(("eps", "expected"), [(0.05, 0.116), (0.1, 0.234), (0.3, 0.733)])
def test_k3_in_the_loss_has_another_optimum(eps: float, expected: float) -> None:
    assert round(closed_forms.reverse_noise(eps, 0.04), 3) == expected
    problem = binary_problem(1 - eps, 1 - eps)
    moved = reverse_optimum(problem, 0.04)
    change = tabular.sft_loss(problem, moved) - tabular.sft_loss(problem, problem.log_start)
    assert closed_forms.reverse_noise(eps, 0.04) == pytest.approx(float(change), abs=1e-9)


def test_a_point_mass_predicts_no_harm() -> None:
    assert closed_forms.binary_change(1.0, 1.0, 0.04) == 0.0
    assert closed_forms.matched_noise(0.0, 0.04) == 0.0


def test_the_table_lists_every_case() -> None:
    rows = closed_forms.table()
    assert len(rows) == 16
    assert sum(row.change > 0 for row in rows) == 11
