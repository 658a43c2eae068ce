"""ReLIFT: what enters the buffer, what leaves it, and RL where it never fills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.methods.relift import ReLIFT
from bridge.step.rows import Row
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    train,
)
from tests.fixtures.tiny_run import load_double, make_method, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")


def make(**options: Any) -> ReLIFT:
    method = make_method("relift", make_training(sft_batch_size=2), **options)
    assert isinstance(method, ReLIFT)
    return method


def fail(method: ReLIFT, step: int, *names: str) -> list[Row]:
    """The rows of an RL step on prompts that all fail."""
    return method.rows([make_group([0.0, 0.0], name=n, shown=1.0) for n in names], (), step)


def names(rows: list[Row]) -> list[str]:
    return [row.problem.id for row in rows]


def buffered(method: ReLIFT) -> list[str]:
    return names([row for _, row in method.buffer])


def test_only_failed_prompts_with_a_demonstration_enter() -> None:
    method = make()
    groups = [
        make_group([0.0, 0.0], name="failed", shown=1.0),
        make_group([0.0, 1.0], name="solved", shown=1.0),
        make_group([0.0, 0.0], name="bare"),
    ]
    rows = method.rows(groups, (), 1)
    assert [row.kind for row in rows] == ["rollout"] * 6
    assert buffered(method) == ["failed"]


@pytest.mark.parametrize(
    ("order", "first", "left"), [("newest", ["b", "c"], ["a"]), ("oldest", ["a", "b"], ["c"])]
)
def test_the_newest_leave_first(base: Path, order: str, first: list[str], left: list[str]) -> None:
    method = make(order=order)
    fail(method, 1, "a", "b", "c")
    assert method.phase(2).kind == "sft"
    taught = method.rows((), (), 2)
    assert names(taught) == first and {row.kind for row in taught} == {"demonstration"}
    direction(load_double(base), method, (), step=2)
    assert buffered(method) == left and method.scalars() == {"buffered": 1}
    assert method.phase(3).kind == "rl"


def test_a_step_stays_of_its_kind_while_the_buffer_fills() -> None:
    method = make()
    fail(method, 1, "a", "b")
    assert method.phase(1).kind == "rl"
    assert [row.kind for row in fail(method, 1, "c")] == ["rollout"] * 2
    assert buffered(method) == ["a", "b", "c"]


def test_the_oldest_are_forgotten_beyond_the_maximum() -> None:
    method = make(buffer_max=3)
    fail(method, 1, "a", "b")
    fail(method, 1, "c", "d")
    assert buffered(method) == ["b", "c", "d"]


def test_its_buffer_comes_back_with_a_resumed_run() -> None:
    method, resumed = make(), make()
    fail(method, 1, "a", "b", "c")
    resumed.load_state_dict(json.loads(json.dumps(method.state_dict())))
    assert buffered(resumed) == ["a", "b", "c"]
    assert [row.pair for _, row in resumed.buffer] == [row.pair for _, row in method.buffer]
    assert [row.problem for _, row in resumed.buffer] == [row.problem for _, row in method.buffer]


def test_an_sft_step_is_the_mean_likelihood_of_what_leaves(base: Path) -> None:
    policy, method = load_double(base), make()
    fail(method, 1, "a", "b", "c")
    rows = [row for _, row in method.buffer[-2:]]
    loss = sum(-row_logprobs(policy, row).sum() for row in rows)
    expected = flat_gradient(policy, loss / sum(len(row.response_ids) for row in rows))  # type: ignore[arg-type]
    found = direction(policy, method, (), step=2)
    assert relative_distance(found, expected) < 1e-9


def test_a_buffer_that_never_fills_leaves_rl_zero(base: Path, tmp_path: Path) -> None:
    relift = train(make_spec(base, "relift", options={"buffer_size": 1_000_000}), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(relift, rl_zero)


def test_both_kinds_of_step_count_and_what_is_left_is_not_learnt(
    base: Path, tmp_path: Path
) -> None:
    """Also with several updates per batch of rollouts."""
    options = {"steps": 8, "buffer_size": 1, "demonstrated_share": 1.0}
    spec = make_spec(base, "relift", options=options, n=2, ppo_mini_batch_size=3, ppo_epochs=2)
    lines = curve(train(spec, tmp_path), "kind", "buffered")[1:]
    kinds = [kind for kind, _ in lines]
    assert len(kinds) == 8 and {"rl", "sft"} == set(kinds)
    left = [0, *(n for _, n in lines)]
    for kind, before, after in zip(kinds, left, left[1:], strict=False):
        assert kind == ("sft" if before >= 1 else "rl")
        assert after == before - 1 if kind == "sft" else before <= after <= before + 6


def test_a_maximum_below_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"buffer_max is 1, .* takes 2 demonstrations"):
        make(buffer_max=1).check("here")
