"""Policies as tables: the quantities of the coupling study where every answer can be listed.

A policy is an array of log-probs ``log_p`` [..., prompts, answers]; leading axes are independent
problems, and every number that comes out has their shape. Log space throughout, so that
r / beta = 100 (beta 0.01) and probabilities of e^-700 cost no digits. Notation of arXiv 2601.07389:
q prompts, p_D expert, p_S policy when RL starts (also the KL reference), r reward,

    J(p) = E_q E_p r            J_beta(p) = J(p) - beta E_q KL(p || p_S)
    L(p) = -E_q E_{p_D} log p   p_G = p_S exp(r / beta) / Z_beta, the optimum of J_beta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TabularProblem:
    """What both objectives are made of. The last two axes of a table are prompts and answers."""

    weights: Array
    """[..., prompts]: q, sums to one over the prompts."""
    log_start: Array
    """[..., prompts, answers]: log p_S."""
    expert: Array
    """[..., prompts, answers]: p_D; zeros are allowed."""
    reward: Array
    """[..., prompts, answers]: r."""

    def started_at(self, log_p: Array) -> TabularProblem:
        """The same prompts, expert and reward where RL starts from ``log_p``."""
        return replace(self, log_start=log_p)


def log_softmax(scores: Array) -> Array:
    """Scores minus the log of their summed exponentials over the answers."""
    return scores - _log_sum_exp(scores)


def _log_sum_exp(scores: Array) -> Array:
    """[..., answers] to [..., 1]; ``np.logaddexp.reduce`` takes ten times as long."""
    highest = scores.max(axis=-1, keepdims=True)
    total: Array = highest + np.log(np.exp(scores - highest).sum(axis=-1, keepdims=True))
    return total


def over_prompts(problem: TabularProblem, table: Array) -> Array:
    """Sum over answers, mean over prompts under q: [..., prompts, answers] to [...]."""
    total: Array = (problem.weights * table.sum(axis=-1)).sum(axis=-1)
    return total


def _times(weight: Array, value: Array) -> Array:
    """Product in which nothing that has probability zero counts, whatever its value."""
    product: Array = weight * np.where(weight > 0, value, 0.0)
    return product


def mean_reward(problem: TabularProblem, log_p: Array) -> Array:
    """J(p)."""
    return over_prompts(problem, np.exp(log_p) * problem.reward)


def expert_reward(problem: TabularProblem) -> Array:
    """J(D), the reward that the demonstrations themselves earn."""
    return over_prompts(problem, problem.expert * problem.reward)


def reward_variance(problem: TabularProblem, log_p: Array) -> Array:
    """E_q Var_p(r)."""
    p = np.exp(log_p)
    centred = problem.reward - (p * problem.reward).sum(axis=-1, keepdims=True)
    return over_prompts(problem, p * centred**2)


def sft_loss(problem: TabularProblem, log_p: Array) -> Array:
    """L(p) in nats per sequence; infinite where the expert does what p never does."""
    return -over_prompts(problem, _times(problem.expert, log_p))


def kl(problem: TabularProblem, log_p: Array, log_other: Array) -> Array:
    """E_q KL(p || other) in nats, samples from the first argument."""
    return over_prompts(problem, _times(np.exp(log_p), log_p - log_other))


def kl_from_expert(problem: TabularProblem, log_p: Array) -> Array:
    """E_q KL(p_D || p) in nats."""
    with np.errstate(divide="ignore"):
        log_expert = np.log(problem.expert)
    return over_prompts(problem, _times(problem.expert, log_expert - log_p))


def regularised_reward(problem: TabularProblem, log_p: Array, beta: float) -> Array:
    """J_beta(p)."""
    return mean_reward(problem, log_p) - beta * kl(problem, log_p, problem.log_start)


def log_partition(problem: TabularProblem, beta: float) -> Array:
    """log Z_beta(x) [..., prompts].

    Raises:
        ValueError: beta is not positive; without a KL term there is no Gibbs optimum.
    """
    if beta <= 0:
        raise ValueError(
            f"beta is {beta:g}, but the Gibbs optimum needs a KL term: take a beta above 0 or "
            "leave this prediction out."
        )
    return _log_sum_exp(problem.log_start + problem.reward / beta)[..., 0]


def gibbs(problem: TabularProblem, beta: float) -> Array:
    """log p_G, the optimum of J_beta."""
    z = log_partition(problem, beta)[..., None]
    optimum: Array = problem.log_start + problem.reward / beta - z
    return optimum


def rl_path(problem: TabularProblem, t: float) -> Array:
    """log p_t of p_t = p_S e^{t r} / Z_t: natural-gradient ascent on J from p_S for a time t."""
    return log_softmax(problem.log_start + t * problem.reward)


def sft_path(problem: TabularProblem, log_p: Array, s: float) -> Array:
    """log of (1 - s) p + s p_D: natural-gradient descent on L from p, s = 1 - e^-time."""
    if not 0.0 <= s < 1.0:
        raise ValueError(f"s is {s:g}, but the path towards the expert is defined on [0, 1)")
    mixed: Array = np.log((1.0 - s) * np.exp(log_p) + s * problem.expert)
    return mixed


def coupling_constant(problem: TabularProblem, beta: float) -> Array:
    """C1(beta) = E_q[log Z_beta - E_{p_D} r / beta] (theorem 3.1).

    By identity I1 it is L(p_G) - L(p_S) for any p_S and p_D, and then of either sign; it is at
    least 0 where p_S = p_D.
    """
    z = (problem.weights * log_partition(problem, beta)).sum(axis=-1)
    constant: Array = z - expert_reward(problem) / beta
    return constant


def crossing(problem: TabularProblem, t_max: float) -> float | None:
    """The t in (0, t_max) with J(p_t) = J(D), where L(p_t) is lowest (I3, I3b); None without one.

    ``problem`` is a single one (no leading axes). J(p_t) rises with t, so bisection finds it.
    """

    def gap(t: float) -> float:
        return float(mean_reward(problem, rl_path(problem, t)) - expert_reward(problem))

    low, high = 0.0, t_max
    if gap(low) >= 0 or gap(high) <= 0:
        return None
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gap(middle) < 0 else (low, middle)
    return 0.5 * (low + high)
