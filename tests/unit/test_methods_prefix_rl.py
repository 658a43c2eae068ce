"""PrefixRL: what is given, that it is in no loss and no count, and what it reduces to."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.methods.prefix_rl import PrefixRL
from bridge.step.batches import StepBatch
from bridge.store.schema import ConfigError
from bridge.tasks.base import Problem
from tests.fixtures.method_runs import (
    assert_same_run,
    build,
    curve,
    direction,
    flat_gradient,
    make_group,
    ratio,
    relative_distance,
    row_logprobs,
    train,
    with_prefixes,
)
from tests.fixtures.tiny_run import load_double, make_options, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")

TEXT = "a = 3 + 4 = 7 ; b = 7 * 2 = 4 ; \\boxed{ 4 }"  # 8 + 8 + 3 tokens and the end of turn
SHOWN = Problem("p", "q", "4", 1, demonstration=TEXT)


make_prefix_rl = functools.partial(build, PrefixRL)


def test_a_share_of_the_demonstration_is_given(base: Path) -> None:
    method = make_prefix_rl(base=base)
    ids = method.demonstration_ids(SHOWN)
    requests = method.requests([SHOWN] * 400, 1)
    assert {r.n for r in requests} == {6} and len(ids) == 20
    given = [r.prefix_ids for r in requests]
    assert all(prefix == ids[: len(prefix)] for prefix in given)
    lengths = {len(prefix) for prefix in given}
    assert lengths == {0, *range(8, 16)}  # from 0.4 to 0.8 of 20
    assert sum(not prefix for prefix in given) / 400 == pytest.approx(0.25, abs=0.09)


def test_the_final_answer_is_never_given(base: Path) -> None:
    method = make_prefix_rl(base=base, low=1.0, high=1.0, plain_share=0.0)
    assert method.policy.text(list(method.requests([SHOWN], 1)[0].prefix_ids)) == TEXT[:31].strip()
    short = Problem("p", "q", "4", 1, demonstration="\\boxed{ 4 }")
    assert method.requests([short], 1)[0].prefix_ids == ()
    without = Problem("p", "q", "4", 1, demonstration="7 7")
    assert len(method.requests([without], 1)[0].prefix_ids) == 2  # all but the end of turn


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: options\.low is above options\.high; swap"):
        make_prefix_rl(low=0.9).check("here")


def test_feedback_moves_a_prompts_cut(base: Path) -> None:
    method = make_prefix_rl(base=base, prefix_rule="feedback", plain_share=0.0)
    assert len(method.requests([SHOWN], 1)[0].prefix_ids) == 10
    for rewards, cut in (
        ([0.0] * 4, 5),
        ([1.0, 0.0, 0.0, 0.0], 6),
        ([1.0, 0.0], 6),
        ([1.0] * 4, 5),
    ):
        method._steer(replace(make_group(rewards), problem=SHOWN))
        assert method.cuts == {"p": cut}
    again = make_prefix_rl(base=base, prefix_rule="feedback", plain_share=0.0)
    again.load_state_dict(method.state_dict())
    assert len(again.requests([SHOWN], 1)[0].prefix_ids) == int(5 / 8 * 20)
    for _ in range(20):
        method._steer(replace(make_group([1.0]), problem=SHOWN))
    assert method.cuts == {"p": 0} and method.requests([SHOWN], 1)[0].prefix_ids == ()


def test_the_gradient_is_that_of_the_written_loss(base: Path) -> None:
    policy = load_double(base)
    groups = [
        with_prefixes(make_group([1.0, 0.0, 0.0], name="a", shown=1.0, seed=3), 1, 1, 1),
        make_group([0.0, 1.0], name="a", shown=1.0),
    ]
    method = make_prefix_rl(make_training(norm_adv_by_std_in_grpo=False))
    assert [round(row.advantage, 3) for row in method.rows(groups, (), 1)] == [
        0.667,
        -0.333,
        -0.333,
        -0.5,
        0.5,
    ]
    loss, own = torch.zeros((), dtype=torch.float64), 0
    for row in method.rows(groups, (), 1):
        logprob = row_logprobs(policy, row)[row.prefix_tokens :]
        loss = loss - row.advantage * ratio(logprob).sum()
        own += len(logprob)
    expected = flat_gradient(policy, loss / own)
    found = direction(policy, method, groups)
    assert relative_distance(found, expected) < 1e-6
    batch = StepBatch(tuple(method.rows(groups, (), 1)), tuple(groups))
    assert batch.n_tokens("rl") == own


@pytest.mark.parametrize("options", [{"plain_share": 1.0}, {"low": 0.0, "high": 0.0}])
def test_without_prefixes_it_is_grpo(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    ours = train(make_spec(base, "prefix_rl", options=options), tmp_path)
    grpo = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(ours, grpo)


def test_uft_without_its_two_extra_terms_is_the_same_update(base: Path) -> None:
    from bridge.methods.uft import UFT

    groups = [with_prefixes(make_group([1.0, 0.0, 0.0], shown=1.0, seed=3), 1, 1, 1)]
    uft = build(UFT, beta=0.0)
    policy = load_double(base)
    assert torch.equal(direction(policy, uft, groups), direction(policy, make_prefix_rl(), groups))


def test_the_share_of_prefixed_groups_is_logged(base: Path, tmp_path: Path) -> None:
    options = make_options("prefix_rl", 2, demonstrated_share=1.0, plain_share=0.0)
    folder = train(make_spec(base, "prefix_rl", options=options), tmp_path)
    assert curve(folder, "prefixed_group_share", "demonstration_loss")[1:] == [(1.0, None)] * 2
