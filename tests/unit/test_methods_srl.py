"""SRL: how demonstrations are split, how a step is rewarded, and what it reduces to."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from bridge.methods.prefixes import step_ends
from bridge.methods.srl import SRL, _Task
from bridge.step.rows import Group, Request, Row
from bridge.tasks.base import Problem
from tests.fixtures.method_runs import (
    assert_same_run,
    build,
    curve,
    train,
)
from tests.fixtures.tiny_run import make_options, make_spec

pytestmark = pytest.mark.usefixtures("no_workers")

STEPS = ("a = 3 + 4 = 7 ;", "b = 7 * 2 = 4 ;", "c = 4 - 5 = 9 ;", "\\boxed{ 9 }")
SHOWN = Problem("p", "q", "9", 3, demonstration=" ".join(STEPS))


make_srl = functools.partial(build, SRL, rl_steps=2)


def answered(method: SRL, request: Request, *texts: str) -> Group:
    """The group of a request with these answers."""
    rows = []
    for text in texts:
        ids = tuple(method.policy.completion_ids(text))
        prompt, given = tuple(method.policy.prompt_ids("q")), request.prefix_ids
        rows.append(
            Row(
                "hybrid" if given else "rollout",
                request.problem,
                prompt,
                given + ids,
                prefix_tokens=len(given),
                reward=0.0,
                sampled_logprobs=(-1.0,) * len(ids),
            )
        )
    return Group(request.problem, tuple(rows))


def test_lines_come_before_other_ends_of_steps() -> None:
    assert step_ends("one. two\nthree ; four\n") == [9]
    assert step_ends("one ; two. three") == [5]
    assert step_ends("one. two. three.") == [5, 10]
    assert step_ends("\\boxed{ 7 }") == []


def test_each_step_but_the_last_is_asked_for(base: Path) -> None:
    method = make_srl(base=base)
    seen = set()
    for place in range(60):
        method.seed = place
        (request,) = method.requests([SHOWN], 1)
        task = method._tasks[0]
        assert task is not None
        k = STEPS.index(task.step.strip())
        assert method.policy.text(list(request.prefix_ids)) == " ".join(STEPS[:k])
        seen.add(k)
    assert seen == {0, 1, 2}  # the final answer is left to plain RL


def reward_of(method: SRL, text: str, step: int = 1) -> Row:
    for seed in range(100):
        method.seed = seed
        (request,) = method.requests([SHOWN], 1)
        task = method._tasks[0]
        if task is not None and task.step.strip() == STEPS[step]:
            (group,) = method.regroup([answered(method, request, text)])
            return group.rows[0]
    raise AssertionError("the step was never asked for")


def test_the_reward_is_the_likeness_of_the_step(base: Path) -> None:
    method = make_srl(base=base)
    assert reward_of(method, STEPS[1]).reward == 1.0
    reward = reward_of(method, "b = 7 * 3 = 4 ;").reward
    n = len(STEPS[1])
    assert reward == pytest.approx(2 * (n - 1) / (2 * n))
    assert reward_of(method, "").reward == -1.0


def test_what_comes_after_the_step_is_neither_scored_nor_learnt(base: Path) -> None:
    method = make_srl(base=base)
    row = reward_of(method, f"{STEPS[1]} c = 1 + 1 = 2")
    assert row.reward == 1.0
    own = row.response_ids[row.prefix_tokens :]
    assert method.policy.text(list(own)) == STEPS[1]
    assert len(row.sampled_logprobs) == len(own) and row.kind == "hybrid"
    assert method.policy.text(list(row.response_ids)) == " ".join(STEPS[:2])


class Spoken:
    """A policy whose tokens are the characters of one text."""

    def __init__(self, text: str) -> None:
        self.said = text

    def text(self, ids: list[int]) -> str:
        return self.said[: len(ids)]


@pytest.mark.parametrize(
    ("text", "reward", "tokens"),
    [
        (f"<think>one ; two</think>{STEPS[1]}", 1.0, 24 + len(STEPS[1])),
        (f"<think></think>{STEPS[1]} c = 1", 1.0, 15 + len(STEPS[1])),
        (STEPS[1], -1.0, len(STEPS[1])),
        (f"<think>{STEPS[1]}", -1.0, 7 + len(STEPS[1])),
        ("<think>one</think>", -1.0, 18),
    ],
)
def test_only_the_action_behind_a_monologue_is_scored(
    base: Path, text: str, reward: float, tokens: int
) -> None:
    method = make_srl(base=base, monologue=True)
    method.policy = Spoken(text)  # type: ignore[assignment]
    logprobs = (0.0,) * len(text)
    row = Row("rollout", SHOWN, (1,), (5,) * len(text), reward=0.0, sampled_logprobs=logprobs)
    judged = method._judged(row, _Task(STEPS[1], " ;"))
    assert (judged.reward, len(judged.response_ids)) == (reward, tokens)


def test_groups_of_like_rewards_are_dropped_in_the_first_stage_only(base: Path) -> None:
    method = make_srl(base=base, filter_eps=0.05)
    rewards = [0.5, 0.5, 0.52], [0.0, 1.0, 0.5]
    groups = [
        Group(SHOWN, tuple(Row("rollout", SHOWN, (1,), (2,), reward=r) for r in group))
        for group in rewards
    ]
    assert len(method.rows(groups, (), 1)) == 3
    assert len(method.rows(groups, (), 4)) == 6


def test_a_demonstration_of_one_step_is_plain_rl(base: Path) -> None:
    method = make_srl(base=base)
    short = Problem("p", "q", "9", 3, demonstration="\\boxed{ 9 }")
    (request,) = method.requests([short], 1)
    group = answered(method, request, "\\boxed{ 9 }")
    assert request.prefix_ids == () and method.regroup([group]) == [group]


def test_without_steps_to_ask_for_it_is_grpo(base: Path, tmp_path: Path) -> None:
    options = {"steps": 2, "rl_steps": 0, "demonstrated_share": 0.0, "filter_eps": 0.0}
    data = {"demonstrations": 0}
    ours = train(make_spec(base, "srl", options=options, dataset=data), tmp_path)
    grpo = train(make_spec(base, "rl_zero", options={"steps": 2}, dataset=data), tmp_path)
    assert_same_run(ours, grpo, "rl_loss", "grad_norm")


def test_a_run_of_both_stages(base: Path, tmp_path: Path) -> None:
    options = make_options("srl", 2)
    folder = train(make_spec(base, "srl", options=options), tmp_path)
    stages = curve(folder, "stage", "rl_loss")[1:]
    assert [stage for stage, _ in stages] == ["srl", "srl", "rlvr", "rlvr"]
