"""BRIDGE: the invariants a to l of its update rules (f: ``test_methods_bridge_bandit.py``)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge.models.checkpoint import Policy
from bridge.step.batches import StepBatch
from bridge.step.gradients import Gradient
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Row
from bridge.step.trainer import TermResult, Trainer
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
from tests.fixtures.tiny_run import PROBLEM, load_double, make_method, make_training


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


# -- a: the two ends of lambda ------------------------------------------------------------------


def test_a_lambda_one_keeps_shadow_and_student_equal_and_the_teacher_still(policy: Policy) -> None:
    trainer = build(policy, rl_weight=1.0, beta_ratio=30.0)
    teacher, student = flat(trainer, ADAPTER), flat(trainer, BASE)
    run(trainer, [batch_of(policy, seed) for seed in range(4)])
    assert torch.equal(flat(trainer, BASE), flat(trainer, SHADOW))
    assert torch.equal(flat(trainer, ADAPTER), teacher)
    assert not torch.equal(flat(trainer, BASE), student)


def test_a_lambda_zero_is_sft_for_student_and_teacher(base: Path) -> None:
    trainer = build(load_double(base), rl_weight=0.0)
    batches = [batch_of(trainer.policy.sampler, seed) for seed in range(3)]
    run(trainer, batches)
    other = build(load_double(base), rl_weight=0.0)
    for step, batch in enumerate(batches, 1):
        other.begin_step()
        sft = other.gradient("demonstration", batch).gradient
        phase = other.method.phase(step)
        other.descend(BASE, sft, phase)
        other.descend(ADAPTER, sft, phase)
    assert torch.equal(flat(trainer, BASE), flat(other, BASE))
    assert torch.equal(flat(trainer, ADAPTER), flat(other, ADAPTER))


def test_a_lambda_zero_is_pure_rl_for_the_shadow(base: Path) -> None:
    trainer = build(load_double(base), rl_weight=0.0, beta_ratio=0.0)
    batches = [batch_of(trainer.policy.sampler, seed) for seed in range(3)]
    behaviour: list[dict[int, Tensor]] = []
    for step, batch in enumerate(batches, 1):
        trainer.begin_step()
        behaviour.append(trainer.gradient("rl", batch).logprobs)
        trainer.method.update(trainer, batch, step)
    other = build(load_double(base), "rl_zero")
    for step, (batch, old) in enumerate(zip(batches, behaviour, strict=True), 1):
        rl = other.gradient("rl", batch, old_logprobs=old).gradient
        other.descend(BASE, rl, other.method.phase(step))
    assert torch.equal(flat(trainer, SHADOW), flat(other, BASE))


# -- b, c: the first step -----------------------------------------------------------------------


def test_b_the_gain_gradient_is_exactly_zero_at_the_first_step(policy: Policy) -> None:
    trainer = build(policy)
    disturb(trainer, [ADAPTER])
    run(trainer, [batch_of(policy)])
    assert trainer.scalars["teacher_rl_norm"] > 0
    assert trainer.scalars["gain_gradient_norm"] == 0.0
    run(trainer, [batch_of(policy, 1)])
    assert trainer.scalars["gain_gradient_norm"] > 0


def test_b_the_first_teacher_step_is_that_of_sft_scaled(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(policy, rl_weight=0.3)
    batch = batch_of(policy)
    sft = trainer.gradient("demonstration", batch).gradient.flat[ADAPTER]
    taken: dict[str, Gradient] = {}
    monkeypatch.setattr(trainer, "descend", lambda g, d, phase, **_: taken.update({g: d}))
    run(trainer, [batch])
    assert torch.allclose(taken[ADAPTER].flat[ADAPTER], 0.7 * sft, rtol=1e-12, atol=0)


def test_c_with_b_at_zero_a_gets_no_gradient(policy: Policy) -> None:
    trainer = build(policy)
    for term in ("rl", "demonstration"):
        gradient = trainer.gradient(term, batch_of(policy)).gradient.flat[ADAPTER]
        position = 0
        seen = {"lora_A": 0.0, "lora_B": 0.0}
        for name, p in zip(
            trainer.policy.names[ADAPTER], trainer.policy.parameters[ADAPTER], strict=True
        ):
            part = gradient[position : position + p.numel()]
            seen["lora_A" if "lora_A" in name else "lora_B"] += float(part.abs().sum())
            position += p.numel()
        assert seen["lora_A"] == 0.0 and seen["lora_B"] > 0.0


# -- d, e: the adapter --------------------------------------------------------------------------


def peft_logits(trainer: Trainer, ids: Tensor) -> Tensor:
    """Logits of peft's own forward pass: dense and low-rank product apart, nothing merged."""
    assert trainer.policy._peft is not None
    logits: Tensor = trainer.policy._peft(input_ids=ids, use_cache=False).logits
    return logits


@pytest.mark.parametrize("term", ["rl", "demonstration"])
def test_d_the_chain_rule_equals_autograd_through_peft(policy: Policy, term: Any) -> None:
    trainer = build(policy)
    disturb(trainer, [BASE, ADAPTER])
    # Every row has the same length, so one tensor holds them all.
    rows = [
        Row(kind, PROBLEM, (5, 6 + i, 7), (8 + i, 9, 10), advantage=1.0 - i)
        for i in range(4)
        for kind in ("rollout", "demonstration")
    ]
    rows = [replace(r, sampled_logprobs=(0.0,) * 3) if r.kind == "rollout" else r for r in rows]
    found = trainer.gradient(term, StepBatch(tuple(rows))).gradient
    chosen = [r for r in rows if (r.kind == "rollout") == (term == "rl")]
    ids = torch.tensor([[*r.prompt_ids, *r.response_ids] for r in chosen])
    logprob = peft_logits(trainer, ids)[:, 2:-1].log_softmax(-1)
    logprob = logprob.gather(-1, ids[:, 3:, None]).squeeze(-1)
    weight = torch.tensor([[r.advantage if term == "rl" else 1.0] for r in chosen]).double()
    loss = -(weight * logprob).sum() / logprob.numel()
    for group in (BASE, ADAPTER):
        parts = torch.autograd.grad(loss, trainer.policy.parameters[group], retain_graph=True)
        expected = torch.cat([p.reshape(-1) for p in parts])
        assert relative_error(found.flat[group], expected) < 1e-10


def test_d_the_chain_rule_is_exact_for_a_given_dense_gradient(policy: Policy) -> None:
    trainer = build(policy)
    disturb(trainer, [BASE, ADAPTER])
    plain = trainer.policy.model
    generator = torch.Generator().manual_seed(0)
    for p in plain.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    dense = {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}
    found = trainer.policy.take_gradient()[ADAPTER]
    # <dJ/dW, s B A> as a function of A and B, differentiated by autograd.
    held = dict(zip(trainer.policy.names[ADAPTER], trainer.policy.parameters[ADAPTER], strict=True))
    total = torch.zeros((), dtype=torch.float64)
    for name, down in held.items():
        if "lora_A" in name:
            up = held[name.replace("lora_A", "lora_B")]
            layer = plain_name(name.split(".lora_A")[0])
            total = total + (dense[f"{layer}.weight"] * (SCALE * up @ down)).sum()
    parts = torch.autograd.grad(total, list(held.values()))
    assert relative_error(found, torch.cat([p.reshape(-1) for p in parts])) < 1e-12
    assert all(p.grad is None for p in plain.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_e_merged_logits_are_the_unmerged_ones(
    policy: Policy, dtype: torch.dtype, tolerance: float
) -> None:
    policy.model.to(dtype)
    trainer = build(policy)
    disturb(trainer, [BASE, ADAPTER])
    ids = torch.randint(5, 30, (3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        merged = trainer.policy.model(input_ids=ids).logits
        unmerged = peft_logits(trainer, ids)
    assert float((merged - unmerged).abs().max()) < tolerance * float(unmerged.abs().max())


def test_every_linear_layer_but_the_output_is_adapted(policy: Policy) -> None:
    trainer = build(policy)
    adapted = {plain_name(n.split(".lora_A")[0]) for n in trainer.policy.names[ADAPTER]}
    linear = {n for n, m in policy.model.named_modules() if isinstance(m, nn.Linear)}
    assert adapted - {""} >= linear - {"lm_head"}
    assert all(p.requires_grad for p in trainer.policy.parameters[BASE])


# -- g: rewards ---------------------------------------------------------------------------------


def test_g_an_affine_map_of_the_rewards_changes_nothing() -> None:
    rewards = [0.0, 1.0, 1.0, 0.0, 0.0]
    mapped = [2.0 * r - 1.0 for r in rewards]
    training = make_training(norm_adv_by_std_in_grpo=True)
    method = make_method("bridge", training)
    rows = tuple(Row("rollout", PROBLEM, (5,), (6,), reward=r) for r in rewards)
    shifted = tuple(replace(row, reward=r) for row, r in zip(rows, mapped, strict=True))
    found = method.advantage(Group(PROBLEM, shifted))
    assert found == pytest.approx(method.advantage(Group(PROBLEM, rows)), rel=1e-5)
    assert found == pytest.approx(group_advantages(rewards, norm_by_std=True), rel=1e-5)


# -- h: the sign of equation 9 ------------------------------------------------------------------


def test_h_the_shadow_climbs_the_rl_objective(policy: Policy) -> None:
    """Printed with a minus, equation 9 would make rewarded answers less likely."""
    trainer = build(policy, training=make_training(lr_rl=1e-3))
    good = Row("rollout", PROBLEM, (5, 6), (7, 8, 9), advantage=1.0, sampled_logprobs=(0.0,) * 3)
    bad = replace(good, response_ids=(9, 8, 7), advantage=-1.0)
    demonstration = Row("demonstration", PROBLEM, (5, 6), (9, 8, 7))

    def margin_of_shadow() -> float:
        with trainer.shadow_active():
            scored = trainer.gradient("rl", StepBatch((good, bad))).logprobs
        return float(scored[0].sum() - scored[1].sum())

    before = margin_of_shadow()
    run(trainer, [StepBatch((good, bad, demonstration))] * 3)
    assert margin_of_shadow() > before + 0.01


# -- i: mixing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rl_weight", [0.3, 0.5])
def test_i_without_a_teacher_rate_it_is_mixing(base: Path, rl_weight: float) -> None:
    trainers = [
        build(load_double(base), "bridge", rl_weight=rl_weight, beta_ratio=0.0),
        build(load_double(base), "bridge_no_gain", rl_weight=rl_weight, beta_ratio=0.0),
        build(load_double(base), "mixing", rl_weight=rl_weight),
    ]
    for trainer in trainers:
        run(trainer, [batch_of(trainer.policy.sampler, seed) for seed in range(3)])
    expected = flat(trainers[-1], BASE)
    for trainer in trainers[:-1]:
        assert torch.equal(flat(trainer, BASE), expected)


def test_the_ablation_removes_the_shadow_term_and_nothing_else(base: Path) -> None:
    taken: list[dict[str, Gradient]] = []
    at_shadow: list[Tensor] = []
    for name in ("bridge", "bridge_no_gain"):
        trainer = build(load_double(base), name)
        disturb(trainer, [ADAPTER])
        if name == "bridge":
            disturb(trainer, [SHADOW], seed=9)
        got: dict[str, Gradient] = {}
        taken.append(got)
        trainer.descend = lambda g, d, phase, got=got, **_: got.update({g: d})  # type: ignore
        if name == "bridge":
            take = trainer.gradient

            def keep(*term: Any, take: Any = take, **named: Any) -> TermResult:
                found: TermResult = take(*term, **named)
                if named.get("old_logprobs") is not None:
                    at_shadow.append(found.gradient.flat[ADAPTER])
                return found

            trainer.gradient = keep  # type: ignore[method-assign]
        run(trainer, [batch_of(trainer.policy.sampler)])
    full, ablated = taken
    assert torch.equal(full[BASE].flat[BASE], ablated[BASE].flat[BASE])
    shadow_term = ablated[ADAPTER].flat[ADAPTER] - full[ADAPTER].flat[ADAPTER]
    assert relative_error(shadow_term, 0.5 * at_shadow[0]) < 1e-9
    assert set(ablated) == {BASE, ADAPTER}


# -- j, k: what depends on what -----------------------------------------------------------------


def test_j_the_shadow_never_sees_a_demonstration(base: Path) -> None:
    ends = []
    for seed in (1, 2):
        trainer = build(load_double(base))
        disturb(trainer, [SHADOW, ADAPTER])
        rollouts = only(batch_of(trainer.policy.sampler, 0), "rollout")
        taught = only(batch_of(trainer.policy.sampler, seed), "demonstration")
        run(trainer, [StepBatch((*rollouts, *taught))])
        ends.append((flat(trainer, SHADOW), flat(trainer, BASE)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1], ends[1][1])


def test_k_the_order_of_the_three_updates_does_not_matter(base: Path) -> None:
    ends = []
    for order in itertools.permutations((BASE, ADAPTER, SHADOW)):
        trainer = build(load_double(base), beta_ratio=20.0)
        for seed in range(2):
            queue: dict[str, Any] = {}
            descend = trainer.descend
            trainer.descend = lambda g, *a, q=queue, **k: q.update({g: (a, k)})  # type: ignore
            run(trainer, [batch_of(trainer.policy.sampler, seed)])
            trainer.descend = descend  # type: ignore[method-assign]
            for group in order:
                arguments, keywords = queue[group]
                trainer.descend(group, *arguments, **keywords)
        ends.append(torch.cat([flat(trainer, g) for g in (BASE, ADAPTER, SHADOW)]))
    assert all(torch.equal(end, ends[0]) for end in ends[1:])


def test_all_three_directions_are_taken_before_any_update(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(policy)
    calls: list[str] = []
    gradient, descend = trainer.gradient, trainer.descend
    monkeypatch.setattr(
        trainer, "gradient", lambda *a, **k: (calls.append("gradient"), gradient(*a, **k))[1]
    )
    monkeypatch.setattr(
        trainer, "descend", lambda *a, **k: (calls.append("descend"), descend(*a, **k))[1]
    )
    run(trainer, [batch_of(policy)])
    assert calls == ["gradient"] * 3 + ["descend"] * 3


# -- l: micro-batches ---------------------------------------------------------------------------


def test_l_the_micro_batch_split_changes_no_update(base: Path) -> None:
    ends = []
    for rows in (1, 3, 1000):
        trainer = build(load_double(base), training=make_training(micro_batch_rows=rows))
        disturb(trainer, [SHADOW, ADAPTER])
        run(trainer, [batch_of(trainer.policy.sampler)])
        ends.append(torch.cat([flat(trainer, g) for g in (BASE, ADAPTER, SHADOW)]))
    for end in ends[1:]:
        # Adam divides by the gradient's size, so its rounding shows where a gradient is tiny.
        assert relative_error(end, ends[0]) < 1e-8


# -- the shadow's swap --------------------------------------------------------------------------


def test_the_swap_puts_everything_back_also_after_an_error(policy: Policy) -> None:
    trainer = build(policy)
    disturb(trainer, [SHADOW, ADAPTER])
    before = {g: flat(trainer, g) for g in (BASE, ADAPTER, SHADOW)}
    merged = [p.detach().clone() for p in trainer.policy.model.parameters()]
    with pytest.raises(ZeroDivisionError), trainer.shadow_active():
        assert torch.equal(flat(trainer, BASE), before[SHADOW])
        trainer.gradient("rl", batch_of(policy))
        raise ZeroDivisionError
    assert all(torch.equal(flat(trainer, g), v) for g, v in before.items())
    assert all(
        torch.equal(p, q) for p, q in zip(trainer.policy.model.parameters(), merged, strict=True)
    )
