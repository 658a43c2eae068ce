"""The tables: numbers, words instead of zeros, escaping, and the same bytes each time."""

import re

import pandas as pd
import pytest

from bridge.analysis.numbers.cells import AVERAGE, build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.statistics import cell_interval, pass_at_k
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.accuracy import main_table_text
from bridge.analysis.tables.render import Sheet, Value, columns, latex, markdown
from tests.fixtures.tidy import make_tidy, write_tidy

METHODS = ("base", "sft", "rl_zero", "bridge")
SIZES = (40, 30, 25)
QWEN = ("tiny-qwen", "chains")
STATUSES = {
    (*QWEN, "sft", 1): "diverged",
    (*QWEN, "rl_zero", 0): "failed",
    (*QWEN, "rl_zero", 1): "failed",
    (*QWEN, "rl_zero", 2): "timeout",
}


def _make(**changes):
    settings = {"models": ("tiny-qwen",), "methods": METHODS, "sizes": SIZES, "n_steps": 10}
    return make_tidy(**(settings | changes))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    return write_tidy(folder / "tidy", _make(statuses=STATUSES, n_samples=4))


@pytest.fixture(scope="module")
def built(suite):
    build_tables(suite, suite.parent / "tables")
    return suite.parent / "tables"


def _csv(folder, name="main"):
    return pd.read_csv(folder / f"{name}.csv").set_index(["metric", "method", "benchmark"])


def test_points_are_a_hundred_times_the_mean_of_the_answers(suite, built):
    scores = pd.read_parquet(suite / "scores.parquet")
    part = scores[(scores["method"] == "bridge") & (scores["benchmark"] == "rung2")]
    table = part.pivot(index="seed", columns="question_id", values="greedy_correct")
    expected = cell_interval([table.to_numpy(float)])
    row = _csv(built).loc["greedy", "bridge", "rung2"]
    assert row["points"] == pytest.approx(100 * part["greedy_correct"].mean())
    assert (row["low"], row["high"]) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert (row["n_seeds"], row["n_runs"], row["n_questions"]) == (3, 3, 30)


def test_average_weighs_benchmarks_equally(built):
    rows = _csv(built).loc["greedy"].loc["bridge"]
    rungs = rows.loc[["rung1", "rung2", "rung3"], "points"]
    assert rows.loc[AVERAGE, "points"] == pytest.approx(rungs.mean())
    assert rows.loc[AVERAGE, "n_questions"] == sum(SIZES)


def test_runs_without_a_number_are_words_and_never_zero(built):
    rows = _csv(built).loc["greedy"]
    assert rows.loc["rl_zero", "points"].isna().all()
    assert set(rows.loc["rl_zero", "without_number"]) == {"failed 2/3, timeout 1/3"}
    assert set(rows.loc["sft", "without_number"]) == {"diverged 1/3"}
    assert (rows.loc["sft", "n_seeds"] == 2).all()
    for text in ((built / "main.md").read_text(), (built / "main.tex").read_text()):
        line = next(line for line in text.splitlines() if "RL-zero" in line)
        assert line.count("failed") == 5
        assert not re.search(r"\b0\.0\b", line)
        assert "2/3" in next(line for line in text.splitlines() if "SFT" in line)


def test_mean_is_over_finished_runs_only(suite, built):
    scores = pd.read_parquet(suite / "scores.parquet")
    part = scores[(scores["method"] == "sft") & (scores["benchmark"] == "rung1")]
    row = _csv(built).loc["greedy", "sft", "rung1"]
    assert set(part["seed"]) == {0, 2}
    assert row["points"] == pytest.approx(100 * part["greedy_correct"].mean())


def test_footer_states_seeds_interval_power_commit_and_data(built):
    text = (built / "main.md").read_text()
    for said in (
        "Seeds per method: 2–3",
        "95 % interval",
        "80 % power",
        "0123456789ab",
        "bb22bb22bb22",
    ):
        assert said in text
    assert "detectable gap" in text


def test_partial_answers_are_marked_and_not_averaged(tmp_path):
    tables = _make()
    scores = tables["scores"]
    lost = (
        (scores["method"] == "bridge")
        & (scores["seed"] == 1)
        & (scores["benchmark"] == "rung1")
        & (scores.index % 2 == 0)
    )
    tables["scores"] = scores[~lost]
    block = build_blocks(load_tidy(write_tidy(tmp_path, tables)))[0]
    assert block.n_questions["rung1"] == SIZES[0]
    assert block.cells["bridge", "rung1"].words == ["partial 1/3"]
    assert block.cells["bridge", "rung1"].interval.n_seeds == 2
    assert block.cells["bridge", AVERAGE].interval.n_seeds == 2
    assert block.cells["bridge", "rung2"].interval.n_seeds == 3
    assert block.cells["sft", "rung1"].words == []


def test_a_finished_run_without_answers_is_unscored(tmp_path):
    tables = _make()
    scores = tables["scores"]
    tables["scores"] = scores[~((scores["method"] == "sft") & (scores["seed"] == 0))]
    block = build_blocks(load_tidy(write_tidy(tmp_path, tables)))[0]
    assert block.cells["sft", "rung1"].words == ["unscored 1/3"]


def test_a_suite_where_nothing_finished_still_makes_tables(tmp_path):
    statuses = {(*QWEN, method, seed): "missing" for method in METHODS for seed in range(3)}
    tables = _make(statuses=statuses)
    folder = write_tidy(tmp_path / "tidy", tables)
    build_tables(folder, tmp_path / "tables")
    text = (tmp_path / "tables" / "main.md").read_text()
    assert "missing 3/3" in text
    assert "0.0" not in text
    assert "missing" in main_table_text(folder)


def test_one_seed_and_one_benchmark_have_no_average(tmp_path):
    tables = _make(seeds=(7,), sizes=(30,))
    block = build_blocks(load_tidy(write_tidy(tmp_path, tables)))[0]
    assert block.columns == ["rung1"]
    assert block.cells["sft", "rung1"].interval.covers == "questions"


def test_sampled_table_has_avg_and_pass_at_n(suite, built):
    scores = pd.read_parquet(suite / "scores.parquet")
    part = scores[(scores["method"] == "bridge") & (scores["benchmark"] == "rung3")]
    rows = _csv(built, "sampled")
    share = (part["n_sampled_correct"] / 4).mean()
    assert rows.loc["avg@4", "bridge", "rung3"]["points"] == pytest.approx(100 * share)
    passed = pass_at_k(part["n_samples"], part["n_sampled_correct"], 4).mean()
    assert rows.loc["pass@4", "bridge", "rung3"]["points"] == pytest.approx(100 * passed)


def test_no_sampled_table_without_samples(tmp_path):
    build_tables(write_tidy(tmp_path / "tidy", _make()), tmp_path / "tables")
    assert not list((tmp_path / "tables").glob("sampled*"))


def test_costs_are_means_over_finished_runs_and_unmeasured_ones_are_left_out(built):
    rows = pd.read_csv(built / "cost.csv").set_index(["method", "quantity"])
    assert rows.loc[("bridge", "seconds_train"), "mean"] == pytest.approx(60 * 1.02)
    assert rows.loc[("sft", "seconds_train"), "n_seeds"] == 2
    assert pd.isna(rows.loc[("rl_zero", "seconds_train"), "mean"])
    text = (built / "cost.md").read_text()
    assert "peak host memory" in text
    assert "device memory" not in text
    assert "failed 2/3, timeout 1/3" in next(x for x in text.splitlines() if "RL-zero" in x)


def test_same_tables_same_bytes(suite, built, tmp_path):
    build_tables(suite, tmp_path)
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(
        f"{table}.{kind}"
        for table in ("main", "cost", "differences", "ranks", "sampled", "claims", "rates")
        for kind in ("csv", "html", "md", "tex")
    )
    for name in names:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_terminal_text_fits_and_repeats_no_note(suite):
    text = main_table_text(suite, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("80 % power") == 1
    for said in ("BRIDGE", "average", "diverged 1/3", "failed"):
        assert said in text


def test_unknown_methods_follow_the_known_ones(tmp_path):
    folder = write_tidy(tmp_path, _make(methods=("my_idea", "bridge")))
    lines = main_table_text(folder).splitlines()
    known = next(i for i, line in enumerate(lines) if line.startswith("BRIDGE"))
    own = next(i for i, line in enumerate(lines) if line.startswith("my idea"))
    assert known < own


HOSTILE = "a|b<script>&_$#{}~^\\%\n\x1b[31m*x*"


def test_names_from_data_cannot_break_a_table():
    sheet = Sheet(HOSTILE, [Value("method"), Value("n")], [[Value(HOSTILE), Value("1")]], [HOSTILE])
    in_markdown = markdown([sheet])
    assert "<script>" not in in_markdown.replace(r"\<script\>", "")
    row = next(line for line in in_markdown.splitlines() if line.startswith("| a"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    in_latex = latex([sheet])
    assert not re.search(r"(?<!\\)[_$#]", in_latex.replace(HOSTILE, ""))
    assert r"\textbackslash{}" in in_latex
    for text in (in_markdown, in_latex, columns(sheet, 80)):
        assert "\x1b" not in text
