"""DAPO's switches, and the RL term's other settings: GRPO and Dr.GRPO."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.grading.verdicts import Graded, GradeItem
from bridge.methods.dapo import Dapo
from bridge.run import loop as run_module
from bridge.store.schema import ConfigError
from bridge.tasks.base import Problem
from tests.fixtures.method_runs import (
    DR_GRPO,
    assert_same_run,
    build,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    train,
    weights,
)
from tests.fixtures.tiny_run import (
    PROBLEM,
    TextGrader,
    load_double,
    make_method,
    make_options,
    make_spec,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")

OFF = {"filter_groups": False, "mask_truncated": False, "overlong_buffer_tokens": 0}


class HardGrader(TextGrader):
    """Finds every answer wrong."""

    def grade(self, items: Sequence[GradeItem]) -> list[Graded]:
        return [Graded("wrong", None) for _ in items]


make_dapo = functools.partial(build, Dapo)


# -- filter and refill --------------------------------------------------------------------------

GROUPS = [
    make_group([1.0, 1.0], name="solved"),
    make_group([1.0, 0.0], name="mixed"),
    make_group([0.0, 0.0], name="failed"),
]


def test_groups_without_spread_are_dropped() -> None:
    assert [row.problem.id for row in make_dapo().rows(GROUPS, (), 1)] == ["mixed"] * 2
    kept = make_dapo(filter_groups=False).rows(GROUPS, (), 1)
    assert [row.problem.id for row in kept] == ["solved"] * 2 + ["mixed"] * 2 + ["failed"] * 2


def test_the_refill_asks_for_what_is_missing_and_ends() -> None:
    drawn: list[int] = []

    def draw(n: int) -> list[Problem]:
        drawn.append(n)
        return [PROBLEM] * n

    method = make_dapo(make_training(prompts_per_step=3, n=4), max_refill_rounds=2)
    for round_ in (0, 1):
        assert [request.n for request in method.followup(GROUPS, round_, draw)] == [4, 4]
    assert method.followup(GROUPS, 2, draw) == [] and drawn == [2, 2]
    assert method.followup([*GROUPS, GROUPS[1], GROUPS[1]], 0, draw) == []
    assert make_dapo(filter_groups=False).followup([GROUPS[0]] * 6, 0, draw) == []
    assert drawn == [2, 2]


def test_a_step_on_which_no_group_survives_is_a_counted_step_without_a_gradient(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "GraderPool", HardGrader)
    folder = train(make_spec(base, "dapo", options={"max_refill_rounds": 2}), tmp_path)
    lines = read_lines(folder.dynamics)[1:]
    for line in lines:
        assert (line["groups_dropped"], line["groups_kept"]) == (18, 0)  # 6 prompts, three rounds
        assert (line["rows_dropped"], line["grad_norm"]) == (18 * 6, 0.0)
    start = load_double(base).model.state_dict()
    for name, value in weights(folder).items():
        assert torch.equal(value.double(), start[name])


def test_further_rollouts_are_paid_for(base: Path, tmp_path: Path) -> None:
    spent = []
    for rounds in (0, 3):
        options = make_options("dapo", 2, max_refill_rounds=rounds)
        spec = make_spec(base, "dapo", options=options, n=2, label=f"rounds{rounds}")
        folder = train(spec, tmp_path)
        kept = [line["groups_kept"] for line in read_lines(folder.dynamics)[1:]]
        tokens = json.loads(folder.done.read_text())["tokens"]["generated"]
        spent.append((sum(kept), tokens))
    assert spent[1][0] > spent[0][0] and spent[1][1] > spent[0][1]


# -- overlong answers ---------------------------------------------------------------------------


def test_a_truncated_answer_counts_in_the_mean_and_leaves_the_loss() -> None:
    group = make_group([1.0, 0.0, 0.0, 0.0])
    cut = replace(group.rows[3], truncated=True)
    group = replace(group, rows=(*group.rows[:3], cut))
    training = make_training(norm_adv_by_std_in_grpo=False)
    rows = make_dapo(training).rows([group], (), 1)
    assert [row.advantage for row in rows] == [0.75, -0.25, -0.25]
    unmasked = make_dapo(training, mask_truncated=False).rows([group], (), 1)
    assert [row.advantage for row in unmasked] == [0.75, -0.25, -0.25, -0.25]


def test_a_truncated_answer_leaves_the_token_count(base: Path) -> None:
    """The gradient is the token mean over the answers that are left."""
    policy = load_double(base)
    group = make_group([1.0, 0.0, 0.0])
    group = replace(group, rows=(*group.rows[:2], replace(group.rows[2], truncated=True)))
    training = make_training(norm_adv_by_std_in_grpo=False)
    found = direction(policy, make_dapo(training), [group])
    left = group.rows[:2]
    scored = [row_logprobs(policy, row) for row in left]
    parts = [-a * (lp - lp.detach()).exp() for a, lp in zip((2 / 3, -1 / 3), scored, strict=True)]
    loss = torch.cat(parts).sum() / sum(len(row.response_ids) for row in left)
    expected = flat_gradient(policy, loss)
    assert relative_distance(found, expected) < 1e-6


def test_the_length_penalty_falls_from_zero_to_minus_one_over_the_buffer() -> None:
    training = make_training(norm_adv_by_std_in_grpo=False, max_response_tokens=10)
    lengths = {1: 0.0, 6: 0.0, 7: -0.25, 8: -0.5, 10: -1.0}
    group = make_group([0.0] * len(lengths))
    rows = [replace(row, response_ids=(5,) * n) for row, n in zip(group.rows, lengths, strict=True)]
    group = replace(group, rows=tuple(rows))
    penalties = list(lengths.values())
    mean = sum(penalties) / len(penalties)
    found = make_dapo(training, overlong_buffer_tokens=4).advantage(group)
    assert found == pytest.approx([penalty - mean for penalty in penalties])
    assert make_dapo(training).advantage(group) == [0.0] * 5


def test_the_filter_looks_at_verdicts_not_at_lengths() -> None:
    training = make_training(max_response_tokens=10)
    group = make_group([0.0, 0.0])
    longer = replace(group.rows[1], response_ids=(5,) * 10)
    group = replace(group, rows=(group.rows[0], longer))
    assert make_dapo(training, overlong_buffer_tokens=4).rows([group], (), 1) == []


@pytest.mark.parametrize(
    ("training", "options", "message"),
    [
        ({"loss_agg_mode": "seq-mean-token-mean"}, {}, r"dapo is a token mean, .* take rl_zero\."),
        ({}, {"overlong_buffer_tokens": 7}, r"options\.overlong_buffer_tokens is 7, .* lower it\."),
    ],
)
def test_what_does_not_fit_is_refused(training: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: {message}$"):
        make_dapo(make_training(**training), **options).check("here")


# -- reductions ---------------------------------------------------------------------------------


def test_with_all_switches_off_it_is_rl_zero(base: Path, tmp_path: Path) -> None:
    dapo = train(make_spec(base, "dapo", options=OFF), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(
        dapo, rl_zero, "reward_mean", "rl_loss", "grad_norm", "heldout_accuracy", "rows_dropped"
    )


# -- GRPO and Dr.GRPO: settings of the RL term --------------------------------------------------


@pytest.mark.parametrize("settings", [{}, DR_GRPO], ids=["grpo", "dr_grpo"])
def test_equal_rewards_give_no_gradient(base: Path, settings: dict[str, Any]) -> None:
    method = make_method("rl_zero", make_training(**settings))
    groups = [GROUPS[0], GROUPS[2]]
    assert not direction(load_double(base), method, groups).any()


@pytest.mark.parametrize(
    ("settings", "by_length"),
    [(DR_GRPO, False), ({"loss_agg_mode": "seq-mean-token-mean"}, True)],
    ids=["dr_grpo", "grpo"],
)
def test_the_gradient_is_that_of_the_written_loss(
    base: Path, settings: dict[str, Any], by_length: bool
) -> None:
    policy = load_double(base)
    training = make_training(**settings)
    group = make_group([1.0, 0.0, 0.0, 0.0])
    found = direction(policy, make_method("rl_zero", training), [group])
    deviations = torch.tensor([0.75, -0.25, -0.25, -0.25], dtype=torch.float64)
    advantages = deviations / (deviations.std() + 1e-6) if by_length else deviations
    loss = sum(
        -(advantage * (lp - lp.detach()).exp()).sum()
        / (4 * (len(lp) if by_length else training.max_response_tokens))
        for advantage, lp in zip(
            advantages, [row_logprobs(policy, row) for row in group.rows], strict=True
        )
    )
    assert isinstance(loss, torch.Tensor)
    expected = flat_gradient(policy, loss)
    assert relative_distance(found, expected) < 1e-6


@pytest.mark.parametrize(("settings", "same"), [(DR_GRPO, True), ({}, False)])
def test_under_dr_grpo_a_response_ignores_the_length_of_its_neighbours(
    base: Path, settings: dict[str, Any], same: bool
) -> None:
    """The neighbours' group has no spread, so they act through counts and padding alone."""
    policy = load_double(base)
    method = make_method("rl_zero", make_training(**settings, micro_batch_rows=100))
    group, other = GROUPS[1], GROUPS[2]
    longer = [replace(r, response_ids=r.response_ids * 3) for r in other.rows]
    short = direction(policy, method, [group, other])
    long = direction(policy, method, [group, replace(other, rows=tuple(longer))])
    assert torch.allclose(short, long, rtol=1e-12, atol=0) == same
