"""Predictors of accuracy after RL: halves without a shared question, closed forms, the suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge.analysis.numbers.frames import load_tidy
from bridge.plan.grid import load_plan
from bridge.store.schema import read_yaml
from studies.quagmires.predictors import (
    PREDICTIONS,
    bootstrap,
    checkpoints,
    left_out,
    predicted,
    r_squared,
    rho,
    tables,
)
from tests.fixtures.tidy import make_tidy, write_tidy


def test_each_checkpoint_is_foretold_by_the_others() -> None:
    rng = np.random.default_rng(0)
    values, after = rng.normal(size=7), rng.normal(size=7)
    expected = []
    for i in range(7):
        rest = np.arange(7) != i
        slope, start = np.polyfit(values[rest], after[rest], 1)
        expected.append(start + slope * values[i])
    assert left_out(values, after) == pytest.approx(np.array(expected))


def test_a_monotone_predictor_has_rho_one_in_every_draw() -> None:
    after = np.linspace(0.1, 0.9, 12)
    columns = {"pass_k": after**3, "pass_1": after[::-1], "loss": after, "after": after}
    mean = bootstrap(columns, lambda c: rho(c["pass_k"], c["after"]), 200)
    assert (mean.mean, mean.low, mean.high) == pytest.approx((1, 1, 1))
    assert rho(columns["pass_1"], after) == pytest.approx(-1)
    assert r_squared(after, 2 * after) == pytest.approx(1) != r_squared(after**3, after)
    assert rho(np.ones(4), np.arange(4.0)) == 0
    # One standard deviation counts the same on both sides.
    longer = columns | {"loss": 100 * after}
    assert predicted(longer, "both") == pytest.approx(predicted(columns, "both"))


def test_tables_come_from_tidy_tables(tmp_path: Path, root: Path) -> None:
    suite = load_plan("quagmires", root=root)
    cells = {(spec.dataset, spec.label) for spec in suite.runs}
    assert {(d, f"{row}_rl") for d, row in cells if not row.endswith("_rl")} <= cells
    assert sum(not row.endswith("_rl") for _, row in cells) == 12
    labels = tuple(dict.fromkeys(spec.label for spec in suite.runs))
    tidy = make_tidy(
        models=("tiny-qwen",), methods=labels, seeds=(0, 1), sizes=(20, 20), n_samples=32, n_steps=1
    )
    rng = np.random.default_rng(0)
    tidy["dynamics"]["demo_loss_heldout"] = rng.random(len(tidy["dynamics"]))
    frame = checkpoints(load_tidy(write_tidy(tmp_path, tidy)))
    assert len(frame) == 9
    scores = tidy["scores"]
    own = scores[scores["method"] == "s30_rl"]
    odd = own[own["question_id"].str[-1].astype(int) % 2 == 1]
    by_run = odd.groupby(["seed", "benchmark"])["greedy_correct"].mean().groupby("seed").mean()
    after = frame.set_index("row").loc["s30", "after"]
    assert after == pytest.approx(by_run.mean())
    predictions = read_yaml(PREDICTIONS)["quagmires"]
    text = tables(frame, predictions)
    assert all(p["name"] in text for p in predictions)


def test_rl_goes_on_from_the_checkpoint_that_is_measured(root: Path) -> None:
    """Same seed, data, rate and number of SFT steps."""
    runs = {(s.dataset, s.label, s.seed): s for s in load_plan("quagmires", root=root).runs}
    for (dataset, label, seed), spec in runs.items():
        if label.endswith("_rl"):
            first = runs[dataset, label.removesuffix("_rl"), seed]
            assert first.method_options["steps"] == spec.method_options["sft_steps"]
            assert first.training.lr_sft == spec.training.lr_sft
            assert first.training.lr_rl == spec.training.lr_rl == 1e-4
