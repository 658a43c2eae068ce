"""SASR: the gate's closed forms, what it reads and keeps, and its random switch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bridge.methods.sasr import SASR
from bridge.run.loop import train_run
from bridge.run.state import Run
from bridge.step.rows import Phase
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import curve, same_weights, train
from tests.fixtures.tiny_run import (
    make_options,
    make_spec,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")

WARMUP, SFT, RL = Phase("sft", "warmup"), Phase("sft"), Phase("rl")


def make_sasr(*norms: float, seed: int = 0, **options: Any) -> SASR:
    """The method after warm-up steps with these gradient norms."""
    options = {"warmup_steps": 3, "steps": 4000, **options}
    method = SASR(SASR.Options(**options), make_training(), seed)
    for norm in norms or (5.0, 3.0, 2.0):
        method.observe(WARMUP, norm)
    return method


def kinds(method: SASR) -> list[str]:
    return [method.phase(step).kind for step in range(4, method.n_steps + 1)]


# -- the gate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("gate", ["ratio_warmup", "ratio_grpo_norm"])
def test_the_first_probability_after_the_warm_up_does_not_depend_on_the_norm(
    gate: str, gamma: float
) -> None:
    for norm in (1e-3, 2.0, 700.0):
        method = make_sasr(norm, gate=gate, gamma=gamma)
        assert method.sft_probability(4) == pytest.approx(1 / (1 + gamma), rel=1e-12)


def test_each_form_of_the_gate_by_hand() -> None:
    # G_warmup = 2, then an RL step of norm 5 and an SFT step of norm 1.
    expected = {
        "ratio_warmup": 1 / (1 + 3 * 2),
        "ratio_grpo_norm": 1 / (1 + 3 * 5),
        "sigmoid_ratio": 1 / (1 + math.exp(-1 / 2)),
    }
    for gate, p in expected.items():
        method = make_sasr(gate=gate, gamma=3.0)
        method.observe(RL, 5.0)
        method.observe(SFT, 1.0)
        assert method.sft_probability(6) == pytest.approx(p, rel=1e-12), gate


def test_rl_steps_leave_the_lock_alone_and_age_it() -> None:
    method = make_sasr()
    p = method.sft_probability(4)
    for age in (1, 2, 3):
        method.observe(RL, 100.0 * age)
        assert (method.g_last, method.age_steps) == (2.0, age)
        assert method.sft_probability(4) == p
    method.observe(SFT, 0.5)
    assert (method.g_last, method.age_steps, method.g_warmup) == (0.5, 0, 2.0)


def test_an_rl_step_without_a_gradient_cannot_shut_rl_out() -> None:
    method = make_sasr(gate="ratio_grpo_norm")
    method.observe(RL, 4.0)
    method.observe(RL, 0.0)
    assert method.sft_probability(6) == pytest.approx(2 / (2 + 4))


def test_demonstrations_without_a_gradient_are_left_out() -> None:
    for gate in ("ratio_warmup", "ratio_grpo_norm", "sigmoid_ratio"):
        assert make_sasr(0.0, gate=gate).sft_probability(4) == 0.0


@pytest.mark.parametrize(("k", "expected"), [(1, 2.0), (2, 2.5), (3, 10 / 3)])
def test_the_warm_up_norm_is_the_mean_of_the_last_steps(k: int, expected: float) -> None:
    method = make_sasr(warmup_mean_steps=k)
    assert method.g_warmup == pytest.approx(expected) and method.g_last == method.g_warmup
    assert method.sft_probability(4) == pytest.approx(0.5)


def test_a_mean_over_more_steps_than_there_are_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^here: options\.warmup_mean_steps is 4, .* lower it\.$"
    ):
        make_sasr(warmup_mean_steps=4).check("here")
    make_sasr(warmup_mean_steps=3).check("here")


# -- the switch ---------------------------------------------------------------------------------


def test_the_warm_up_is_sft() -> None:
    method = SASR(SASR.Options(warmup_steps=3, steps=2), make_training())
    assert [method.phase(step) for step in (1, 2, 3)] == [WARMUP] * 3 and method.n_steps == 5


@pytest.mark.parametrize("gamma", [1 / 3, 1.0, 4.0])
def test_at_frozen_norms_sft_comes_as_often_as_p_says(gamma: float) -> None:
    found = kinds(make_sasr(gamma=gamma)).count("sft")
    p, n = 1 / (1 + gamma), 4000
    assert abs(found - n * p) < 4 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize(("gamma", "kind"), [(1e-30, "sft"), (1e30, "rl")])
def test_the_limits_of_gamma_are_sft_alone_and_rl_alone(gamma: float, kind: str) -> None:
    assert set(kinds(make_sasr(gamma=gamma))) == {kind}


def test_the_seed_decides_the_draws() -> None:
    assert kinds(make_sasr(seed=1)) == kinds(make_sasr(seed=1)) != kinds(make_sasr(seed=2))


# -- whole runs ---------------------------------------------------------------------------------


def test_norms_are_taken_before_clipping(base: Path, tmp_path: Path) -> None:
    norms = []
    for limit in (1e-6, 1e6):
        spec = make_spec(base, "sasr", max_grad_norm=limit)
        folder = train(spec, tmp_path / str(limit))
        lines = curve(folder, "gate_norm", "demonstration_grad_norm")[1:]
        norms.append(lines[0][0])
        assert all(gate == norm for gate, norm in lines[:3])
    assert norms[0] == norms[1] > 1e-3


def test_the_log_tells_what_the_gate_saw(base: Path, tmp_path: Path) -> None:
    options = make_options("sasr", 3, steps=12)
    folder = train(make_spec(base, "sasr", options=options), tmp_path)
    lines = read_lines(folder.dynamics)[1:]
    lock, age = lines[2]["gate_norm"], 0
    for line in lines[3:]:
        assert line["sft_probability"] == lock / (lock + lines[2]["gate_norm"])
        assert (line["kind"] == "sft") == (line["gate_draw"] < line["sft_probability"])
        age += 1
        if line["kind"] == "sft":
            lock, age = line["demonstration_grad_norm"], 0
        assert (line["gate_norm"], line["gate_age_steps"]) == (lock, age)
    assert {line["kind"] for line in lines[3:]} == {"sft", "rl"}
    assert {line["stage"] for line in lines[:3]} == {"warmup"}


def test_both_kinds_of_step_share_one_optimiser_and_one_rate(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    original = Run.step

    def spy(self: Run) -> dict[str, Any]:
        line = original(self)
        seen.append(set(self.trainer.optimizers))
        return line

    monkeypatch.setattr(Run, "step", spy)
    options = make_options("sasr", 3, steps=12)
    folder = train(make_spec(base, "sasr", options=options), tmp_path)
    assert seen == [{"base/main/joint"}] * 15
    assert {lr for (lr,) in curve(folder, "lr")[1:]} == {make_training().lr_rl}


@pytest.mark.parametrize("gate", ["ratio_warmup", "ratio_grpo_norm"])
def test_a_run_killed_in_the_middle_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    options = make_options("sasr", 3, steps=10, gate=gate, warmup_mean_steps=2)
    spec = make_spec(base, "sasr", options=options, checkpoint_every=2)
    whole = train(spec, tmp_path / "whole")
    original = Run.step

    def killed(self: Run) -> dict[str, Any]:
        if self.counters.step == 9:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", killed)
        train_run(spec, results=tmp_path / "killed", threads=1)
    resumed = train(spec, tmp_path / "killed")
    assert resumed.dynamics.read_bytes() == whole.dynamics.read_bytes()
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("reference", ["base", "warmup"])
def test_the_kl_reference_is_taken_after_the_warm_up(
    base: Path, tmp_path: Path, reference: str
) -> None:
    options = make_options("sasr", 3, gamma=1e30, reference=reference)
    folder = train(make_spec(base, "sasr", options=options, kl_coef=0.1), tmp_path)
    kl = [k for (k,) in curve(folder, "kl")]
    # At the first RL step the policy still is what the warm-up left.
    assert (kl[4] == 0.0) == (reference == "warmup") and kl[5] != 0.0
