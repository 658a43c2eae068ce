"""The grid of learning rates: what it chooses and refuses, and what other suites show of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bridge.analysis.numbers.frames import TidyError, load_tidy
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.rates import choose_rates, is_grid, load_grid
from tests.fixtures.tidy import make_tidy, write_tidy

# Validation accuracy per rate, for two models; the third SFT rate is first in one model only.
ACCURACY = {
    "sft_3e-5": (0.50, 0.40),
    "sft_1e-4": (0.60, 0.55),
    "sft_3e-4": (0.70, 0.30),
    "rl_3e-5": (0.20, 0.20),
    "rl_1e-4": (0.30, 0.35),
    "rl_3e-4": (0.90, 0.95),
}
MODELS = ("tiny-qwen", "tiny-llama")


def grid_tables(statuses=None):
    """A suite like `tune`: each row is plain SFT or plain RL at one rate."""
    tables = make_tidy(
        models=MODELS,
        methods=tuple(ACCURACY),
        sizes=(20,),
        n_steps=10,
        seeds=(100,),
        suite="tune",
        statuses=statuses,
    )
    runs, dynamics = tables["runs"], tables["dynamics"]
    stage, rate = (runs["method"].str.split("_").str[i] for i in (0, 1))
    runs["implementation"] = stage.map({"sft": "sft", "rl": "rl_zero"})
    runs["lr_sft"] = rate.astype(float).where(stage == "sft", 1e-4)
    runs["lr_rl"] = rate.astype(float).where(stage == "rl", 1e-4)
    dynamics["kind"] = dynamics["method"].str.split("_").str[0].where(dynamics["step"] > 0, "probe")
    for (model, method), part in dynamics.groupby(["model", "method"]):
        # Better on the way than at the end: only the end counts.
        course = np.where(part["step"] == 10, ACCURACY[method][MODELS.index(model)], 0.99)
        dynamics.loc[part.index, "heldout_accuracy"] = np.where(
            part["step"] % 5 == 0, course, np.nan
        )
    return tables


def write_grid(folder: Path, statuses=None) -> Path:
    return write_tidy(folder, grid_tables(statuses))


def _chosen(tidy):
    return {stage.name: stage.chosen and stage.chosen.rate for stage in choose_rates(tidy)}


def test_the_highest_mean_over_models_at_the_end_is_chosen(tmp_path):
    tidy = load_tidy(write_grid(tmp_path))
    assert is_grid(tidy)
    assert _chosen(tidy) == {"SFT": 1e-4, "RL": 3e-4}
    sft, rl = choose_rates(tidy)
    assert sft.chosen.mean == pytest.approx((0.60 + 0.55) / 2)
    assert sft.why == (
        "SFT: 3 rates, 2 runs each, the same for every model and data set; 1e-04 has the highest "
        "mean, 57.5, before 3e-04 with 50.0."
    )
    assert rl.why.endswith("before 1e-04 with 32.5; it is at the edge of the grid.")


def test_a_rate_with_a_run_that_did_not_finish_is_not_chosen(tmp_path):
    statuses = {("tiny-llama", "chains", "rl_3e-4", 100): "diverged"}
    tidy = load_tidy(write_grid(tmp_path / "tidy", statuses))
    assert _chosen(tidy) == {"SFT": 1e-4, "RL": 1e-4}
    build_tables(tmp_path / "tidy", tmp_path / "tables")
    line = next(
        line
        for line in (tmp_path / "tables" / "rates.md").read_text().splitlines()
        if line.startswith("| 3e-04 | 90.0")
    )
    assert line == "| 3e-04 | 90.0 | diverged | – |"


def test_equal_means_choose_the_lower_rate(tmp_path):
    tables = grid_tables()
    rows = tables["dynamics"]
    rows.loc[rows["method"].str.startswith("sft"), "heldout_accuracy"] = 0.5
    assert _chosen(load_tidy(write_tidy(tmp_path, tables)))["SFT"] == 3e-5


def test_runs_of_mixed_stages_are_no_grid(tmp_path):
    tables = grid_tables()
    tables["dynamics"].loc[tables["dynamics"]["step"] == 3, "kind"] = "joint"
    with pytest.raises(TidyError, match=r"suite tune: sft_3e-5 trains sft and joint steps"):
        choose_rates(load_tidy(write_tidy(tmp_path, tables)))


def test_other_suites_show_the_committed_grid_and_whether_they_follow_it(tmp_path):
    tuned = write_grid(tmp_path / "tune")
    for rate, said in ((1e-4, "This suite uses 1e-04, as chosen."), (5e-4, "is not the choice.")):
        tables = make_tidy(models=("m",), methods=("sft", "bridge"), sizes=(20,), n_steps=5)
        tables["runs"] = tables["runs"].assign(
            implementation=tables["runs"]["method"], lr_sft=rate, lr_rl=3e-4
        )
        folder = tmp_path / str(rate)
        build_tables(write_tidy(folder / "tidy", tables), folder / "tables", tuned_dir=tuned)
        assert said in (folder / "tables" / "rates.md").read_text()
        rows = pd.read_csv(folder / "tables" / "rates.csv")
        assert set(rows["suite"]) == {"tune"}
        assert rows.loc[rows["chosen"], "rate"].unique().tolist() == [1e-4, 3e-4]
        assert len(rows) == len(ACCURACY) * len(MODELS)


def test_without_a_grid_there_is_no_table(tmp_path):
    tables = make_tidy(models=("m",), methods=("sft",), sizes=(20,), n_steps=5)
    tidy = load_tidy(write_tidy(tmp_path / "tidy", tables))
    assert not is_grid(tidy)
    assert load_grid(tidy, tmp_path / "absent") is None
    with pytest.raises(TidyError, match="holds no grid of learning rates"):
        load_grid(tidy, tmp_path / "tidy")
