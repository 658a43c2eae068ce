"""The two controls of SASR: a fixed share of SFT steps, and a replayed profile of p."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.methods.replayed_schedule import ReplayedSchedule
from bridge.methods.sasr import SASR, WarmUpSwitch
from bridge.methods.static_hybrid import StaticHybrid
from bridge.run import loop as run_module
from bridge.step.rows import Phase
from tests.fixtures.method_runs import same_weights, train
from tests.fixtures.tiny_run import TextGrader, make_base, make_spec, make_training


def make_static(share: float, steps: int = 100, seed: int = 0) -> StaticHybrid:
    options = StaticHybrid.Options(warmup_steps=5, steps=steps, sft_share=share)
    return StaticHybrid(options, make_training(), seed)


def make_replayed(profile: Any, steps: int = 5, seed: int = 0) -> ReplayedSchedule:
    options = ReplayedSchedule.Options(warmup_steps=5, steps=steps, profile=profile)
    return ReplayedSchedule(options, make_training(), seed)


def is_sft(method: WarmUpSwitch) -> list[bool]:
    return [method.phase(step).kind == "sft" for step in range(6, method.n_steps + 1)]


# -- static_hybrid ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.29, 1 / 3, 0.5, 0.7, 1.0])
def test_sft_steps_are_spread_evenly(share: float) -> None:
    found = is_sft(make_static(share))
    for i in range(101):
        assert 0 <= i * share - sum(found[:i]) + 1e-6 < 1 + 2e-6
    assert sum(found) == math.floor(100 * share + 1e-6)


def test_half_and_half_takes_turns_and_begins_with_rl() -> None:
    assert is_sft(make_static(0.5, steps=6)) == [False, True] * 3


def test_the_share_does_not_depend_on_the_seed_or_on_norms() -> None:
    method = make_static(0.3, seed=7)
    method.observe(Phase("sft"), 1e9)
    assert is_sft(method) == is_sft(make_static(0.3))


# -- replayed_schedule --------------------------------------------------------------------------


def test_the_profile_is_piecewise_linear_over_progress() -> None:
    method = make_replayed((0.8, 0.4, 0.0), steps=9)
    found = [method.sft_probability(step) for step in range(6, 15)]
    assert found == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_a_single_step_takes_the_first_value() -> None:
    assert make_replayed((0.8, 0.2), steps=1).sft_probability(6) == 0.8


def test_sft_comes_as_often_as_the_profile_says() -> None:
    found = is_sft(make_replayed((0.9, 0.1), steps=4000))
    for part, p in ((found[:2000], 0.7), (found[2000:], 0.3)):
        assert abs(sum(part) - 2000 * p) < 4 * math.sqrt(2000 * p * (1 - p))


def test_the_draws_are_its_own_and_no_norm_is_read() -> None:
    method = make_replayed((0.5, 0.5), steps=200)
    schedule = is_sft(method)
    method.observe(Phase("sft"), 1e9)
    assert is_sft(method) == schedule != is_sft(make_replayed((0.5, 0.5), steps=200, seed=1))
    sasr = SASR(SASR.Options(warmup_steps=5, steps=200), make_training())
    sasr.observe(Phase("sft", "warmup"), 1.0)
    assert is_sft(sasr) != schedule


def test_a_profile_survives_a_runs_json() -> None:
    options = make_replayed((0.8, 0.2)).options
    again = ReplayedSchedule.Options.model_validate(json.loads(options.model_dump_json()))
    assert again == options


@pytest.mark.parametrize("profile", [(0.5,), (), (0.5, 1.1), (-0.1, 0.5), ("0.5", 0.5)])
def test_a_profile_is_two_or_more_probabilities(profile: Any) -> None:
    with pytest.raises(ValidationError):
        make_replayed(profile)


# -- reductions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_at_their_limits_the_three_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(run_module, "GraderPool", TextGrader)
    base = make_base(tmp_path / "base")
    p = float(kind == "sft")
    runs = [
        train(make_spec(base, name, options=options), tmp_path)
        for name, options in (
            ("sasr", {"gamma": 1e-30 if p else 1e30}),
            ("static_hybrid", {"sft_share": p}),
            ("replayed_schedule", {"profile": (p, p)}),
        )
    ]
    assert same_weights(runs[0], runs[1]) and same_weights(runs[0], runs[2])
