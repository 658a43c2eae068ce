"""Both phases by exact gradients, with free logits or with a map shared by all prompts.

No sampling and no estimator: what differs from the identities is the geometry of the plain gradient
and, with a shared map, what one prompt's update does to another. A policy is
softmax(log_start + features @ w); free logits are the case in which every prompt has a feature of
its own. Both phases have the same learning rate, chosen so that a step is as stable in one
parameterisation as in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from studies.coupling.tabular import (
    Array,
    TabularProblem,
    expert_reward,
    log_softmax,
    mean_reward,
    sft_loss,
)

Parameters = Literal["free logits", "shared map"]
Objective = Literal["rl", "sft"]
Target = Literal["verifier format", "bare label"]


@dataclass(frozen=True)
class Task:
    """Problems with the features that a shared map sees."""

    problem: TabularProblem
    features: Array
    """[..., prompts, features]"""


def label_tasks(
    rng: np.random.Generator, n: int, *, prompts: int, features: int, target: Target, eps: float
) -> Task:
    """``n`` tasks of judging ``prompts`` items, with demonstrations in one of two formats.

    The answers are tagged 0, tagged 1, bare 0 and bare 1; a strict verifier pays the tagged gold
    label only.
    The gold label is a linear function of the features with noise, so a shared map can learn most
    of it. The base policy writes mostly bare labels and is right a little more often than not.

    Args:
        target: what the demonstrations look like: what the verifier pays, or the bare label.
        eps: share of demonstrations with the other label.
    """
    phi = rng.normal(size=(n, prompts, features))
    phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
    teacher = rng.normal(size=(n, features, 1))
    gold = (phi @ teacher)[..., 0] + 0.3 * rng.normal(size=(n, prompts)) > 0
    is_gold = np.stack([~gold, gold, ~gold, gold], axis=-1)
    tagged = np.array([True, True, False, False])
    base = rng.normal(0, 0.5, (n, prompts, 4)) + 0.5 * is_gold - 1.0 * tagged
    taught = tagged if target == "verifier format" else ~tagged
    expert = np.where(taught, np.where(is_gold, 1.0 - eps, eps), 0.0)
    problem = TabularProblem(
        weights=np.full((n, prompts), 1.0 / prompts),
        log_start=log_softmax(base),
        expert=expert,
        reward=(is_gold & tagged).astype(np.float64),
    )
    return Task(problem, phi)


def logit_gradient(
    problem: TabularProblem, log_p: Array, objective: Objective, beta: float
) -> Array:
    """Ascent direction of J_beta, or descent direction of L, for the logits of every prompt.

    dJ_beta/dz = q p (f - E_p f) with f = r - beta log(p / p_S); -dL/dz = q (p_D - p).
    """
    p = np.exp(log_p)
    q = problem.weights[..., None]
    if objective == "sft":
        descent: Array = q * (problem.expert - p)
        return descent
    f = problem.reward - beta * (log_p - problem.log_start)
    ascent: Array = q * p * (f - (p * f).sum(axis=-1, keepdims=True))
    return ascent


def feature_kernel(features: Array) -> Array:
    """[..., prompts, prompts]: how much an update for one prompt moves the logits of another."""
    kernel: Array = features @ np.swapaxes(features, -1, -2)
    return kernel


@dataclass(frozen=True)
class Course:
    """Both objectives of every task at every step, the start included: [steps + 1, ...]."""

    loss: Array
    reward: Array
    log_p: Array
    """The final policies [..., prompts, answers]."""


def train(
    task: Task,
    log_p: Array,
    *,
    parameters: Parameters,
    objective: Objective,
    steps: int,
    beta: float = 0.0,
) -> Course:
    """Gradient steps from ``log_p``; for RL, ``task.problem.log_start`` is the KL reference.

    Prompts weigh the same here, so the rate is the number of prompts over the largest eigenvalue
    of the kernel; free logits have the unit matrix for a kernel. Training w is the same as moving
    all logits along kernel @ gradient, so w is never built.
    """
    problem = task.problem
    prompts = float(task.features.shape[-2])
    kernel = None
    if parameters == "shared map":
        kernel = feature_kernel(task.features)
        kernel = kernel * (prompts / np.linalg.eigvalsh(kernel)[..., -1][..., None, None])
    losses, rewards = [sft_loss(problem, log_p)], [mean_reward(problem, log_p)]
    for _ in range(steps):
        gradient = logit_gradient(problem, log_p, objective, beta)
        log_p = log_softmax(log_p + (prompts * gradient if kernel is None else kernel @ gradient))
        losses.append(sft_loss(problem, log_p))
        rewards.append(mean_reward(problem, log_p))
    return Course(np.stack(losses), np.stack(rewards), log_p)


def first_order_coupling(
    problem: TabularProblem, log_p: Array, kernel: Array | None = None
) -> tuple[Array, Array]:
    """Gap J(p) - J(D), and <dL/dw, dJ/dw>: what a small plain-gradient step does to the other.

    The inner product is the rate at which an RL step raises L and, the same number, the rate at
    which an SFT step lowers J: with plain gradients the two orders are mirror images. Under natural
    gradients it would be the gap itself (I3, I4), so the sign of the gap is the prediction.

    Args:
        kernel: [..., prompts, prompts]; None for free logits.
    """
    ascent = logit_gradient(problem, log_p, "rl", 0.0)
    descent = logit_gradient(problem, log_p, "sft", 0.0)
    moved = ascent if kernel is None else kernel @ ascent
    rate: Array = -(descent * moved).sum(axis=(-2, -1))
    return mean_reward(problem, log_p) - expert_reward(problem), rate
