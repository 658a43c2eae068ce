"""Options of any RL phase: staged lengths, the mask of truncated rollouts, the temperature rule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.models.checkpoint import load_policy
from bridge.run.state import Run
from bridge.run.temperature import calibrated_temperature
from bridge.step.rollouts import Completion
from tests.fixtures.method_runs import curve, same_weights, train
from tests.fixtures.tiny_run import PROBLEM, make_options, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")


# -- lengths ------------------------------------------------------------------------------------


def test_a_stage_holds_up_to_its_share_of_the_run() -> None:
    training = make_training(response_token_stages=((0.25, 2), (0.5, 4)))
    limits = [training.response_limit(step / 8) for step in range(1, 9)]
    assert limits == [2, 2, 4, 4, 6, 6, 6, 6]
    assert make_training().response_limit(0.1) == 6


def test_rollouts_end_at_the_stages_limit(base: Path, tmp_path: Path) -> None:
    stages = ((0.4, 1), (0.7, 3))
    spec = make_spec(base, "rl_zero", options={"steps": 3}, response_token_stages=stages)
    seen = curve(train(spec, tmp_path), "response_limit", "response_length_max")[1:]
    assert [limit for limit, _ in seen] == [1, 3, 6]
    assert [longest for _, longest in seen][:2] == [1, 3] and seen[2][1] > 3


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((0.5, 4), (0.25, 2)), "increase between 0 and 1"),
        (((1.0, 4),), "increase between 0 and 1"),
        (((0.5, 7),), "above max_response_tokens"),
    ],
)
def test_impossible_stages_are_refused(stages: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_training(response_token_stages=stages)


# -- the mask -----------------------------------------------------------------------------------


def test_truncated_rollouts_leave_the_loss_and_stay_in_the_mean(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    original = Run._rows

    def spy(self: Run, groups: Any, taught: Any, step: int) -> Any:
        rows = original(self, groups, taught, step)
        drawn = self.method.rows(groups, taught, step)
        assert list(rows) == [row for row in drawn if not row.truncated]
        seen.append((len(drawn), len(rows)))
        return rows

    monkeypatch.setattr(Run, "_rows", spy)
    spec = make_spec(base, "rl_zero", mask_truncated=True, max_response_tokens=4)
    dropped = [n for (n,) in curve(train(spec, tmp_path), "rows_dropped")[1:]]
    assert dropped == [drawn - kept for drawn, kept in seen] and sum(dropped) > 0


def test_the_mask_is_that_of_dapo(base: Path, tmp_path: Path) -> None:
    masked = make_spec(base, "rl_zero", mask_truncated=True, max_response_tokens=4)
    options = make_options("dapo", filter_groups=False)
    dapo = make_spec(base, "dapo", options=options, max_response_tokens=4)
    assert same_weights(train(masked, tmp_path), train(dapo, tmp_path))


# -- the temperature ----------------------------------------------------------------------------


class Melting:
    """A collector whose answers have an entropy of T^2 nats per token."""

    seed, tokens_generated, tokens_prefilled = 0, 0, 0
    training = make_training()

    def __init__(self, base: Path) -> None:
        self.policy, self.asked = load_policy(base), []
        self.engine = SimpleNamespace(generate=self.generate)

    def generate(self, prompts: Any, *, max_new_tokens: int, temperature: float) -> Any:
        self.asked.append((temperature, tuple(p.seeds for p in prompts)))
        entropies = (temperature**2,) * 3
        return [[Completion((1, 2, 3), (0.0,) * 3, entropies, False)] for _ in prompts]


@pytest.mark.parametrize(("target", "expected"), [(0.49, 0.7), (1.0, 1.0), (0.01, 0.4), (9.0, 1.4)])
def test_the_temperature_of_a_wanted_entropy(base: Path, target: float, expected: float) -> None:
    collector: Any = Melting(base)
    found = calibrated_temperature(collector, [PROBLEM] * 70, target=target)
    assert found == pytest.approx(expected, abs=0.005)
    assert len({seeds for _, seeds in collector.asked}) == 1  # common random numbers
    assert len(collector.asked[0][1]) == 64
    assert collector.tokens_generated == 3 * 64 * len(collector.asked)


def test_a_stage_samples_and_scores_at_what_was_found(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage searches once, a killed run finds the same, and no ratio is off."""
    options = {"sft_steps": 1, "rl_steps": 3}

    def spec(label: str) -> Any:
        return make_spec(
            base,
            "cold_start",
            label=label,
            options=options,
            temperature_entropy=0.8,
            checkpoint_every=1,
        )

    whole = train(spec("whole"), tmp_path)
    keys = ("temperature", "sync_logprob_gap", "entropy")
    lines = curve(whole, *keys)[2:]
    assert len({temperature for temperature, _, _ in lines}) == 1
    assert 0.4 <= lines[0][0] <= 1.4 and lines[0][0] != 1.0
    assert all(gap < 1e-4 for _, gap, _ in lines)
    original, made = Run.step, []

    def killed(self: Run) -> dict[str, Any]:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(self.counters.step)
        return original(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", killed)
        train(spec("cut"), tmp_path)
    cut = train(spec("cut"), tmp_path)
    assert same_weights(cut, whole) and curve(cut, *keys) == curve(whole, *keys)


def test_an_engine_without_entropies_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs engine native"):
        make_training(temperature_entropy=0.3, engine="vllm")


# -- hashes -------------------------------------------------------------------------------------


def test_unused_they_are_in_no_hash() -> None:
    used = {
        "mask_truncated": True,
        "response_token_stages": ((0.5, 2),),
        "temperature_entropy": 0.3,
    }
    plain = make_training().hashed
    assert not set(used) & set(plain)
    for name, value in used.items():
        assert make_training(**{name: value}).hashed != plain
