"""What a method may ask of the trainer besides rollouts of the step's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.grading.verdicts import GradeItem
from bridge.methods.rl_zero import RLZero
from bridge.run import building
from bridge.run.loop import train_run
from bridge.step.batches import StepBatch
from bridge.step.rows import Group, Request, Row
from bridge.tasks.base import Problem
from tests.fixtures.tiny_run import TextGrader, make_spec, read_lines

pytestmark = pytest.mark.usefixtures("no_workers")


def train_with(
    method: type[RLZero],
    base: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    **training: Any,
) -> list[dict[str, Any]]:
    """Train a method of this file; return its log without the probe of step 0."""
    monkeypatch.setattr(building, "load_method", lambda name: method)
    spec = make_spec(base, "rl_zero", **training)
    train_run(spec, results=results, threads=1)
    return read_lines(spec.folder(results).dynamics)[1:]


class Watched(RLZero):
    """RL from the base model that remembers what came by."""

    groups: list[list[Group]]
    batches: list[StepBatch]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        type(self).groups, type(self).batches = [], []

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        self.groups.append(list(groups))
        return super().rows(groups, demonstrations, step)

    def update(self, trainer: Any, batch: StepBatch, step: int) -> None:
        self.batches.append(batch)
        super().update(trainer, batch, step)


def test_a_group_carries_its_demonstration_with_its_graded_reward(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_with(Watched, base, tmp_path, monkeypatch, prompts_per_step=8)
    groups = [group for step in Watched.groups for group in step]
    shown = [group.demonstration for group in groups if group.demonstration is not None]
    assert 0 < len(shown) < len(groups)
    for group in groups:
        assert (group.demonstration is None) == (group.problem.demonstration is None)
    for row in shown:
        graded = TextGrader().grade(
            [GradeItem(text=row.problem.demonstration or "", gold=row.problem.answer)]
        )
        assert row.reward == float(graded[0].verdict == "correct")
        assert row.kind == "demonstration"
    assert {row.reward for row in shown} == {0.0, 1.0}  # experts slip now and then


class HalfDemonstrated(Watched):
    """Half of each step's prompts carry a demonstration."""

    def demonstrated_prompts(self, step: int) -> int:
        return 3


def test_prompts_with_a_demonstration_come_from_a_stream_of_their_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_with(Watched, base, tmp_path / "plain", monkeypatch)
    plain = [[group.problem.id for group in step] for step in Watched.groups]
    train_with(HalfDemonstrated, base, tmp_path / "half", monkeypatch)
    steps = HalfDemonstrated.groups
    assert all(g.problem.demonstration is not None for step in steps for g in step[:3])
    taken = [group.problem.id for step in steps for group in step[3:]]
    assert taken == [i for step in plain for i in step][: len(taken)]
    first = [group.problem.id for step in steps for group in step[:3]]
    assert len(first) == 9 and len(set(first)) == 9  # ten demonstrations: no repeats yet


class Refilling(Watched):
    """Asks for two more prompts in each of two rounds."""

    def followup(
        self, groups: Sequence[Group], round_: int, draw: Callable[[int], list[Problem]]
    ) -> list[Request]:
        return [Request(p, self.training.n) for p in draw(2)] if round_ < 2 else []


def test_followups_take_the_next_prompts_of_the_stream(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_with(Watched, base, tmp_path / "plain", monkeypatch, prompts_per_step=10)
    stream = [group.problem.id for step in Watched.groups for group in step]
    train_with(Refilling, base, tmp_path / "more", monkeypatch, prompts_per_step=6)
    assert [len(step) for step in Refilling.groups] == [10, 10, 10]
    assert [group.problem.id for step in Refilling.groups for group in step] == stream


class ShadowAnswers(Watched):
    """Has a shadow that answers the same prompts and never moves."""

    uses_shadow = True
    shadow_rollouts = True


def test_the_shadow_answers_the_same_prompts_with_its_own_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = train_with(ShadowAnswers, base, tmp_path, monkeypatch)
    for batch in ShadowAnswers.batches:
        assert batch.shadow is not None
        assert [g.problem.id for g in batch.shadow.groups] == [g.problem.id for g in batch.groups]
        ours = [row.response_ids for group in batch.groups for row in group.rows]
        theirs = [row.response_ids for group in batch.shadow.groups for row in group.rows]
        assert ours != theirs
    # The gap is measured on our own rollouts: they still come from the weights being trained.
    assert all(line["sync_logprob_gap"] < 1e-4 for line in lines)


def test_rewards_are_flipped_at_the_stated_rate_and_only_in_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"lr_rl": 0.0, "prompts_per_step": 24, "n": 12}
    clean = train_with(Watched, base, tmp_path / "clean", monkeypatch, **settings)
    right = [row.reward for step in Watched.groups for group in step for row in group.rows]
    noisy = train_with(Watched, base, tmp_path / "noisy", monkeypatch, **settings, reward_flip=0.2)
    seen = [row.reward for step in Watched.groups for group in step for row in group.rows]
    share = sum(a != b for a, b in zip(right, seen, strict=True)) / len(right)
    assert len(right) == 864 and abs(share - 0.2) < 3 * (0.16 / 864) ** 0.5
    for before, after in zip(clean, noisy, strict=True):
        assert before["accuracy"] == after["accuracy"]  # what the policy did, not what it was told
        assert before["reward_mean"] != after["reward_mean"]
        assert before.get("heldout_accuracy") == after.get("heldout_accuracy")


def test_a_method_knows_the_seed_of_its_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Seeded(RLZero):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append(self.seed)

    monkeypatch.setattr(building, "load_method", lambda name: Seeded)
    for seed in (0, 7):
        train_run(make_spec(base, "rl_zero", seed=seed), results=tmp_path, threads=1)
    assert seen == [0, 7]
