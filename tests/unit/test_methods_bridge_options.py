"""BRIDGE: what each option means, what is refused, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.models.checkpoint import Policy
from bridge.run import loop as run_module
from bridge.run.loop import train_run
from bridge.run.state import Run
from bridge.step.gradients import Gradient
from bridge.step.rows import Phase
from bridge.step.trainer import DivergedError, Trainer
from bridge.step.weights import ADAPTER, BASE, SHADOW
from bridge.store.schema import ConfigError
from tests.fixtures.bridge_steps import batch_of, build, disturb, flat, relative_error, run
from tests.fixtures.tiny_run import (
    TextGrader,
    load_double,
    make_method,
    make_spec,
    make_training,
    read_lines,
)


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


def after(base: Path, name: str = "bridge", **options: Any) -> Trainer:
    """Three steps of a method."""
    trainer = build(load_double(base), name, **options)
    run(trainer, [batch_of(trainer.policy.sampler, seed) for seed in range(3)])
    return trainer


def same(left: Trainer, right: Trainer, groups: tuple[str, ...] = (BASE, ADAPTER)) -> bool:
    return all(torch.equal(flat(left, group), flat(right, group)) for group in groups)


def directions(trainer: Trainer, step: int = 1) -> dict[str, Gradient]:
    """What one step hands to ``descend``, by group."""
    taken: dict[str, Gradient] = {}
    trainer.descend = lambda g, d, phase, **_: taken.update({g: d})  # type: ignore
    trainer.begin_step()
    trainer.method.update(trainer, batch_of(trainer.policy.sampler), step)
    return taken


# -- the shadow ---------------------------------------------------------------------------------


def test_one_step_of_m_is_lookahead(base: Path) -> None:
    one = after(base, beta_ratio=30.0, shadow="m_step", shadow_steps=1)
    lookahead = after(base, beta_ratio=30.0, shadow="lookahead")
    assert same(one, lookahead)
    four = after(base, beta_ratio=30.0, shadow="m_step", shadow_steps=4)
    assert not same(four, lookahead)
    assert four.scalars["shadow_distance"] > lookahead.scalars["shadow_distance"] > 0


def test_without_a_shadow_it_is_bridge_no_gain(base: Path) -> None:
    none = after(base, beta_ratio=30.0, shadow="none")
    assert same(none, after(base, "bridge_no_gain", beta_ratio=30.0))
    assert "teacher_shadow_norm" not in none.scalars and "gain_gradient_norm" not in none.scalars


@pytest.mark.parametrize("mode", ["lookahead", "m_step"])
def test_a_forked_shadow_leaves_nothing_behind(base: Path, mode: str) -> None:
    trainer = after(base, shadow=mode)
    assert trainer.policy.groups == (BASE, ADAPTER)
    assert set(trainer.optimizers) == {"base/main/joint", "adapter/main/joint"}


def test_a_fork_puts_the_base_back_also_after_an_error(policy: Policy) -> None:
    trainer = build(policy, shadow="lookahead")
    disturb(trainer, [ADAPTER])
    before = flat(trainer, BASE)
    merged = [p.detach().clone() for p in trainer.policy.model.parameters()]
    bad = Gradient({BASE: torch.full_like(before, torch.nan)})
    good = trainer.gradient("rl", batch_of(policy)).gradient
    refused = pytest.raises(DivergedError, match="gradient norm of the shadow weights")
    with refused, trainer.forked_shadow(Phase("joint")) as climb:
        climb(good)
        assert not torch.equal(flat(trainer, BASE), before)
        climb(bad)
    assert SHADOW not in trainer.policy.parameters
    assert torch.equal(flat(trainer, BASE), before)
    assert all(
        torch.equal(p, q) for p, q in zip(trainer.policy.model.parameters(), merged, strict=True)
    )


def test_lookahead_is_one_memoryless_adamw_step_from_theta(policy: Policy) -> None:
    """The first bias-corrected step is the gradient over its own size."""
    config = make_training(lr_rl=1e-3, weight_decay=0.1)
    trainer = build(policy, training=config, shadow="lookahead")
    rl = trainer.gradient("rl", batch_of(policy)).gradient
    theta, g = flat(trainer, BASE), rl.flat[BASE]
    with trainer.forked_shadow(Phase("joint"), rate=0.5) as climb:
        climb(rl)
        hat = flat(trainer, BASE)
    g = g * min(1.0, 1.0 / float(g.norm()))
    expected = (1 - 0.5e-3 * 0.1) * theta - 0.5e-3 * g / (g.abs() + 1e-8)
    assert relative_error(hat - theta, expected - theta) < 1e-9


# -- lambda -------------------------------------------------------------------------------------


def test_the_course_of_lambda() -> None:
    ends = {"rl_weight": 0.1, "rl_weight_end": 0.9}
    linear: Any = make_method("bridge", steps=9, anneal="linear", **ends)
    assert [linear.rl_weight(s) for s in (1, 5, 9)] == pytest.approx([0.1, 0.5, 0.9], abs=1e-15)
    assert (linear.rl_weight(1), linear.rl_weight(9)) == (0.1, 0.9)
    stairs: Any = make_method("bridge", steps=9, anneal="per_epoch", anneal_epochs=3, **ends)
    found = [stairs.rl_weight(s) for s in range(1, 10)]
    assert found == pytest.approx([0.1] * 3 + [0.5] * 3 + [0.9] * 3)
    down: Any = make_method("bridge", steps=2, anneal="linear", rl_weight=1.0, rl_weight_end=0.0)
    assert [down.rl_weight(s) for s in (1, 2)] == [1.0, 0.0]
    constant: Any = make_method("bridge", steps=9, rl_weight=0.3)
    assert {constant.rl_weight(s) for s in range(1, 10)} == {0.3}


def test_annealed_lambda_weighs_both_terms_of_its_step(policy: Policy) -> None:
    options = {"anneal": "linear", "rl_weight": 0.2, "rl_weight_end": 0.6}
    trainer = build(policy, **options)  # 3 steps: 0.2, 0.4, 0.6
    rl, sft = (trainer.gradient(t, batch_of(policy)).gradient for t in ("rl", "demonstration"))
    taken = directions(trainer, step=2)
    assert relative_error(taken[BASE].flat[BASE], (0.6 * sft + 0.4 * rl).flat[BASE]) < 1e-12
    assert relative_error(taken[ADAPTER].flat[ADAPTER], 0.6 * sft.flat[ADAPTER]) < 1e-12
    assert trainer.scalars["rl_weight"] == pytest.approx(0.4)


# -- rates and the reference --------------------------------------------------------------------


def test_the_sft_rate_is_the_students_alone(base: Path) -> None:
    trainers = [build(load_double(base), sft_rate_ratio=ratio) for ratio in (1.0, 3.0)]
    sft = trainers[0].gradient("demonstration", batch_of(trainers[0].policy.sampler)).gradient
    plain, fast = (directions(trainer) for trainer in trainers)
    extra = fast[BASE].flat[BASE] - plain[BASE].flat[BASE]
    assert relative_error(extra, 2.0 * 0.5 * sft.flat[BASE]) < 1e-12
    assert torch.equal(fast[ADAPTER].flat[ADAPTER], plain[ADAPTER].flat[ADAPTER])


def test_the_reference_is_anchored_anew_every_k_steps() -> None:
    training = make_training(kl_coef=0.1)
    method = make_method("bridge", training, steps=7, reference_every=3)
    assert [s for s in range(1, 8) if method.reanchor_reference(s)] == [4, 7]
    never = make_method("bridge", training, steps=7)
    assert not any(never.reanchor_reference(s) for s in range(1, 8))


# -- the upper level ----------------------------------------------------------------------------


def test_a_full_upper_level_has_the_gradient_of_the_base(policy: Policy) -> None:
    trainer = build(policy, upper="full")
    assert trainer.policy.adapter_norm() == 0.0
    disturb(trainer, [ADAPTER])
    w = flat(trainer, ADAPTER)
    assert trainer.policy.adapter_norm() == pytest.approx(float(w.norm()))
    merged = torch.cat([p.detach().reshape(-1) for p in trainer.policy.model.parameters()])
    assert torch.equal(merged, flat(trainer, BASE) + w)
    found = trainer.gradient("rl", batch_of(policy)).gradient
    assert float(found.flat[BASE].norm()) > 0
    assert torch.equal(found.flat[ADAPTER], found.flat[BASE])


def test_the_base_as_upper_level_keeps_two_optimiser_states(base: Path) -> None:
    trainer = after(base, upper="base", training=make_training(weight_decay=0.1))
    assert trainer.policy.groups == (BASE, SHADOW)
    states = {n: o.param_groups[0]["weight_decay"] for n, o in trainer.optimizers.items()}
    assert states == {"base/main/joint": 0.1, "base/teacher/joint": 0.0, "shadow/main/joint": 0.1}
    assert trainer.scalars["teacher_grad_norm"] > 0


def test_full_and_base_upper_levels_of_sgd_are_one(base: Path, monkeypatch: Any) -> None:
    """Under plain SGD theta + w moves as the one set of weights does: the split is in name only."""
    monkeypatch.setattr(
        Trainer,
        "_new_optimizer",
        lambda self, group, phase: torch.optim.SGD(self.policy.parameters[group]),
    )
    full = after(base, upper="full", shadow="none", beta_ratio=2.0)
    one = after(base, upper="base", shadow="none", beta_ratio=2.0)
    start = torch.cat([p.reshape(-1) for p in load_double(base).model.parameters()]).detach()
    moved = flat(full, BASE) + flat(full, ADAPTER) - start
    assert relative_error(moved, flat(one, BASE) - start) < 1e-10


# -- the readings of "without the gain" ---------------------------------------------------------


def test_fixed_is_mixing_bit_for_bit_and_keeps_w_at_zero(base: Path) -> None:
    fixed = after(base, "bridge_no_gain", reading="fixed", beta_ratio=30.0)
    assert same(fixed, after(base, "mixing"), (BASE,))
    assert fixed.policy.adapter_norm() == 0.0
    assert after(base, "bridge_no_gain", beta_ratio=30.0).policy.adapter_norm() > 0.0


def test_sft_only_leaves_rl_out_of_the_teacher(policy: Policy) -> None:
    trainer = build(policy, "bridge_no_gain", reading="sft_only", rl_weight=0.3)
    disturb(trainer, [ADAPTER])
    sft = trainer.gradient("demonstration", batch_of(policy)).gradient
    taken = directions(trainer)
    assert relative_error(taken[ADAPTER].flat[ADAPTER], 0.7 * sft.flat[ADAPTER]) < 1e-12


# -- refusals -----------------------------------------------------------------------------------

IMPOSSIBLE: dict[str, tuple[str, dict[str, Any]]] = {
    "no end": ("anneal and rl_weight_end", {"anneal": "linear"}),
    "no course": ("anneal and rl_weight_end", {"rl_weight_end": 0.9}),
    "no stairs": ("anneal_epochs", {"anneal": "per_epoch", "rl_weight_end": 0.9}),
    "stairs of a line": (
        "anneal_epochs",
        {"anneal": "linear", "rl_weight_end": 0.9, "anneal_epochs": 2},
    ),
    "too many stairs": (
        "above steps",
        {"anneal": "per_epoch", "rl_weight_end": 0.9, "anneal_epochs": 4},
    ),
    "steps of nothing": ("shadow_steps", {"shadow_steps": 2}),
    "own of a fork": ("shadow_rollouts: own", {"shadow": "lookahead", "shadow_rollouts": "own"}),
    "own of none": ("shadow_rollouts: own", {"shadow": "none", "shadow_rollouts": "own"}),
    "ratio of own": ("shadow_ratio", {"shadow_rollouts": "own", "shadow_ratio": "none"}),
    "ratio of none": ("shadow: none", {"shadow": "none", "shadow_ratio": "unclipped"}),
    "rate of none": ("shadow: none", {"shadow": "none", "shadow_rate_ratio": 2.0}),
    "no reference": ("kl_coef", {"reference_every": 5}),
    "rank of full": ("upper: lora", {"upper": "full", "rank": 4}),
    "alpha of base": ("upper: lora", {"upper": "base", "alpha": 4}),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_combinations_are_refused_in_one_sentence(case: str) -> None:
    part, options = IMPOSSIBLE[case]
    with pytest.raises(ConfigError) as error:
        make_method("bridge", **options).check("suites/x.yaml: methods.y")
    text = str(error.value)
    assert text.startswith("suites/x.yaml: methods.y: options: ") and text.endswith(".")
    assert part in text and "\n" not in text


def test_a_fixed_teacher_takes_no_other_upper_level() -> None:
    make_method("bridge_no_gain", reading="fixed").check("here")
    with pytest.raises(ConfigError, match=r"^here: options: reading: fixed .*\.$"):
        make_method("bridge_no_gain", reading="fixed", upper="full").check("here")


# -- resuming -----------------------------------------------------------------------------------

RESUMED: dict[str, dict[str, Any]] = {
    "lookahead": {"shadow": "lookahead"},
    "m_step": {"shadow": "m_step", "shadow_steps": 3},
    "own": {"shadow_rollouts": "own"},
    "gauss_seidel": {"update_order": "gauss_seidel"},
    "full": {"upper": "full"},
    "base": {"upper": "base"},
    "annealed": {"anneal": "linear", "rl_weight": 0.1, "rl_weight_end": 0.9, "reference_every": 2},
}


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("mode", RESUMED)
def test_l_a_killed_run_ends_with_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(run_module, "GraderPool", TextGrader)
    options = {"steps": 4, "beta_ratio": 30.0, **RESUMED[mode]}
    spec = make_spec(base, "bridge", options=options, kl_coef=0.01)

    def end(results: Path) -> tuple[bytes, bytes]:
        assert train_run(spec, results=results, threads=1) == "done"
        folder = spec.folder(results)
        weights = (folder.policy / "model.safetensors").read_bytes()
        return folder.dynamics.read_bytes(), weights

    expected = end(tmp_path / "straight")
    original = Run.step

    def dying(self: Run) -> dict[str, Any]:
        if self.counters.step == 3:
            raise Killed
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", dying)
        with pytest.raises(Killed):
            train_run(spec, results=tmp_path / "killed", threads=1)
    assert end(tmp_path / "killed") == expected
    lines = read_lines(spec.folder(tmp_path / "killed").dynamics)
    forked = mode in ("lookahead", "m_step")
    assert all((line["shadow_distance"] > 0) for line in lines[2:] if forked)
    assert ("adapter_norm" in lines[-1]) == (mode != "base")
