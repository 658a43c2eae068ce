"""Exact-gradient training against finite differences and an explicit shared map; the small CLI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies.coupling import exact as coupling_exact
from studies.coupling import tabular
from studies.coupling.exact import local_signs, natural_paths, run, sign_table, size_table
from studies.coupling.exact_training import (
    Objective,
    Task,
    feature_kernel,
    first_order_coupling,
    label_tasks,
    logit_gradient,
    train,
)
from studies.coupling.identities import random_problems
from studies.coupling.tabular import Array, TabularProblem, log_softmax


def tasks(seed: int = 0, n: int = 3, **settings: Any) -> Task:
    chosen: Any = {"prompts": 5, "features": 2, "target": "verifier format", "eps": 0.1} | settings
    return label_tasks(np.random.default_rng(seed), n, **chosen)


def objective_value(
    problem: TabularProblem, log_p: Array, objective: Objective, beta: float
) -> Array:
    if objective == "sft":
        return -tabular.sft_loss(problem, log_p)
    return tabular.regularised_reward(problem, log_p, beta)


@pytest.mark.parametrize("objective", ["rl", "sft"])
def test_the_gradient_is_the_slope_of_the_objective(objective: Objective) -> None:
    problem = tasks(n=1).problem
    z = np.random.default_rng(1).normal(size=problem.reward.shape)
    gradient = logit_gradient(problem, log_softmax(z), objective, 0.3)
    for x in range(5):
        for y in range(4):
            step = np.zeros_like(z)
            step[0, x, y] = 1e-6
            rise = objective_value(problem, log_softmax(z + step), objective, 0.3)
            fall = objective_value(problem, log_softmax(z - step), objective, 0.3)
            assert gradient[0, x, y] == pytest.approx((rise - fall)[0] / 2e-6, abs=1e-8)


def test_the_kernel_trains_the_same_as_an_explicit_shared_map() -> None:
    task = tasks(n=1)
    problem, phi = task.problem, task.features[0]
    largest = np.linalg.eigvalsh(phi @ phi.T)[-1]
    w = np.zeros((2, 4))
    for _ in range(7):
        log_p = log_softmax(problem.log_start[0] + phi @ w)
        for x in range(5):
            p = np.exp(log_p[x])
            f = problem.reward[0, x] - 0.2 * (log_p[x] - problem.log_start[0, x])
            w += 5 / largest * np.outer(phi[x], problem.weights[0, x] * p * (f - p @ f))
    ours = train(
        task, problem.log_start, parameters="shared map", objective="rl", steps=7, beta=0.2
    )
    assert ours.log_p[0] == pytest.approx(log_softmax(problem.log_start[0] + phi @ w), abs=1e-12)
    assert ours.loss.shape == ours.reward.shape == (8, 1)


def test_a_feature_per_prompt_is_free_logits() -> None:
    task = tasks()
    own = replace(task, features=np.broadcast_to(np.eye(5), (3, 5, 5)))
    start = task.problem.log_start
    shared = train(own, start, parameters="shared map", objective="sft", steps=5)
    free = train(task, start, parameters="free logits", objective="sft", steps=5)
    assert shared.log_p == pytest.approx(free.log_p, abs=1e-12)


def test_rl_with_free_logits_ends_at_the_gibbs_optimum() -> None:
    task = tasks()
    start = task.problem.log_start
    end = train(task, start, parameters="free logits", objective="rl", steps=600, beta=1.0)
    assert end.log_p == pytest.approx(tabular.gibbs(task.problem, 1.0), abs=1e-6)
    rise = end.loss[-1] - end.loss[0]
    assert rise == pytest.approx(tabular.coupling_constant(task.problem, 1.0), abs=1e-6)


def test_sft_with_free_logits_ends_at_the_expert() -> None:
    task = tasks(eps=0.3)
    start = task.problem.log_start
    end = train(task, start, parameters="free logits", objective="sft", steps=3000)
    assert np.exp(end.log_p) == pytest.approx(task.problem.expert, abs=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_order_coupling_is_the_rate_in_both_directions(shared: bool) -> None:
    task = tasks()
    problem = task.problem
    kernel = feature_kernel(task.features) if shared else None
    _, rate = first_order_coupling(problem, problem.log_start, kernel)

    def moved(objective: Objective, size: float) -> Array:
        gradient = logit_gradient(problem, problem.log_start, objective, 0.0)
        return log_softmax(
            problem.log_start + size * (gradient if kernel is None else kernel @ gradient)
        )

    size = 1e-6
    loss = tabular.sft_loss(problem, moved("rl", size)) - tabular.sft_loss(
        problem, moved("rl", -size)
    )
    reward = tabular.mean_reward(problem, moved("sft", size)) - tabular.mean_reward(
        problem, moved("sft", -size)
    )
    assert loss / (2 * size) == pytest.approx(rate, abs=1e-8)
    assert reward / (2 * size) == pytest.approx(-rate, abs=1e-8)


def test_under_the_fisher_metric_the_rate_is_the_gap() -> None:
    problem = random_problems(np.random.default_rng(3), 1, prompts=1, answers=5)
    log_p = problem.log_start
    p = np.exp(log_p[0, 0])
    natural = (
        np.linalg.pinv(np.diag(p) - np.outer(p, p), rcond=1e-12)
        @ logit_gradient(problem, log_p, "rl", 0.0)[0, 0]
    )
    gap, _ = first_order_coupling(problem, log_p)
    rate = -logit_gradient(problem, log_p, "sft", 0.0)[0, 0] @ natural
    assert rate == pytest.approx(gap[0], abs=1e-9)


def test_two_answers_of_one_prompt_never_break_the_sign() -> None:
    table = local_signs(seed=0, n=2000)
    right: Any = table.set_index(["prompts", "answers", "parameters"])["right"]
    assert right[1, 2, "free logits"] == 1.0
    others = right.drop((1, 2, "free logits"))
    assert others.between(0.55, 0.90).all()
    # The more prompts share, the worse.
    assert right[12, 4, "shared map, 1 features"] < right[12, 4, "shared map, 12 features"] - 0.05


@pytest.mark.parametrize(
    ("target", "eps", "paid"), [("verifier format", 0.1, 0.9), ("bare label", 0.0, 0.0)]
)
def test_the_verifier_pays_the_format_it_asks_for(target: str, eps: float, paid: float) -> None:
    task = tasks(target=target, eps=eps)
    assert tabular.expert_reward(task.problem) == pytest.approx(paid)
    assert task.problem.expert.sum(-1) == pytest.approx(1.0)
    assert (task.problem.reward.sum(-1) == 1).all()


def test_the_sign_table_counts() -> None:
    cell = {"target": "bare label", "parameters": "free logits", "beta": 1.0, "residual": 0.0}
    frame = pd.DataFrame(
        [
            {"order": "SFT then RL", "gap": 0.1, "predicted": -1.0, "observed": 2.0, **cell},
            {"order": "SFT then RL", "gap": 0.1, "predicted": 1.0, "observed": 2.0, **cell},
            {"order": "RL then SFT", "gap": 0.1, "predicted": -0.1, "observed": -2.0, **cell},
        ]
    )
    table: Any = sign_table(frame).set_index("order")
    assert table.loc["SFT then RL", ["tasks", "right", "right_by_gap"]].tolist() == [2, 0.5, 1.0]
    assert table.loc["RL then SFT", ["right", "right_by_gap"]].tolist() == [1.0, 1.0]
    assert table.loc["SFT then RL", "right_low"] < 0.5 < table.loc["SFT then RL", "right_high"]


def test_the_size_table_fits_a_line() -> None:
    frame = pd.DataFrame({"predicted": [0.0, 1.0, 2.0], "observed": [1.0, 1.5, 2.0]})
    cell: Any = {"parameters": "free logits", "beta": 1.0, "residual": 0.5, "order": "SFT then RL"}
    other: Any = {"predicted": 9.0, "observed": -9.0, **cell, "order": "RL then SFT"}
    both: Any = [frame.assign(**cell), pd.DataFrame([other])]
    fit: Any = size_table(pd.concat(both)).iloc[0]
    assert [fit["slope"], fit["intercept"], fit["r2"]] == pytest.approx([0.5, 1.0, 1.0])


def test_the_crossing_is_on_the_path_and_lowest() -> None:
    paths: Any = natural_paths(0, beta=0.25, s=0.6)
    met = paths[paths["crossing"]]
    assert set(met["target"]) <= {"verifier format, 10 % noise", "verifier format, 30 % noise"}
    assert len(met) >= 2
    for _, point in met.iterrows():
        leg = paths[
            (paths["order"] == point["order"])
            & (paths["target"] == point["target"])
            & (np.ceil(paths["progress"]) == np.ceil(point["progress"]))
        ]
        assert point["loss"] == leg["loss"].min()


def test_the_command_writes_tables_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coupling_exact, "RL_STEPS", 20)
    monkeypatch.setattr(coupling_exact, "check_identities", lambda seed: ({"I1": 0.0}, 1))
    run(tmp_path / "a", tmp_path / "figures", seed=0, n=2, n_local=50)
    assert "Counterexample to theorem 4.1" in capsys.readouterr().out
    names = {path.stem for path in (tmp_path / "a").iterdir()}
    assert names == {"changes", "closed_forms", "courses", "local_signs", "paths", "signs", "sizes"}
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(drawn) == 12
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in drawn)


def test_where_sft_has_converged_in_a_class_too_small_rl_can_only_raise_the_loss() -> None:
    """At the minimum of L its gradient is zero, so the gap decides nothing any more."""
    task = tasks(n=8, eps=0.3)
    start = task.problem.log_start
    sft = train(task, start, parameters="shared map", objective="sft", steps=4000)
    gap, rate = first_order_coupling(task.problem, sft.log_p, feature_kernel(task.features))
    assert (gap < -0.02).any()
    assert np.abs(rate).max() < 1e-4
    tuned = replace(task, problem=task.problem.started_at(sft.log_p))
    rl = train(tuned, sft.log_p, parameters="shared map", objective="rl", steps=100, beta=0.5)
    assert (rl.loss[-1] > rl.loss[0]).all()
    promised = tabular.coupling_constant(tuned.problem, 0.5)
    assert (promised < 0).any()
