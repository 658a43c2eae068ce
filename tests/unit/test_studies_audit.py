"""The waterfall of bugs: what is paired with what, and that every prediction can be scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge.plan.grid import load_plan
from bridge.store.schema import read_yaml
from studies.audit.waterfall import BUGS, PREDICTIONS, costs, main, table
from tests.fixtures.tidy import make_tidy, write_tidy


def test_a_cost_is_paired_by_world_and_seed() -> None:
    right = np.array([[10.0, 20.0], [50.0, 60.0]])
    runs = {"cold_start": right, "cold_start_lost": right - [[1.0, 3.0], [2.0, 4.0]]}
    (stem, mean) = costs(runs)["cold_start_lost"]
    assert stem == "cold_start" and mean.mean == pytest.approx(-2.5)
    assert mean.high - mean.low == pytest.approx(2 * 12.7062 * 0.5, rel=1e-4)


def test_the_suite_has_a_row_without_for_each_row_with_a_bug(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_plan("audit", root=root)
    labels = tuple(dict.fromkeys(spec.label for spec in suite.runs))
    bugs = {spec.label: spec.training.audit for spec in suite.runs}
    for label in labels:
        stem, _, end = label.rpartition("_")
        assert (bugs[label] is not None) == (f"_{end}" in BUGS)
        assert bugs[label] is None or bugs[stem] is None
    seeds = tuple(dict.fromkeys(spec.seed for spec in suite.runs))
    tidy = make_tidy(models=("tiny-qwen",), methods=labels, seeds=seeds, sizes=(20, 20), n_steps=1)
    tidy["runs"]["world"] = tidy["runs"]["seed"] // 100
    main([str(write_tidy(tmp_path / "tidy", tidy)), "--figures", str(tmp_path / "figures")])
    text = capsys.readouterr().out
    assert "4 worlds with 2 seeds each." in text
    assert all(p["name"] in text for p in read_yaml(PREDICTIONS)["audit"])
    assert list((tmp_path / "figures").glob("audit_costs.*"))


def test_predictions_name_rows() -> None:
    runs = {"mixing": np.ones((2, 1))}
    runs |= {row: np.ones((2, 1)) for p in read_yaml(PREDICTIONS)["audit"] for row in p["rows"]}
    assert "undecided" not in table(runs, read_yaml(PREDICTIONS)["audit"])
