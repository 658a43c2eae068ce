"""The trainer's optimiser steps, divergence and log; the published accumulation bugs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge.machine.ranks import ALONE
from bridge.models import CheckpointError
from bridge.models.checkpoint import Policy
from bridge.step.batches import StepBatch
from bridge.step.gradients import Gradient
from bridge.step.rows import Phase, Row, Term
from bridge.step.scoring import next_token_logprobs
from bridge.step.trainer import DivergedError
from bridge.step.weights import ADAPTER, BASE, SHADOW
from tests.fixtures.slow_reference import (
    disturbed,
    relative_error,
    row_logprobs,
)
from tests.fixtures.tiny_run import (
    PROBLEM,
    MethodTrainer,
    load_double,
    make_method,
    make_rows,
    make_trainer,
    make_training,
)

TERMS: tuple[Term, ...] = ("rl", "demonstration")


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


# -- the published bugs -------------------------------------------------------------------------


class Coordinates(nn.Module):
    """A model whose parameter k is touched by row k only: the gradient names the rows it saw.

    Tokens come in pairs (2k, 2k + 1). A token of pair k is followed by one of the same pair, by the
    even one with logit ``weight[k]`` against 0; so at zero each token 2k that is taught has the
    gradient -1/2 at coordinate k.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(vocab_size=2 * n)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        n = len(self.weight)
        pair = input_ids // 2
        own = torch.nn.functional.one_hot(pair, n)  # [rows, tokens, n]
        even = torch.where(own == 1, self.weight, -1e9)
        odd = torch.where(own == 1, 0.0, -1e9).double()
        return SimpleNamespace(logits=torch.stack([even, odd], -1).flatten(-2))


class CoordinatePolicy:
    """The parts of a trainable policy that the trainer uses."""

    ranks = ALONE

    def __init__(self, n: int) -> None:
        self.model = Coordinates(n)
        self.sampler = SimpleNamespace(pad_token_id=0, model=self.model)
        self.parameters = {BASE: [self.model.weight]}

    def collecting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def take_gradient(self) -> dict[str, Tensor]:
        gradient = self.model.weight.grad
        self.model.weight.grad = None
        assert gradient is not None
        return {group: gradient.clone() for group in (BASE, ADAPTER)}

    def changed(self) -> None: ...

    def score(self, input_ids: Tensor, targets: Tensor, temperature: float) -> Tensor:
        return next_token_logprobs(self.model, input_ids, targets, temperature)

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def coordinate_rows(n: int) -> list[Row]:
    """Row k touches coordinate k: the first half rollouts, the second half demonstrations."""
    half = n // 2
    rows = [
        Row("rollout", PROBLEM, (2 * k,), (2 * k,), advantage=1.0, sampled_logprobs=(0.0,))
        for k in range(half)
    ]
    return rows + [Row("demonstration", PROBLEM, (2 * k,), (2 * k,)) for k in range(half, n)]


@pytest.mark.parametrize("method", ["mixing", "bridge_no_gain"])
def test_no_micro_batch_and_no_backward_pass_is_lost(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bugs A and A' of the audit: only the first micro-batch, or only the last backward, counts."""
    n = 12
    policy: Any = CoordinatePolicy(n)
    config = make_training(micro_batch_rows=1, max_grad_norm=1e9)
    trainer = MethodTrainer(policy, make_method(method, config), config)
    directions: dict[str, Gradient] = {}
    monkeypatch.setattr(
        trainer, "descend", lambda group, d, phase, **_: directions.update({group: d})
    )
    trainer.begin_step()
    trainer.method.update(trainer, StepBatch(tuple(coordinate_rows(n))), 1)
    # Each row: weight 1/2 (mixing) x 1/6 (token mean) x -(1 - 1/2).
    assert torch.allclose(directions[BASE].flat[BASE], torch.full((n,), -0.5 / 12).double())


def test_a_token_weighs_the_same_in_every_micro_batch() -> None:
    """Bug B of the audit: a mean of micro-batch means gives short answers more weight."""
    policy: Any = CoordinatePolicy(3)
    lengths = (1, 7, 3)
    rows = [Row("demonstration", PROBLEM, (2 * k,), (2 * k,) * n) for k, n in enumerate(lengths)]
    config = make_training(micro_batch_rows=1)
    trainer = MethodTrainer(policy, make_method("sft", config), config)
    found = trainer.gradient("demonstration", StepBatch(tuple(rows))).gradient.flat[BASE]
    assert torch.allclose(found, -0.5 * torch.tensor(lengths).double() / sum(lengths))


# -- updates ------------------------------------------------------------------------------------


def sizes(trainer: MethodTrainer) -> dict[str, int]:
    return {g: sum(p.numel() for p in ps) for g, ps in trainer.policy.parameters.items()}


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in parameters])


@pytest.mark.parametrize("targets", ["q_proj", r"model\.norm"])
def test_targets_that_peft_cannot_adapt_are_one_sentence(policy: Policy, targets: str) -> None:
    """No layer of that name, and a layer of another kind."""
    with pytest.raises(CheckpointError) as caught:
        make_trainer(policy, make_training(), adapter=(2, 4, targets))
    said = str(caught.value)
    assert said.startswith(f"options.targets: {targets!r} cannot be adapted (")
    assert "whole names like model.layers.0.self_attn.q_proj." in said and "\n" not in said


def test_each_group_is_clipped_by_its_own_norm(policy: Policy) -> None:
    config = make_training(max_grad_norm=0.5)
    trainer = make_trainer(policy, config, adapter=(2, 4, "all-linear"), shadow=True)
    n = sizes(trainer)
    generator = torch.Generator().manual_seed(0)
    big = {g: torch.randn(n[g], generator=generator).double() for g in (BASE, ADAPTER)}
    big[ADAPTER] *= 1e-3 / big[ADAPTER].norm()  # below the threshold: kept as it is
    used: dict[str, Tensor] = {}

    def spy(group: str) -> Any:
        optimizer = trainer.optimizer(group, Phase("joint"))
        step = optimizer.step

        def recorded() -> Any:
            used[group] = torch.cat(
                [p.grad.reshape(-1) for p in trainer.policy.parameters[group] if p.grad is not None]
            )
            return step()

        optimizer.step = recorded  # type: ignore[method-assign]

    for group in (BASE, ADAPTER, SHADOW):
        spy(group)
        trainer.descend(group, Gradient(big), Phase("joint"))
    assert float(used[BASE].norm()) == pytest.approx(0.5)
    assert relative_error(used[BASE] / used[BASE].norm(), big[BASE] / big[BASE].norm()) < 1e-12
    assert torch.equal(used[ADAPTER], big[ADAPTER])
    assert torch.equal(used[SHADOW], used[BASE])
    assert trainer.scalars["grad_norm"] == pytest.approx(float(big[BASE].norm()))
    assert trainer.scalars["adapter_grad_norm"] == pytest.approx(1e-3)


def test_a_step_is_adamw_with_the_rate_of_its_kind(policy: Policy) -> None:
    config = make_training(lr_sft=0.01, lr_rl=0.002, adam_beta1=0.8, adam_beta2=0.95)
    trainer = make_trainer(policy, config)
    before = flat(trainer.policy.parameters[BASE])
    m = v = torch.zeros_like(before)
    expected = before
    for t, factor in enumerate((1.0, -0.5, 2.0), 1):
        g = factor * 1e-4 * torch.arange(len(before)).double() / len(before)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        expected = expected - 0.002 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        trainer.descend(BASE, Gradient({BASE: g}), Phase("rl"))
    assert relative_error(flat(trainer.policy.parameters[BASE]) - before, expected - before) < 1e-9
    assert trainer.learning_rate(Phase("sft")) == 0.01
    assert trainer.learning_rate(Phase("joint")) == 0.002


def test_kinds_keep_their_own_optimiser_states_until_their_stage_ends(policy: Policy) -> None:
    trainer = make_trainer(policy, make_training())
    phases = (Phase("sft", stage="first"), Phase("rl"), Phase("sft"))
    optimizers = [trainer.optimizer(BASE, phase) for phase in phases]
    assert len({id(o) for o in optimizers}) == 3
    assert trainer.optimizer(BASE, Phase("rl")) is optimizers[1]
    assert set(trainer.optimizers) == {"base/main/rl", "base/main/sft"}, "the first stage is over"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_a_divergence(policy: Policy, bad: float) -> None:
    trainer = make_trainer(policy, make_training())
    before = flat(trainer.policy.parameters[BASE])
    gradient = torch.zeros_like(before)
    gradient[7] = bad
    with pytest.raises(DivergedError, match="gradient norm of the base weights"):
        trainer.descend(BASE, Gradient({BASE: gradient}), Phase("rl"))
    assert torch.equal(flat(trainer.policy.parameters[BASE]), before)


def test_a_loss_that_is_not_finite_is_a_divergence(policy: Policy) -> None:
    with torch.no_grad():
        next(policy.model.parameters())[:] = math.nan
    trainer = make_trainer(policy, make_training())
    with pytest.raises(DivergedError, match="the demonstration loss is nan"):
        trainer.gradient("demonstration", StepBatch(tuple(make_rows(len(policy.tokenizer)))))
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"]
    with pytest.raises(DivergedError, match="probe"):
        trainer.demonstration_loss(rows)


def test_a_loss_beyond_the_limit_is_a_divergence(policy: Policy) -> None:
    trainer = make_trainer(policy, make_training(diverged_above_loss=0.01))
    with pytest.raises(DivergedError, match="demonstration loss"):
        trainer.gradient("demonstration", StepBatch(tuple(make_rows(len(policy.tokenizer)))))


# -- what is logged -----------------------------------------------------------------------------


def test_the_cosine_is_that_of_the_two_terms(policy: Policy) -> None:
    rows = make_rows(len(policy.tokenizer))
    trainer = make_trainer(policy, make_training())
    batch = StepBatch(tuple(rows))
    pair = [trainer.gradient(term, batch).gradient.flat[BASE] for term in TERMS]
    expected = float(torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=0))
    assert trainer.scalars["grad_cosine"] == pytest.approx(expected, rel=1e-9)


def test_the_sync_gap_compares_sampler_and_trainer(policy: Policy) -> None:
    row = Row("rollout", PROBLEM, (5, 6), (7, 8), advantage=1.0)
    logprobs = [x.item() for x in row_logprobs(policy.model, row, "rl", 1.0)]
    for shift in (0.0, 0.25):
        drawn = replace(row, sampled_logprobs=tuple(x + shift for x in logprobs))
        trainer = make_trainer(policy, make_training())
        trainer.gradient("rl", StepBatch((drawn,)))
        assert trainer.scalars["sync_logprob_gap"] == pytest.approx(shift, abs=1e-6)


def test_demonstration_loss_is_the_mean_over_tokens(policy: Policy) -> None:
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"]
    with torch.no_grad():
        each = [row_logprobs(policy.model, row, "demonstration", 1.0) for row in rows]
    tokens = [float(x) for logprobs in each for x in logprobs]
    found = make_trainer(policy, make_training()).demonstration_loss(rows)
    assert found == pytest.approx(-sum(tokens) / len(tokens), rel=1e-6)


def test_further_gradients_of_a_term_change_nothing_that_is_logged(
    base: Path, policy: Policy
) -> None:
    reference = disturbed(load_double(base), 0.05)
    trainer = make_trainer(policy, make_training(kl_coef=0.1), reference=reference)
    batch = StepBatch(tuple(make_rows(len(policy.tokenizer))))
    first = trainer.gradient("rl", batch)
    trainer.gradient("demonstration", batch)
    logged = dict(trainer.scalars)
    disturbed(policy, 0.01)
    trainer.gradient("rl", batch)
    trainer.gradient("rl", batch, old_logprobs=first.logprobs, clip=False)
    trainer.gradient("demonstration", batch)
    assert trainer.scalars == logged
    trainer.begin_step()
    trainer.gradient("rl", batch)
    assert trainer.scalars["rl_loss"] != logged["rl_loss"]
