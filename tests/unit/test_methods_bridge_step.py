"""Whole steps of BRIDGE, in every mode, against its equations written out in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from bridge.engines.factors import LoraWeights
from bridge.step.batches import StepBatch
from bridge.step.gradients import Gradient
from bridge.step.rows import Phase, Row
from bridge.step.trainer import Trainer
from bridge.step.weights import ADAPTER, BASE, SHADOW, plain_name
from tests.fixtures.bridge_steps import (
    SCALE,
    batch_of,
    build,
    disturb,
    flat,
    only,
    relative_error,
    run,
)
from tests.fixtures.tiny_run import load_double, make_training

Weights = dict[str, Tensor]
Parts = tuple[list[Tensor], list[Tensor]]
"""Gradient with respect to the dense weights in use, and to w."""


class Adam:
    """Adam with clipping by the whole norm, ascending."""

    def __init__(self, config: Any, rate: float) -> None:
        self.config, self.rate, self.t = config, rate, 0
        self.m: list[Tensor] = []
        self.v: list[Tensor] = []

    def ascend(self, weights: Sequence[Tensor], direction: Sequence[Tensor]) -> None:
        norm = torch.sqrt(sum(((d**2).sum() for d in direction), torch.zeros(())))
        direction = [min(1.0, self.config.max_grad_norm / float(norm)) * d for d in direction]
        if self.t == 0:
            self.m = [torch.zeros_like(d) for d in direction]
            self.v = [torch.zeros_like(d) for d in direction]
        self.t += 1
        one, two = self.config.adam_beta1, self.config.adam_beta2
        self.m = [one * m + (1 - one) * d for m, d in zip(self.m, direction, strict=True)]
        self.v = [two * v + (1 - two) * d * d for v, d in zip(self.v, direction, strict=True)]
        with torch.no_grad():
            for weight, m, v in zip(weights, self.m, self.v, strict=True):
                size = (v / (1 - two**self.t)).sqrt() + 1e-8
                weight += self.rate * (m / (1 - one**self.t)) / size


def add_factors(weights: Weights, factors: Weights, scale: float) -> None:
    """Add s B A to the weights that it belongs to."""
    for name, down in factors.items():
        if ".lora_A" in name:
            layer = f"{name.split('.lora_A')[0]}.weight"
            up = factors[name.replace("lora_A", "lora_B")]
            weights[layer] = weights[layer] + scale * (up @ down)


class WrittenOut:
    """Equations 7 to 9 on explicit weights theta + w, by autograd, one row at a time.

    Nothing of the trainer is used: no merging, no swap, no fork, no flat gradients, no shared
    forward pass, and another optimiser.
    """

    def __init__(self, trainer: Trainer, options: dict[str, Any]) -> None:
        held = trainer.policy
        self.model, self.config = held.sampler.model, trainer.training
        self.options: Any = trainer.method.options
        lora = isinstance(held, LoraWeights)
        self.frozen: Weights = dict(load_double(held.sampler.folder).model.named_parameters())
        self.frozen = {n: p.detach() for n, p in self.frozen.items()} if lora else {}
        self.theta = self._copy(trainer, BASE)
        self.w = self._copy(trainer, ADAPTER)
        self.hat = self._copy(trainer, SHADOW) if SHADOW in held.parameters else {}
        rate = self.config.lr_rl
        self.student_adam = Adam(self.config, rate)
        self.teacher_adam = Adam(self.config, rate * options.get("beta_ratio", 1.0))
        self.shadow_rate = rate * options.get("shadow_rate_ratio", 1.0)
        self.shadow_adam = Adam(self.config, self.shadow_rate)

    @staticmethod
    def _copy(trainer: Trainer, group: str) -> Weights:
        pairs = zip(trainer.policy.names[group], trainer.policy.parameters[group], strict=True)
        return {plain_name(n): p.detach().clone().requires_grad_() for n, p in pairs}

    def effective(self, dense: Weights) -> Weights:
        out = dict(self.frozen or dense)
        if self.options.upper == "full":
            out |= {name: dense[name] + part for name, part in self.w.items()}
        else:
            add_factors(out, self.w, SCALE)
        if self.frozen:
            add_factors(out, dense, THETA_SCALE)
        if "lm_head.weight" not in out:
            out["lm_head.weight"] = out["model.embed_tokens.weight"]
        return out

    def logprobs(self, dense: Weights, row: Row) -> Tensor:
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        logits = functional_call(
            self.model, self.effective(dense), (), {"input_ids": ids}, tie_weights=False
        ).logits[0]
        start = len(row.prompt_ids)
        chosen = logits[start - 1 : -1].log_softmax(-1)
        return chosen[torch.arange(len(row.response_ids)), torch.tensor(row.response_ids)]

    def behaviour(self, dense: Weights, rows: Sequence[Row]) -> list[Tensor]:
        with torch.no_grad():
            return [self.logprobs(dense, row) for row in rows]

    def parts(self, dense: Weights, objective: Callable[[Weights], Tensor]) -> Parts:
        w = self.w or dense
        found = torch.autograd.grad(objective(dense), [*dense.values(), *w.values()])
        return list(found[: len(dense)]), list(found[len(dense) :])

    def sft(self, rows: Sequence[Row]) -> Parts:
        n = sum(len(r.response_ids) for r in rows)
        return self.parts(
            self.theta,
            lambda d: sum((self.logprobs(d, r).sum() for r in rows), torch.zeros(())) / n,
        )

    def rl(
        self, dense: Weights, rows: Sequence[Row], old: Sequence[Tensor], ratio: str = "clipped"
    ) -> Parts:
        n = sum(len(r.response_ids) for r in rows)
        low, high = 1 - self.config.clip_ratio_low, 1 + self.config.clip_ratio_high

        def objective(dense: Weights) -> Tensor:
            total = torch.zeros(())
            for row, before in zip(rows, old, strict=True):
                now = self.logprobs(dense, row)
                rho, a = (now - (now.detach() if ratio == "none" else before)).exp(), row.advantage
                if ratio == "clipped":
                    total = total + torch.minimum(rho * a, rho.clamp(low, high) * a).sum()
                else:
                    total = total + (rho * a).sum()
            return total / n

        return self.parts(dense, objective)

    def step(self, batch: StepBatch) -> None:
        chosen, share = self.options, self.options.rl_weight
        rollouts, taught = only(batch, "rollout"), only(batch, "demonstration")
        old = self.behaviour(self.theta, rollouts)
        sft, rl = self.sft(taught), self.rl(self.theta, rollouts, old)
        student = [
            chosen.sft_rate_ratio * (1 - share) * s + share * r
            for s, r in zip(sft[0], rl[0], strict=True)
        ]
        jacobi = chosen.update_order == "jacobi"
        if not jacobi:
            self.student_adam.ascend(list(self.theta.values()), student)
            sft, rl = self.sft(taught), self.rl(self.theta, rollouts, old)

        shadow: Parts | None = None
        hat = self.hat
        if chosen.shadow == "persistent":
            if batch.shadow is not None:
                rollouts = only(batch.shadow, "rollout")
                old = self.behaviour(hat, rollouts)
            shadow = self.rl(hat, rollouts, old, chosen.shadow_ratio)
            if not jacobi:
                self.shadow_adam.ascend(list(hat.values()), shadow[0])
        elif chosen.shadow != "none":
            hat = {n: p.detach().clone().requires_grad_() for n, p in self.theta.items()}
            adam = Adam(self.config, self.shadow_rate)  # without a memory of earlier iterations
            for _ in range(chosen.shadow_steps):
                adam.ascend(list(hat.values()), self.rl(hat, rollouts, old, chosen.shadow_ratio)[0])
        if chosen.shadow != "none" and (chosen.shadow != "persistent" or not jacobi):
            at_new = self.rl(hat, rollouts, old, chosen.shadow_ratio)
            shadow = at_new if shadow is None else (shadow[0], at_new[1])

        gain = rl[1] if shadow is None else [r - h for r, h in zip(rl[1], shadow[1], strict=True)]
        teacher = [(1 - share) * s + share * g for s, g in zip(sft[1], gain, strict=True)]
        if jacobi:
            self.student_adam.ascend(list(self.theta.values()), student)
        self.teacher_adam.ascend(list((self.w or self.theta).values()), teacher)
        if jacobi and chosen.shadow == "persistent":
            assert shadow is not None
            self.shadow_adam.ascend(list(hat.values()), shadow[0])
        self.directions = {"student": student, "teacher": teacher}


FACTORS = {"trainable": "lora"}
"""Theta and theta-hat are factors on frozen weights, and w further ones."""
THETA_SCALE = 0.5
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "lambda": {"rl_weight": 0.3},
    "lookahead": {"shadow": "lookahead"},
    "m_step": {"shadow": "m_step", "shadow_steps": 3},
    "none": {"shadow": "none"},
    "gauss_seidel": {"update_order": "gauss_seidel"},
    "gauss_seidel_lookahead": {"update_order": "gauss_seidel", "shadow": "lookahead"},
    "own_rollouts": {"shadow_rollouts": "own"},
    "own_rollouts_gauss_seidel": {"shadow_rollouts": "own", "update_order": "gauss_seidel"},
    "unclipped": {"shadow_ratio": "unclipped"},
    "no_ratio": {"shadow_ratio": "none"},
    "rates": {"sft_rate_ratio": 3.0, "shadow_rate_ratio": 0.5},
    "upper_full": {"upper": "full"},
    "upper_base": {"upper": "base"},
    "upper_base_lookahead": {"upper": "base", "shadow": "lookahead"},
    "factors": FACTORS,
    "factors_lookahead": {**FACTORS, "shadow": "lookahead"},
    "factors_gauss_seidel": {**FACTORS, "update_order": "gauss_seidel"},
    "factors_own_rollouts": {**FACTORS, "shadow_rollouts": "own"},
    "factors_upper_base": {**FACTORS, "upper": "base"},
}


@pytest.mark.parametrize("mode", MODES)
def test_two_steps_equal_the_written_equations(base: Path, mode: str) -> None:
    options = {"beta_ratio": 7.0, **MODES[mode]}
    settings: dict[str, Any] = {"lr_rl": 1e-3, "max_grad_norm": 0.5}
    settings |= {"clip_ratio_low": 0.01, "clip_ratio_high": 0.01}
    if options.pop("trainable", "full") == "lora":
        settings |= {"trainable": "lora", "lora_rank": 4, "lora_alpha": 2}
    config = make_training(**settings)
    trainer = build(load_double(base), training=config, **options)
    for seed, group in enumerate((BASE, ADAPTER, SHADOW)):
        disturb(trainer, [group] if group in trainer.policy.groups else [], seed=seed)
    groups = trainer.policy.groups
    before = {group: flat(trainer, group) for group in groups}
    written = WrittenOut(trainer, options)
    taken: dict[str, Gradient] = {}
    descend = trainer.descend

    def recorded(group: str, direction: Gradient, phase: Phase, **rate: Any) -> None:
        name = "student" if group == BASE and phase.stage == "main" else "teacher"
        if group != SHADOW:
            # A copy: where it is clipped, that is done in its own memory.
            taken[name] = Gradient({g: v.clone() for g, v in direction.flat.items()})
        descend(group, direction, phase, **rate)

    trainer.descend = recorded  # type: ignore[method-assign]
    for seed in range(2):  # the second step tells which optimisers remember
        batch = batch_of(trainer.policy.sampler, seed)
        if options.get("shadow_rollouts") == "own":
            theirs = only(batch_of(trainer.policy.sampler, 7 + seed), "rollout")
            batch = replace(batch, shadow=StepBatch(tuple(theirs)))
        run(trainer, [batch])
        written.step(batch)
        for name, direction in written.directions.items():
            part = ADAPTER if name == "teacher" and ADAPTER in groups else BASE
            expected = -torch.cat([d.reshape(-1) for d in direction])
            assert relative_error(taken[name].flat[part], expected) < 1e-9
    clipped = trainer.scalars.get("shadow_clip_share")
    off_policy = not {"own_rollouts", "unclipped", "no_ratio", "none"} & {
        mode.removeprefix("factors_")
    }
    assert clipped is None if mode == "none" else (0 < clipped < 1) == off_policy
    for group, weights in ((BASE, written.theta), (ADAPTER, written.w), (SHADOW, written.hat)):
        assert bool(weights) == (group in groups)
        if weights:
            end = torch.cat([p.detach().reshape(-1) for p in weights.values()])
            moved = end - before[group]
            assert relative_error(flat(trainer, group) - before[group], moved) < 1e-7, group
