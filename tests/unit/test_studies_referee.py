"""The study of tuning asymmetry: what validation chooses, and how predictions are scored."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from bridge.analysis.numbers.frames import load_tidy
from bridge.plan.grid import load_plan
from bridge.store.schema import read_yaml
from studies.referee.asymmetry import (
    PREDICTIONS,
    Trials,
    brier,
    gap,
    ranking_tau,
    read_trials,
    score,
    tables,
)
from studies.referee.pair import found_gain
from studies.referee.pair import tables as pair_tables
from studies.referee.selection import chances, expected_test
from studies.referee.zoo import agreement, decided
from studies.referee.zoo import gap as zoo_gap
from studies.worlds import over_worlds, run_accuracies
from tests.fixtures.tidy import make_tidy, write_tidy


@pytest.mark.parametrize("b", [1, 2, 3, 5, 6])
def test_the_expectation_is_the_mean_over_all_subsets(b: int) -> None:
    rng = np.random.default_rng(b)
    validation, test = rng.random(6), rng.random(6)
    validation[2] = np.nan
    reached = []
    for drawn in itertools.combinations(range(6), b):
        finished = [i for i in drawn if np.isfinite(validation[i])] or list(drawn)
        reached.append(test[max(finished, key=lambda i: validation[i])])
    assert expected_test(validation, test, b) == pytest.approx(np.mean(reached))
    assert chances(6, b).sum() == pytest.approx(1)


def test_more_trials_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="7 trials out of 6"):
        chances(6, 7)


def made(**rows: list[list[float]]) -> Trials:
    """Validation and test agree."""
    arrays = {row: np.array(values, float) for row, values in rows.items()}
    return Trials(arrays, arrays, tuple(range(1, 1 + len(next(iter(arrays.values()))))))


def test_a_gap_is_paired_by_world() -> None:
    trials = made(mixing=[[10, 20], [50, 60]], bridge=[[15, 25], [55, 65]])
    assert gap(trials, ("bridge", 2), ("mixing", 2)).mean == 5
    assert gap(trials, ("bridge", 2), ("mixing", 2)).low == 5  # the worlds agree
    assert gap(trials, ("bridge", 1), ("mixing", 2)).mean == 0
    tau = ranking_tau(trials, 1, 2)
    assert (tau.mean, tau.low, tau.high) == (1, 1, 1)
    turned = made(mixing=[[10, 20], [50, 60]], bridge=[[15, 16], [55, 80]])
    # The worlds disagree: alone, the first turns the order round and the second does not.
    tau = ranking_tau(turned, 1, 2)
    assert (tau.low, tau.high) == (-1, 1)
    mean = over_worlds(np.array([1.0, 2.0, 6.0]))
    assert (mean.mean, mean.high - mean.low) == pytest.approx(
        (3.0, 2 * 4.302653 * 2.645751 / 3**0.5)
    )


def test_predictions_come_true_fail_or_stay_open() -> None:
    trials = made(mixing=[[10, 20], [50, 62]], bridge=[[15, 25], [55, 69]])
    sides = {"left": {"row": "bridge", "trials": 2}, "right": {"row": "mixing", "trials": 2}}

    def outcome(**limits: float) -> bool | None:
        (scored,) = score(trials, [{"name": "x", "probability": 0.8, **sides, **limits}])
        return scored.came_true

    assert outcome(at_least=-40) is True
    assert outcome(at_most=-40) is False
    assert outcome(at_least=5.5) is None
    scored = score(
        trials,
        [
            {"name": "a", "probability": 0.8, **sides, "at_least": -40},
            {"name": "b", "probability": 0.6, **sides, "at_most": -40},
            {"name": "c", "probability": 0.9, **sides, "at_least": 5.5},
        ],
    )
    assert brier(scored) == pytest.approx((0.2**2 + 0.6**2) / 2)


def test_tidy_tables_are_read_and_every_prediction_can_be_scored(
    tmp_path: Path, root: Path
) -> None:
    rows = ("rl_zero", "cold_start", "alternating", "mixing", "bridge")
    labels = tuple(f"{row}.t{i:02d}" for row in rows for i in range(16))
    lost = {("tiny-qwen", "chains", "mixing.t03", 200): "diverged"}
    made = make_tidy(
        models=("tiny-qwen",),
        methods=labels,
        seeds=(100, 200),
        sizes=(20, 20),
        n_steps=2,
        statuses=lost,
    )
    trials = read_trials(load_tidy(write_tidy(tmp_path, made)))
    assert trials.worlds == (1, 2)
    assert trials.test["mixing"].shape == (2, 16)
    assert np.isnan(trials.validation["mixing"][1, 3]) and trials.test["mixing"][1, 3] == 0
    scores = made["scores"]
    own = scores[(scores["method"] == "bridge.t02") & (scores["seed"] == 100)]
    by_rung = own.groupby("benchmark")["greedy_correct"].mean()
    assert trials.test["bridge"][0, 2] == pytest.approx(100 * by_rung.mean())
    predictions = read_yaml(PREDICTIONS)["asymmetry"]
    text = tables(trials, predictions)
    assert all(prediction["name"] in text for prediction in predictions)
    suite = load_plan("asymmetry", root=root)
    assert {spec.label for spec in suite.runs} == set(labels)


def test_a_gain_is_found_as_often_as_pairs_of_runs_differ() -> None:
    runs = np.array([50.0, 53.0, 60.0])
    # 53 - 50, 60 - 50 and 60 - 53 of six ordered pairs.
    assert found_gain(runs, 1, 2.6) == pytest.approx(3 / 6)
    # Best of two against the third: 60 - 50, 60 - 53; 53 - 60 is none.
    assert found_gain(runs, 2, 2.6) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="need more than 3 runs"):
        found_gain(runs, 3, 2.6)
    noise = np.random.default_rng(0).normal(0, 3, 60)
    assert found_gain(noise, 1, 0.0) == pytest.approx(0.5, abs=0.01)


def test_the_tables_of_the_pair_come_from_tidy_tables(tmp_path: Path, root: Path) -> None:
    suite = load_plan("pair", root=root)
    seeds = tuple(dict.fromkeys(spec.seed for spec in suite.runs))
    tidy = make_tidy(
        models=("tiny-qwen",), methods=("mixing", "bridge"), seeds=seeds, sizes=(20, 20), n_steps=1
    )
    tidy["runs"]["world"] = tidy["runs"]["seed"] // 100
    runs = run_accuracies(load_tidy(write_tidy(tmp_path, tidy)))
    assert runs["bridge"].shape == (8, 5)
    own = tidy["scores"]
    own = own[(own["method"] == "bridge") & (own["seed"] == 203)]
    mean = 100 * own.groupby("benchmark")["greedy_correct"].mean().mean()
    assert runs["bridge"][1, 3] == pytest.approx(mean)
    predictions = read_yaml(PREDICTIONS)
    text = pair_tables(runs, predictions)
    gap = (runs["bridge"] - runs["mixing"]).mean()
    assert f"bridge minus mixing: {gap:+.1f}" in text
    for prediction in (*predictions["pair"], *predictions["nothing"]):
        assert prediction["name"] in text


def test_rows_of_the_zoo_are_compared_as_means_world_by_world() -> None:
    rows = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 6.0]), "c": np.array([0.0, 9.0])}
    assert zoo_gap(rows, ["a", "b"], ["c"]).tolist() == [2.0, -5.0]
    # Of the three pairs, the first world turns none of b, a, c round; the second two of three.
    assert agreement(rows, ["b", "a", "c"]).tolist() == pytest.approx([1.0, -1 / 3])
    assert decided(["above", "undecided", "below", "above"], ["above"]) == 2


def test_every_prediction_about_the_zoo_is_of_its_rows(root: Path) -> None:
    plan = load_plan("zoo_tune", root=root)
    rows = {run.label.rpartition(".t")[0] for run in plan.runs}
    assert len(rows) == 38
    for prediction in read_yaml(PREDICTIONS)["zoo"]:
        named = [*prediction.get("left", []), *prediction.get("right", [])]
        named += prediction.get("kendall_tau", [])
        assert set(named) <= rows
        assert named or set(prediction["decided"]) <= {"above", "below"}
        assert 0.35 <= prediction["probability"] < 1
