"""LUFFY: the demonstration in the RL group, its weight, and the whole gradient against autograd."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.methods.base import StepStats
from bridge.methods.luffy import Luffy
from bridge.run import loop as run_module
from bridge.step.rows import Row
from bridge.store.schema import ConfigError
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
    weight_at,
)
from tests.fixtures.tiny_run import (
    TextGrader,
    load_double,
    make_options,
    make_spec,
    make_training,
)

MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


make_luffy = functools.partial(build, Luffy)


# -- the group ----------------------------------------------------------------------------------


def test_all_rollouts_wrong_and_the_demonstration_right() -> None:
    method = make_luffy(make_training(n=8))
    rows = method.rows([make_group([0.0] * 7, shown=1.0)], (), 1)
    assert [row.advantage for row in rows] == [-1 / 8] * 7 + [7 / 8]
    assert [row.kind for row in rows] == ["rollout"] * 7 + ["demonstration"]


def test_a_wrong_demonstration_is_graded_and_unlearnt() -> None:
    rows = make_luffy().rows([make_group([1.0, 1.0, 0.0], shown=0.0)], (), 1)
    assert [row.advantage for row in rows] == [0.5, 0.5, -0.5, -0.5]


def test_a_group_without_a_demonstration_is_a_plain_one() -> None:
    rows = make_luffy().rows([make_group([1.0, 0.0, 0.0, 0.0])], (), 1)
    assert [row.advantage for row in rows] == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize(("n_demo", "expected"), [(1, [8, 7]), (0, [8, 8])])
def test_a_demonstration_takes_the_place_of_a_rollout(n_demo: int, expected: list[int]) -> None:
    problems = [make_group([], name="plain").problem, make_group([], name="d", shown=1.0).problem]
    requests = make_luffy(make_training(n=8), n_demo=n_demo).requests(problems, 1)
    assert [request.n for request in requests] == expected
    assert [request.problem for request in requests] == problems


def test_a_share_of_the_prompts_is_drawn_for_their_demonstrations() -> None:
    training = make_training(prompts_per_step=8)
    assert make_luffy(training, demonstrated_share=0.5).demonstrated_prompts(1) == 4
    assert make_luffy(training).demonstrated_prompts(1) == 0


# -- the weight ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.05, 0.1, 0.5])
def test_the_weight_is_largest_at_gamma_where_it_is_a_quarter(gamma: float) -> None:
    p = torch.linspace(0.001, 1.0, 1000, dtype=torch.float64)
    c = weight_at(make_luffy(gamma=gamma), p, 1.0)
    assert float(p[c.argmax()]) == pytest.approx(gamma, abs=1e-3)
    at_gamma = weight_at(make_luffy(gamma=gamma), p.new_tensor([gamma]), 1.0)
    assert float(at_gamma) == pytest.approx(0.25) and float(c.max()) <= 0.25 + 1e-12


def test_the_weight_at_eight_probabilities() -> None:
    """The values of the one-coefficient table in docs/methods/README.md."""
    p = torch.tensor([0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99], dtype=torch.float64)
    expected = [0.083, 0.222, 0.250, 0.204, 0.139, 0.104, 0.090, 0.083]
    assert weight_at(make_luffy(), p, 1.0).tolist() == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("advantage", [0.875, -0.5])
def test_without_shaping_the_weight_is_advantage_times_probability(advantage: float) -> None:
    p = torch.tensor([0.01, 0.3, 0.99], dtype=torch.float64)
    assert torch.allclose(weight_at(make_luffy(shape=False), p, advantage), advantage * p)


# -- the whole gradient -------------------------------------------------------------------------


def written_loss(policy: Any, rows: list[Row], mode: str, training: Any, shape: bool) -> Tensor:
    """The paper's loss, row by row, over one normaliser."""
    total = torch.zeros((), dtype=torch.float64)
    n_tokens = sum(len(row.response_ids) for row in rows)
    for row in rows:
        logprob = row_logprobs(policy, row)
        if row.kind == "rollout":
            rho = ratio(logprob)
            clipped = rho.clamp(0.8, 1.2)
            per_token = -torch.minimum(rho * row.advantage, clipped * row.advantage)
        else:
            p = logprob.exp()
            per_token = -row.advantage * (p / (p + 0.1) if shape else p)
        scale = {
            "token-mean": n_tokens,
            "seq-mean-token-sum": len(rows),
            "seq-mean-token-mean": len(rows) * len(row.response_ids),
            "seq-mean-token-sum-norm": len(rows) * training.max_response_tokens,
        }[mode]
        total = total + per_token.sum() / scale
    return total


@pytest.mark.parametrize("shape", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_the_written_loss(base: Path, mode: str, shape: bool) -> None:
    policy = load_double(base)
    training = make_training(loss_agg_mode=mode, sft_loss_agg_mode=mode, micro_batch_rows=3)
    groups = [
        make_group([0.0, 0.0, 0.0], name="failed", shown=1.0),
        make_group([1.0, 0.0, 1.0], name="mixed", shown=0.0),
        make_group([1.0, 0.0, 0.0, 0.0], name="plain"),
    ]
    method = make_luffy(training, shape=shape)
    found = direction(policy, method, groups)
    rows = method.rows(groups, (), 1)
    expected = flat_gradient(policy, written_loss(policy, rows, mode, training, shape))
    assert relative_distance(found, expected) < 1e-6


def test_both_terms_stand_over_one_count() -> None:
    counts = {"rl": 30, "demonstration": 10}, {"rl": 60, "demonstration": 140}
    tokens = make_luffy().mix(1, StepStats(1, (), *counts))
    assert tokens == (0.3, 0.7)
    same: dict[str, Any] = {
        "loss_agg_mode": "seq-mean-token-sum",
        "sft_loss_agg_mode": "seq-mean-token-sum",
    }
    assert make_luffy(make_training(**same)).mix(1, StepStats(1, (), *counts)) == (0.75, 0.25)


def test_two_normalisers_are_refused() -> None:
    method = make_luffy(make_training(loss_agg_mode="seq-mean-token-sum"))
    with pytest.raises(ConfigError, match=r"^here: the method has one norm.* to the same\.$"):
        method.check("here")
    make_luffy().check("here")


# -- reductions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["options", "dataset"])
def test_without_demonstrations_it_is_dr_grpo(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.setattr(run_module, "GraderPool", TextGrader)
    chosen: dict[str, Any] = {
        "options": {"options": {"n_demo": 0}},
        "dataset": {"dataset": {"demonstrations": 0}},
    }[without]
    dataset = chosen.get("dataset")
    modes: dict[str, Any] = {"loss_agg_mode": MODES[3], "sft_loss_agg_mode": MODES[3]}
    luffy = train(make_spec(base, "luffy", **chosen, **modes), tmp_path)
    spec = make_spec(base, "rl_zero", dataset=dataset, norm_adv_by_std_in_grpo=False, **modes)
    dr_grpo = train(spec, tmp_path)
    assert_same_run(luffy, dr_grpo)


def test_the_share_of_groups_with_a_demonstration_is_logged(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "GraderPool", TextGrader)
    options = make_options("luffy", 2, demonstrated_share=1.0)
    folder = train(make_spec(base, "luffy", options=options), tmp_path)
    assert curve(folder, "demonstrated_group_share", "rows_dropped")[1:] == [(1.0, 0)] * 2
