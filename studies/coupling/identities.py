"""The exact identities of the coupling study, as largest errors on random problems.

None of them assumes p_S = p_D. Derivations in ``docs/studies/coupling.md``.

| id  | identity |
|-----|----------|
| I1  | L(p_G) - L(p_S) = E_q[log Z - E_{p_D} r / beta] = KL(p_D, p_G) - KL(p_D, p_S) |
| I2  | J(p_G) - J(p) = beta [KL(p, p_G) + KL(p_G, p_S) - KL(p, p_S)], any p |
| I2b | J_beta(p_G) - J_beta(p) = beta KL(p, p_G), any p |
| I3  | d/dt L(p_t) = J(p_t) - J(D) along p_t = p_S e^{t r} / Z_t |
| I3b | d2/dt2 L(p_t) = E_q Var_{p_t}(r) |
| I4  | J(p_s) - J(p) = s (J(D) - J(p)) along p_s = (1 - s) p + s p_D |
"""

from __future__ import annotations

import numpy as np

from studies.coupling.tabular import (
    Array,
    TabularProblem,
    coupling_constant,
    expert_reward,
    gibbs,
    kl,
    kl_from_expert,
    log_softmax,
    mean_reward,
    regularised_reward,
    reward_variance,
    rl_path,
    sft_loss,
    sft_path,
)

IDENTITIES = ("I1", "I2", "I2b", "I3", "I3b", "I4")
TOLERANCE = 1e-8
_DIFFERENCE = 1e-5
"""Half step of central differences: truncation and rounding are both near 1e-10 there."""


def random_problems(
    rng: np.random.Generator, n: int, *, prompts: int, answers: int, binary: bool = False
) -> TabularProblem:
    """``n`` problems with random q, p_S, p_D and r in [-1, 1], or r in {0, 1} when ``binary``."""
    shape = (n, prompts, answers)
    reward = rng.uniform(-1, 1, shape)
    return TabularProblem(
        weights=rng.dirichlet(np.ones(prompts), n),
        log_start=log_softmax(rng.normal(0, 2, shape)),
        expert=rng.dirichlet(np.ones(answers), (n, prompts)),
        reward=(reward > 0).astype(np.float64) if binary else reward,
    )


def identity_errors(
    problem: TabularProblem, log_p: Array, *, beta: float, t: float, s: float
) -> dict[str, float]:
    """Largest absolute error of each identity over the problems.

    Args:
        log_p: [..., prompts, answers], any other policy (the p of I2, I2b and I4).
        beta: KL weight of I1, I2 and I2b.
        t: place on the RL path (I3, I3b).
        s: place on the SFT path (I4).
    """
    best = gibbs(problem, beta)
    start = problem.log_start
    rise = sft_loss(problem, best) - sft_loss(problem, start)
    later, earlier = rl_path(problem, t + _DIFFERENCE), rl_path(problem, t - _DIFFERENCE)

    def slope(values_later: Array, values_earlier: Array) -> Array:
        difference: Array = (values_later - values_earlier) / (2 * _DIFFERENCE)
        return difference

    here = rl_path(problem, t)
    errors = {
        "I1": np.maximum(
            np.abs(rise - coupling_constant(problem, beta)),
            np.abs(rise - kl_from_expert(problem, best) + kl_from_expert(problem, start)),
        ),
        "I2": mean_reward(problem, best)
        - mean_reward(problem, log_p)
        - beta * (kl(problem, log_p, best) + kl(problem, best, start) - kl(problem, log_p, start)),
        "I2b": regularised_reward(problem, best, beta)
        - regularised_reward(problem, log_p, beta)
        - beta * kl(problem, log_p, best),
        "I3": slope(sft_loss(problem, later), sft_loss(problem, earlier))
        - (mean_reward(problem, here) - expert_reward(problem)),
        # L' = J(p_t) - J(D) by I3, so L'' is the slope of J.
        "I3b": slope(mean_reward(problem, later), mean_reward(problem, earlier))
        - reward_variance(problem, here),
        "I4": mean_reward(problem, sft_path(problem, log_p, s))
        - mean_reward(problem, log_p)
        - s * (expert_reward(problem) - mean_reward(problem, log_p)),
    }
    return {name: float(np.abs(error).max()) for name, error in errors.items()}


def check_identities(seed: int, n: int = 500) -> tuple[dict[str, float], int]:
    """Largest error of each identity over random problems of several shapes, and their number.

    Raises:
        ArithmeticError: an error is above ``TOLERANCE``.
    """
    rng = np.random.default_rng(seed)
    largest = dict.fromkeys(IDENTITIES, 0.0)
    checked = 0
    for prompts in (1, 5):
        for answers in (2, 4, 9):
            for beta in (0.01, 0.04, 0.1, 0.5, 1.0):
                problem = random_problems(rng, n, prompts=prompts, answers=answers)
                log_p = log_softmax(rng.normal(0, 2, problem.reward.shape))
                t, s = rng.uniform(0, 5), rng.uniform(0, 1)
                errors = identity_errors(problem, log_p, beta=beta, t=t, s=s)
                largest = {name: max(largest[name], errors[name]) for name in IDENTITIES}
                checked += n
    broken = {name: error for name, error in largest.items() if not error < TOLERANCE}
    if broken:
        raise ArithmeticError(f"identities do not hold to {TOLERANCE:g}: {broken}")
    return largest, checked
