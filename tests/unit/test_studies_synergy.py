"""The study of schedules: additive models against closed forms, tables, predictions, the suite."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridge.analysis.numbers.frames import Tidy
from bridge.plan.grid import load_plan
from bridge.store.schema import read_yaml
from studies.synergy.schedules import (
    BASE,
    PREDICTIONS,
    RL,
    SCHEDULES,
    SFT,
    additive,
    adjusted,
    better,
    by_world,
    levels,
    over_better,
    quantity,
    tables,
)
from tests.fixtures.workflow import ROOT

ROWS = {
    BASE: np.array([20.0, 30.0]),
    SFT: np.array([50.0, 40.0]),
    RL: np.array([40.0, 60.0]),
    "cold_start": np.array([80.0, 60.0]),
    "mixing": np.array([50.0, 70.0]),
    "alternating": np.array([40.0, 40.0]),
}


def test_gains_add_up_in_points_and_in_odds() -> None:
    assert additive(ROWS).tolist() == [70.0, 70.0]
    # Odds 1/4, 1 and 2/3: adding log-odds multiplies 1 * (2/3) / (1/4) = 8/3, which is 8 in 11.
    assert additive(ROWS, "odds")[0] == pytest.approx(100 * 8 / 11)
    nothing = {row: np.array([0.0, 100.0]) for row in (BASE, SFT, RL)}
    assert np.all(np.isfinite(additive(nothing, "odds")))
    with pytest.raises(ValueError, match="no scale"):
        additive(ROWS, "logs")


def test_the_better_one_is_decided_once_and_differences_are_paired() -> None:
    """RL has the higher mean, although SFT leads in the first world."""
    assert better(ROWS) == RL
    assert over_better(ROWS, "cold_start").tolist() == [40.0, 0.0]
    said = {"quantity": "over_additive", "schedule": "mixing"}
    assert quantity(said, ROWS).tolist() == [-20.0, 0.0]
    odds = quantity(said | {"scale": "odds"}, ROWS)
    assert odds[0] == pytest.approx(50 - 100 * 8 / 11)
    assert quantity({"quantity": "over_better", "schedule": "alternating"}, ROWS).tolist() == [
        0.0,
        -20.0,
    ]


@pytest.fixture
def tidy() -> Tidy:
    """Ten questions of two and ten of six steps; the accuracies of `ROWS` (halved: easy ones)."""
    runs, scores, costs = [], [], []
    for row, points in ROWS.items():
        for world, accuracy in enumerate(points, 1):
            key = {"suite": "synergy", "model": "m", "dataset": "d", "method": row}
            key["seed"] = 100 * world
            runs.append(key | {"world": world, "status": "done"})
            costs.append(key | {"flops_total": 3e11, "tokens_trained": 5e4})
            for i in range(20):
                right = i < accuracy / 5
                scores.append(
                    key
                    | {"benchmark": "rung1", "question_id": str(i), "greedy_correct": int(right)}
                    | {"difficulty": 2 if i < 10 else 6, "greedy_tokens": 10 + i // 10}
                )
    frames = [pd.DataFrame(x) for x in (runs, scores, costs)]
    return Tidy(frames[0], frames[1], pd.DataFrame(), frames[2])


def test_tables(tidy: Tidy) -> None:
    assert {row: found.tolist() for row, found in by_world(tidy).items()} == {
        row: points.tolist() for row, points in ROWS.items()
    }
    found = levels(tidy)
    assert found.loc[("cold_start", 2), "greedy_correct"] == 100
    assert found.loc[("cold_start", 6), "greedy_correct"] == pytest.approx((60 + 20) / 2)
    assert found.loc[("cold_start", 6), "greedy_tokens"] == 11
    text = tables(tidy, read_yaml(PREDICTIONS)["synergy"])
    assert "2 worlds. The better one alone is rl_zero." in text
    assert "foretells 70.0 in points" in text
    assert "| cold_start | 100 (10) | 40 (11) |" in text
    assert "| mixing | 60.0 | +10.0 [+10.0, +10.0] | 0.000 | -10.0" in text


def test_p_values_are_of_paired_tests_and_adjusted_for_three_schedules() -> None:
    """With one degree of freedom p is 1 - 2 atan(t) / pi."""
    better_alone = np.array([40.0, 60.0])
    gaps = {"cold_start": [1.0, 3.0], "mixing": [4.0, 6.0], "alternating": [0.0, 0.0]}
    rows = ROWS | {row: better_alone + gap for row, gap in gaps.items()}
    first, second = (1 - 2 * np.arctan(t) / np.pi for t in (5.0, 2.0))
    assert adjusted(rows) == pytest.approx(
        {"mixing": 3 * first, "cold_start": 2 * second, "alternating": 1.0}
    )


def test_every_prediction_is_about_a_schedule_of_the_suite() -> None:
    plan = load_plan("synergy", root=ROOT)
    assert {run.label for run in plan.runs} == {BASE, SFT, RL, *SCHEDULES}
    assert len({str(run.training.budget) for run in plan.runs}) == 1
    for prediction in read_yaml(PREDICTIONS)["synergy"]:
        assert quantity(prediction, ROWS).shape == (2,)
        assert prediction["schedule"] in SCHEDULES
        assert ("at_least" in prediction) != ("at_most" in prediction)
        assert 0.5 <= prediction["probability"] < 1
