"""Prefix-RFT: the hybrid row of a group, its length, its entropy mask, and what it reduces to."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.methods.prefix_rft import PrefixRFT
from bridge.step.batches import micro_batches
from bridge.step.rows import Row
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

SHOWN = Problem("p", "q", "7", 1, demonstration="a = 3 + 4 = 7 ; \\boxed{ 7 }")


make_prefix_rft = functools.partial(build, PrefixRFT, steps=11)


def test_the_shortest_prefix_falls_from_the_longest_to_nothing() -> None:
    method = make_prefix_rft(high=0.8)
    assert [method.low(step) for step in (1, 6, 11)] == pytest.approx([0.8, 0.4, 0.0])


def test_one_answer_of_a_group_continues_the_demonstration(base: Path) -> None:
    method = make_prefix_rft(base=base)
    plain = Problem("plain", "q", "7", 1)
    requests = method.requests([SHOWN, plain], 1)
    ids = method.demonstration_ids(SHOWN)
    assert [(r.problem.id, r.n) for r in requests] == [("p", 5), ("p", 1), ("plain", 6)]
    assert requests[1].prefix_ids == ids[: int(0.95 * len(ids))] and not requests[0].prefix_ids


def test_both_requests_are_one_group_also_where_a_problem_comes_twice() -> None:
    one, two = make_group([1.0, 0.0], name="a"), make_group([0.0], name="a", seed=1)
    hybrid = with_prefixes(two, 1)
    groups = make_prefix_rft().regroup([one, hybrid, one, hybrid, make_group([1.0], name="b")])
    assert [len(group.rows) for group in groups] == [3, 3, 1]
    assert groups[0].rewards == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.2, 1), (0.5, 2), (1.0, 4)])
def test_a_share_of_the_given_tokens_is_learnt_from(share: float, kept: int) -> None:
    row = Row(
        "hybrid",
        SHOWN,
        (1,),
        (5,) * 6,
        prefix_tokens=4,
        advantage=-2.0,
        columns={"entropy": (0.3, 0.9, 0.1, 0.9)},
    )
    (batch,) = micro_batches(
        [row], "demonstration", size=1, pad_token_id=0, device=torch.device("cpu")
    )
    batch = replace(batch, logprob=torch.zeros(1, 6))
    weight = make_prefix_rft(top_entropy=share).token_weight(batch)[0]
    assert (weight != 0).sum() == kept and not weight[4:].any()
    assert set(weight.tolist()) <= {0.0, -2.0}
    if kept in (1, 2):
        assert weight[1] == -2.0  # the highest, and of equal ones the first


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_the_gradient_is_that_of_the_written_loss(base: Path, mode: str) -> None:
    policy = load_double(base)
    modes: dict[str, Any] = {"loss_agg_mode": mode, "sft_loss_agg_mode": mode}
    training = make_training(norm_adv_by_std_in_grpo=False, micro_batch_rows=2, **modes)
    groups = [
        with_prefixes(make_group([1.0, 0.0, 0.0], name="a", shown=1.0, seed=3), 0, 0, 3),
        with_prefixes(make_group([0.0, 1.0], name="b", shown=1.0, seed=3), 0, 2),
    ]
    found = direction(policy, make_prefix_rft(training, top_entropy=0.5), groups)
    rows = [(row, group) for group in groups for row in group.rows]
    loss = torch.zeros((), dtype=torch.float64)
    for row, group in rows:
        logprob, cut = row_logprobs(policy, row), row.prefix_tokens
        assert row.reward is not None
        advantage = row.reward - sum(group.rewards) / len(group.rewards)
        counts = torch.ones_like(logprob)
        if cut:
            ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
            full = policy.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            entropy = -(full.exp() * full).sum(-1)[len(row.prompt_ids) - 1 :][:cut]
            counts[:cut] = 0.0
            counts[entropy.topk((cut + 1) // 2).indices] = 1.0
        loss = loss - (counts * advantage * ratio(logprob)).sum()
    scale = {
        "token-mean": sum(len(row.response_ids) for row, _ in rows),
        "seq-mean-token-sum": len(rows),
        "seq-mean-token-sum-norm": len(rows) * training.max_response_tokens,
    }[mode]
    expected = flat_gradient(policy, loss / scale)
    assert relative_distance(found, expected) < 1e-6


def test_what_it_cannot_divide_or_repeat_is_refused() -> None:
    make_prefix_rft().check("here")
    for settings, message in (
        ({"loss_agg_mode": "token-mean", "sft_loss_agg_mode": "seq-mean-token-sum"}, "one norm"),
        (dict.fromkeys(("loss_agg_mode", "sft_loss_agg_mode"), "seq-mean-token-mean"), "length"),
        ({"ppo_epochs": 2}, "one update"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_prefix_rft(make_training(**settings)).check("here")


def test_without_prefixes_it_is_grpo(base: Path, tmp_path: Path) -> None:
    ours = train(make_spec(base, "prefix_rft", options={"high": 0.0}), tmp_path)
    grpo = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(ours, grpo)


def test_a_prefix_without_learning_leaves_the_rl_term(base: Path, tmp_path: Path) -> None:
    options = make_options("prefix_rft", top_entropy=0.0, demonstrated_share=1.0)
    folder = train(make_spec(base, "prefix_rft", options=options), tmp_path)
    norms = curve(folder, "demonstration_grad_norm", "rl_grad_norm")[1:]
    assert all(given == 0.0 for given, _ in norms) and any(own > 0.0 for _, own in norms)
