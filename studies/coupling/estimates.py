"""What the coupling study estimates from samples, with 95 % intervals over prompts.

Arrays are [prompts] or [prompts, samples]. Log-probabilities are of whole answers, in nats. A
Kullback-Leibler divergence is estimated from samples of its *first* argument, u = log first - log
second: k1 = u is unbiased, k3 = e^-u - 1 + u is its check (never negative, same mean where both
have one support). Where supports part, k3 explodes and k1 is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.coupling.tabular import Array

RESAMPLES = 2000
VACUOUS_ABOVE_NATS = 2.0
"""sqrt(KL / 2) is 1 there: Pinsker's ceiling then says that rewards stay in their range."""


@dataclass(frozen=True)
class Expectation:
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """The estimate as columns of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def over_prompts(values: Array, *, seed: int = 0) -> Expectation:
    """Mean of one value per prompt; percentile bootstrap over prompts."""
    return _interval(float(values.mean()), values[_resamples(len(values), seed)].mean(axis=1))


def mean_kl(log_first: Array, log_second: Array, *, seed: int = 0) -> tuple[Expectation, float]:
    """E_q KL(first, second) by k1 with its interval, and by k3; samples of the first."""
    u = log_first - log_second
    with np.errstate(over="ignore"):
        k3 = float((np.expm1(-u) + u).mean())
    return over_prompts(u.mean(axis=1), seed=seed), k3


@dataclass(frozen=True)
class LogPartition:
    """log Z_beta per prompt for a 0/1 reward, as posterior draws [draws, prompts]."""

    draws: Array
    without_success: float
    """Share of prompts with no successful sample: at small beta they decide, through the prior."""

    @property
    def mean(self) -> Array:
        """Posterior mean per prompt [prompts]."""
        means: Array = self.draws.mean(axis=0)
        return means


def log_partition(reward: Array, beta: float, *, seed: int = 0) -> LogPartition:
    """log(1 + s (e^{1/beta} - 1)) with a Jeffreys posterior Beta(c + 1/2, n - c + 1/2) for s.

    Args:
        reward: [prompts, samples] of p_S, zeros and ones.

    Raises:
        ValueError: beta is not positive, or a reward is neither 0 nor 1.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta:g}: without a KL term there is no Gibbs optimum")
    if not np.isin(reward, (0.0, 1.0)).all():
        raise ValueError("log Z has this closed form for rewards of 0 and 1 only")
    n = reward.shape[1]
    right = reward.sum(axis=1)
    rng = np.random.default_rng(seed)
    s = rng.beta(right + 0.5, n - right + 0.5, (RESAMPLES, len(right)))
    draws: Array = np.logaddexp(np.log1p(-s), np.log(s) + 1.0 / beta)
    return LogPartition(draws, float((right == 0).mean()))


def predicted_change(
    start: LogPartition, expert_reward: Array, beta: float, *, seed: int = 0
) -> Expectation:
    """I1: E_q[log Z_beta - E_{p_D} r / beta], the change of L if RL reaches the Gibbs optimum.

    The interval holds the posterior of s and the choice of prompts.

    Args:
        expert_reward: [prompts], reward of each prompt's demonstration.
    """
    per_prompt = start.draws - expert_reward / beta
    chosen = _resamples(per_prompt.shape[1], seed)
    spread = np.take_along_axis(per_prompt, chosen, axis=1).mean(axis=1)
    return _interval(float(per_prompt.mean()), spread)


def optimality_residual(
    log_rl: Array, log_start: Array, reward: Array, start: LogPartition, beta: float
) -> Expectation:
    """KL(p_RL, p_G) = E_{p_RL}[log p_RL - log p_S - r / beta] + log Z.

    Large: RL has not reached the optimum, so the theorem was not tested. Small does not mean that
    L has arrived: L weighs answers of p_D, of which p_RL may draw none.

    Args:
        log_rl, log_start, reward: [prompts, samples] at samples of p_RL.
    """
    per_prompt = (log_rl - log_start - reward / beta).mean(axis=1) + start.mean
    return over_prompts(per_prompt)


def reward_drop(
    kl_tuned_to_rl: float, kl_rl_to_reference: float, kl_tuned_to_reference: float, beta: float
) -> float:
    """I2: J(p_RL) - J(p_SFT), exact if p_RL is the Gibbs optimum."""
    return beta * (kl_tuned_to_rl + kl_rl_to_reference - kl_tuned_to_reference)


def pinsker_ceiling(kl: float, *, span: float = 1.0) -> tuple[float, bool]:
    """Largest |change of J| that a mean KL allows, (r_max - r_min) sqrt(KL / 2); is it vacuous?"""
    return span * float(np.sqrt(max(kl, 0.0) / 2)), kl > VACUOUS_ABOVE_NATS


def line_fit(x: Array, y: Array) -> dict[str, float]:
    """Least-squares line of y on x and its R^2; no numbers where x does not vary."""
    if len(x) < 3 or np.ptp(x) == 0:
        return dict.fromkeys(("slope", "intercept", "r2"), float("nan"))
    slope, intercept = np.polyfit(x, y, 1)
    total = ((y - y.mean()) ** 2).sum()
    left = ((y - slope * x - intercept) ** 2).sum() / total if total > 0 else float("nan")
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - left)}


def _resamples(n: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng([seed, n]).integers(0, n, (RESAMPLES, n))


def _interval(value: float, spread: Array) -> Expectation:
    low, high = np.quantile(spread, (0.025, 0.975))
    return Expectation(value, float(low), float(high))
