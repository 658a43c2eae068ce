"""Invariant f on a bandit: a softmax policy over a few arms, with exact gradients.

theta and w are full sets of logits that are added, so the policy sees theta + w only. Every arm is
one row whose advantage is weighted by its probability, which makes the trainer's mean over rows the
exact expectation. J_RL is the mean reward minus tau KL(pi || uniform), whose optimum is known and
interior: pi = softmax(reward / tau). Updates are the method's and the trainer's, with plain SGD.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge.step.batches import StepBatch
from bridge.step.rows import Row
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from tests.fixtures.tiny_run import PROBLEM, MethodTrainer, make_method, make_training

REWARD = torch.tensor([1.0, 0.6, 0.1, 0.0], dtype=torch.float64)
TAU = 0.5
TAUGHT = torch.tensor([1, 2, 4, 1])
"""How often each arm is demonstrated: J_SFT prefers another arm than J_RL."""
ARMS = len(REWARD)
RL_WEIGHT = 0.4


class Bandit(nn.Module):
    """Logits over the arms, whatever the context."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(ARMS, dtype=torch.float64))
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(vocab_size=ARMS)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, ARMS))


def make(name: str, **options: Any) -> MethodTrainer:
    config = make_training(lr_rl=1.0, max_grad_norm=1e9, loss_agg_mode="seq-mean-token-sum")
    method = make_method(name, config, rl_weight=RL_WEIGHT, upper="full", **options)
    method.check("here")
    sampler: Any = SimpleNamespace(model=Bandit(), pad_token_id=0)
    assert method.adapter is not None
    policy = WholeWeights(sampler, adapter=method.adapter.shape, shadow=method.uses_shadow)
    trainer = MethodTrainer(policy, method, config)
    trainer._new_optimizer = lambda group, phase: torch.optim.SGD(  # type: ignore
        trainer.policy.parameters[group]
    )
    return trainer


def value(trainer: MethodTrainer, group: str) -> Tensor:
    return trainer.policy.parameters[group][0].detach().clone()


def arms(logits: Tensor) -> tuple[Row, ...]:
    """One rollout of each arm; their mean gradient is that of J_RL at these logits."""
    logprob = logits.log_softmax(0)
    payoff = REWARD - TAU * (logprob + torch.log(torch.tensor(float(ARMS))))
    weight = ARMS * logprob.exp() * (payoff - (logprob.exp() * payoff).sum())
    return tuple(
        Row("rollout", PROBLEM, (0,), (a,), advantage=float(weight[a]), sampled_logprobs=(0.0,))
        for a in range(ARMS)
    )


def step(trainer: MethodTrainer, *, own: bool) -> None:
    w = value(trainer, ADAPTER)
    taught = tuple(
        Row("demonstration", PROBLEM, (0,), (a,)) for a in range(ARMS) for _ in range(TAUGHT[a])
    )
    batch = StepBatch((*arms(value(trainer, BASE) + w), *taught))
    if own:
        batch = replace(batch, shadow=StepBatch(arms(value(trainer, SHADOW) + w)))
    trainer.begin_step()
    trainer.method.update(trainer, batch, 1)


def gradient_of_scalarised(logits: Tensor) -> Tensor:
    """Of (1 - lambda) J_SFT + lambda J_RL, by autograd from their definitions."""
    logits = logits.clone().requires_grad_()
    logprob = logits.log_softmax(0)
    j_sft = (TAUGHT / TAUGHT.sum() * logprob).sum()
    j_rl = (logprob.exp() * (REWARD - TAU * (logprob + torch.log(torch.tensor(float(ARMS)))))).sum()
    ((1 - RL_WEIGHT) * j_sft + RL_WEIGHT * j_rl).backward()
    assert logits.grad is not None
    return logits.grad


def scalarised_optimum() -> Tensor:
    """The policy that plain mixing ends at."""
    logits = torch.zeros(ARMS, dtype=torch.float64)
    for _ in range(3000):
        logits = logits + gradient_of_scalarised(logits)
    assert float(gradient_of_scalarised(logits).norm()) < 1e-14
    return logits.softmax(0)


def solve_inner(trainer: MethodTrainer) -> None:
    """Put theta-hat where J_RL(theta-hat, w) is largest, by a long inner ascent."""
    w, hat = value(trainer, ADAPTER), value(trainer, SHADOW)
    for _ in range(60):
        logprob = (hat + w).log_softmax(0)
        hat = hat + 0.5 * (REWARD / TAU - logprob)  # mirror ascent: halves the distance
        hat = hat - hat.mean()
    with torch.no_grad():
        trainer.policy.parameters[SHADOW][0].copy_(hat)


def policy_of(trainer: MethodTrainer, group: str = BASE) -> Tensor:
    return (value(trainer, group) + value(trainer, ADAPTER)).softmax(0)


def norms(trainer: MethodTrainer, n: int, every: int, *, own: bool = False) -> list[float]:
    """||w|| after each ``every`` steps."""
    out = []
    for k in range(1, n + 1):
        step(trainer, own=own)
        if k % every == 0:
            out.append(trainer.policy.adapter_norm())
    return out


# -- f: theta-hat is exact ----------------------------------------------------------------------


def test_the_rows_of_the_arms_give_the_exact_gradients() -> None:
    trainer = make("bridge_no_gain")
    start = torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        trainer.policy.parameters[BASE][0].copy_(start)
    trainer.policy.changed()
    step(trainer, own=False)
    moved = value(trainer, BASE) - start
    assert torch.allclose(moved, gradient_of_scalarised(start), rtol=0, atol=1e-14)


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_f_the_subtracted_term_is_zero_and_the_end_is_the_scalarised_optimum(beta: float) -> None:
    trainer = make("bridge", shadow_rollouts="own", beta_ratio=beta)
    plain = make("bridge_no_gain", beta_ratio=beta)
    for _ in range(250):
        solve_inner(trainer)
        step(trainer, own=True)
        assert trainer.scalars["teacher_shadow_norm"] < 1e-14
        step(plain, own=False)
        # BRIDGE is "w on (1 - lambda) J_SFT + lambda J_RL" all along the way.
        for group in (BASE, ADAPTER):
            assert torch.allclose(value(trainer, group), value(plain, group), rtol=0, atol=1e-11)
    solve_inner(trainer)
    best = (REWARD / TAU).softmax(0)
    assert torch.allclose(policy_of(trainer, SHADOW), best, rtol=0, atol=1e-14)
    optimum = scalarised_optimum()
    assert float((optimum - best).abs().max()) > 0.1
    assert torch.allclose(policy_of(trainer), optimum, rtol=0, atol=1e-12)


def test_f_the_gain_vanishes_at_the_fixed_point_of_plain_rl_only() -> None:
    """The test above can fail: away from its optimum theta-hat has a gradient."""
    trainer = make("bridge", shadow_rollouts="own")
    step(trainer, own=True)
    assert trainer.scalars["teacher_shadow_norm"] > 0.1


def test_f_a_persistent_shadow_reaches_the_same_fixed_point() -> None:
    trainer = make("bridge", shadow_rollouts="own")
    first, second = norms(trainer, 500, 250, own=True)
    assert torch.allclose(policy_of(trainer), scalarised_optimum(), rtol=0, atol=1e-10)
    assert second == pytest.approx(first, abs=1e-6)


# -- fact 4.2: where w never comes to rest ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bridge", {"shadow": "lookahead", "shadow_rate_ratio": 0.2, "shadow_ratio": "unclipped"}),
        ("bridge_no_gain", {"reading": "sft_only"}),
    ],
)
def test_lookahead_and_sft_only_have_no_interior_fixed_point(
    name: str, options: dict[str, Any]
) -> None:
    """The policy comes to rest, but w keeps pushing and theta keeps undoing it."""
    trainer = make(name, beta_ratio=0.5, **options)
    sizes = norms(trainer, 600, 150)
    grown = [after - before for before, after in itertools.pairwise(sizes)]
    assert min(grown) > 0.5
    assert max(grown) < 1.05 * min(grown)  # at a constant speed
    before, w = policy_of(trainer), value(trainer, ADAPTER)
    step(trainer, own=False)
    # w pushes towards the demonstrations: what is left of the teacher's rule where theta rests.
    j_sft_gradient = TAUGHT / TAUGHT.sum() - before
    assert float((value(trainer, ADAPTER) - w) @ j_sft_gradient) > 0
    assert torch.allclose(policy_of(trainer), before, rtol=0, atol=1e-8)
    settled = gradient_of_scalarised(value(trainer, BASE) + value(trainer, ADAPTER))
    assert float(settled.norm()) > 1e-3  # and not where mixing rests
