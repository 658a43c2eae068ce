"""Whole tables against committed ones, made from made-up runs with unequal numbers of seeds.

What survives single assertions fails here: bold on the wrong row, a median for a mean, columns that
move. After a change that is meant: ``python -m tests.unit.test_analysis_golden``.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from benchmarks import study_tables
from bridge.analysis.figures.curves import block_curves, with_status
from bridge.analysis.figures.dots import main_scores
from bridge.analysis.numbers.cells import UNTRAINED, build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.report import summary as report_summary
from bridge.analysis.report import tables as report_tables
from bridge.analysis.report.building import build_tables
from bridge.analysis.report.data import curve_data
from bridge.analysis.tables import accuracy
from bridge.analysis.tables.accuracy import main_sheets
from bridge.analysis.tables.render import Sheet, Value
from bridge.store import columns
from tests.fixtures.tidy import make_tidy, write_tidy

GOLDEN = Path(__file__).with_name("golden")
FILES = ("main.md", "cost.md", "main.csv", "cost.csv")
ROOT = Path(__file__).resolve().parents[2]


def made_up() -> dict[str, pd.DataFrame]:
    """Three, two and five seeds; the best method is the last one, and one seed of it is far off."""
    qwen = ("tiny-qwen", "chains")
    missing = {(*qwen, "sft", s): "failed" for s in (3, 4)}
    missing |= {(*qwen, "rl_zero", s): "diverged" for s in (2, 3, 4)}
    return make_tidy(
        models=("tiny-qwen",),
        methods=("base", "sft", "rl_zero", "bridge"),
        seeds=(0, 1, 2, 3, 4),
        sizes=(40, 30),
        n_steps=6,
        statuses=missing,
    )


def build(folder: Path) -> Path:
    """All tables of the made-up suite."""
    tables = made_up()
    scores = tables["scores"]
    low = (scores["method"] == "bridge") & (scores["seed"] == 4)
    scores.loc[low & (scores["question_id"].str.len() % 2 == 0), "greedy_correct"] = 0
    build_tables(write_tidy(folder / "tidy", tables), folder / "tables")
    return folder / "tables"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", FILES)
def test_the_tables_are_the_golden_ones(built: Path, name: str) -> None:
    assert (built / name).read_text() == (GOLDEN / name).read_text()


def test_the_golden_tables_would_show_the_known_mistakes() -> None:
    """Bold is not on the first method, the mean is not the median, no two columns are alike."""
    main = pd.read_csv(GOLDEN / "main.csv")
    overall = main[main["benchmark"] == main["benchmark"].iloc[-1]].set_index("method")
    assert overall["points"].idxmax() != overall.index[0]
    assert sorted(overall["n_seeds"].unique()) == [2, 3, 5]
    assert main.groupby("method")["points"].nunique().min() >= 2


# -- one list each ---------------------------------------------------------------------------------


def test_the_page_of_columns_is_fresh(root: Path) -> None:
    assert (root / "docs" / "columns.md").read_text() == columns.page()


@pytest.mark.parametrize("suite", ["zoo", "bridge_ablation"])
def test_the_tables_in_the_pages_of_the_studies_are_fresh(root: Path, suite: str) -> None:
    page = (root / "docs" / "studies" / f"{suite}.md").read_text(encoding="utf-8")
    assert study_tables.table(suite) in page


def test_no_column_is_listed_twice() -> None:
    for table, found in columns.TIDY.items():
        names = columns.names(found)
        assert len(set(names)) == len(names), table
    assert set(columns.names(columns.COSTS)) >= {f"seconds_{s}" for s in columns.STAGES}


ADDED = """
import json, sys
from dataclasses import replace
from pathlib import Path
import pandas as pd
from bridge.analysis.report.building import build_tables
from bridge.analysis.report.data import curve_data
from bridge.collect.collecting import collect_suite
from bridge.plan.grid import load_plan
from bridge.store import columns
from bridge.store.records import read_json, write_json
from tests.fixtures.run_folders import write_suite

root, results = Path(sys.argv[1]), Path(sys.argv[2])
plan = load_plan("smoke", root=root)
plan = replace(plan, runs=tuple(s for s in plan.runs if s.label in ("sft", "bridge")))
write_suite(plan, results)
for spec in plan.runs:
    folder = spec.folder(results)
    write_json(folder.done, read_json(folder.done) | {"energy_wh": 2.5})
    lines = folder.dynamics.read_text().splitlines()
    made = [json.dumps(json.loads(line) | {"surprise_nats": 0.5}) for line in lines]
    folder.dynamics.write_text("\\n".join(made) + "\\n")
collect_suite(plan, results=results, folder=results / "tidy")
build_tables(results / "tidy", results / "tables")
print("energy_wh" in columns.page() and "surprise_nats" in columns.page())
"""


@pytest.mark.slow
def test_a_cost_column_and_a_log_scalar_are_one_line_each(tmp_path: Path) -> None:
    """In a copy of the package, each is added to its list; tidy, table and page have it."""
    import shutil

    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bridge", copy / "bridge", ignore=ignored)
    for name in ("suites", "results/published", "results/cached/tune"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "claims.yaml", copy / "claims.yaml")
    path = copy / "bridge" / "store" / "columns.py"
    text = path.read_text()
    cost = 'COSTS = (\n    Column("energy_wh", "of the device", "Wh", "energy", "energy_wh"),'
    text = text.replace("COSTS = (", cost, 1)
    scalar = (
        'DYNAMICS = (\n    Column("surprise_nats", "of the demonstrations", "nats"),\n    *SHARED'
    )
    text = text.replace("DYNAMICS = (\n    *SHARED", scalar, 1)
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", ADDED, str(copy), str(tmp_path / "results")],
        cwd=copy,
        env={"PYTHONPATH": f"{copy}:{ROOT}", "PATH": "/usr/bin:/bin", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "True", done.stderr[-2000:]
    costs = pd.read_parquet(tmp_path / "results" / "tidy" / "costs.parquet")
    dynamics = pd.read_parquet(tmp_path / "results" / "tidy" / "dynamics.parquet")
    assert (costs["energy_wh"] == 2.5).all() and (dynamics["surprise_nats"] == 0.5).all()
    table = (tmp_path / "results" / "tables" / "cost.md").read_text()
    assert "energy (Wh)" in table and "2.5" in table


def test_a_column_before_the_benchmarks_shifts_nothing(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters and headings of the report follow the benchmark, not its place."""
    tidy = load_tidy(built.parent / "tidy")
    blocks = build_blocks(tidy)

    def shown(monkey: bool) -> dict[str, Any]:
        if monkey:

            def licence(tidy: Any, block: Any, published: Any) -> Sheet:
                return Sheet("", [Value("licence")], [[Value("free")] for _ in block.methods])

            first, *rest = accuracy.MAIN_COLUMNS
            monkeypatch.setattr(accuracy, "MAIN_COLUMNS", (licence, first, *rest))
        groups = report_tables.table_groups(tidy, blocks, {}, built, tmp_path)
        (view,) = groups["main"]["views"]
        return view

    before, after = shown(False), shown(True)
    assert after["columns"] == ["", *before["columns"]]
    for view in (before, after):
        for name, value in zip(view["columns"], view["sheet"].head, strict=True):
            assert not name or value.text == name
        sizes = sum(group["size"] for group in view["groups"])
        assert sizes == len(view["sheet"].head)
    inside = {group["name"]: group["benchmarks"] for group in before["groups"]}
    assert {group["name"]: group["benchmarks"] for group in after["groups"]} == inside
    (sheet,) = main_sheets(tidy, blocks)
    assert sheet.head[1].text == "licence" and sheet.rows[0][1].text == "free"


# -- mutations that single assertions let pass -----------------------------------------------------


def test_every_row_names_its_own_method(built: Path) -> None:
    """Rows that trade places with their names."""
    tidy = load_tidy(built.parent / "tidy")
    (block,) = build_blocks(tidy)
    (sheet,) = main_sheets(tidy, [block])
    means = {m: block.cells[m, block.overall].interval for m in block.methods}
    for method, row in zip(block.methods, sheet.rows, strict=False):
        interval = means[method]
        assert interval is not None
        place = [v.column for v in sheet.head].index(block.overall)
        assert row[place].text == f"{100 * interval.mean:.1f}"
        assert row[1].text == ("5" if interval.n_seeds == 5 else f"{interval.n_seeds}/5")


def test_only_the_highest_mean_is_bold(built: Path) -> None:
    tidy = load_tidy(built.parent / "tidy")
    (block,) = build_blocks(tidy)
    (sheet,) = main_sheets(tidy, [block])
    for place, head in enumerate(sheet.head):
        if head.column:
            cells = [row[place] for row in sheet.rows[: len(block.methods)]]
            numbers = [float(c.text) for c in cells]
            assert [c.highest for c in cells] == [n == max(numbers) for n in numbers]


def test_the_interval_stands_beside_its_own_mean(built: Path) -> None:
    """Low and high that trade places, or those of another row."""
    main = pd.read_csv(built / "main.csv")
    found = main.dropna(subset=["low", "high"])
    assert ((found["low"] <= found["points"]) & (found["points"] <= found["high"])).all()
    assert found[["low", "high"]].drop_duplicates().shape[0] >= 0.8 * len(found)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Curves whose seeds differ: mean, median, first seed and last seed are four numbers."""
    tables = made_up()
    dynamics = tables["dynamics"]
    offset = dynamics["seed"].map({0: 0.0, 1: 0.01, 2: 0.02, 3: 0.05, 4: 0.42})
    for name in ("heldout_accuracy", "reward_mean"):
        dynamics[name] = 0.1 + offset + 0.01 * dynamics["step"]
    return load_tidy(write_tidy(tmp_path_factory.mktemp("uneven"), tables))


def test_a_figure_s_curve_has_every_seed_and_its_own_method(uneven: Any) -> None:
    """A curve of one seed, of another method, or of the wrong column."""
    rows = with_status(uneven)
    rows = rows[rows["model"] == "tiny-qwen"]
    curves = block_curves(rows, "progress", "heldout_accuracy", ["bridge", "sft", "rl_zero"])
    assert [c.method for c in curves] == ["bridge", "sft", "rl_zero"]
    for curve, n_seeds in zip(curves, (5, 3, 2), strict=True):
        assert curve.y.shape == curve.x.shape and len(curve.y) == n_seeds
        own = rows[(rows["method"] == curve.method) & (rows["status"] == "done")]
        table = own.pivot(index="seed", columns="step", values="heldout_accuracy").dropna(axis=1)
        assert curve.y == pytest.approx(table.to_numpy())
        places = own.pivot(index="seed", columns="step", values="progress")[table.columns]
        assert curve.x == pytest.approx(places.to_numpy())


def test_a_dot_stands_at_the_mean_in_its_method_s_row(built: Path) -> None:
    """Rows that trade places, an interval around another dot, a median for the mean."""
    tidy = load_tidy(built.parent / "tidy")
    (block,) = build_blocks(tidy)
    figure = main_scores([block])
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(names) == sorted(label(m) for m in block.methods if m != UNTRAINED)
    drawn = {
        names[round(float(np.ravel(line.get_ydata())[0]))]: float(np.ravel(line.get_xdata())[0])
        for line in (bar.lines[0] for bar in axes.containers)
    }
    for method in block.methods:
        interval = block.cells[method, block.overall].interval
        assert interval is not None
        if method != UNTRAINED:
            assert drawn[label(method)] == pytest.approx(100 * interval.mean)
    assert list(drawn.values()) == sorted(drawn.values(), reverse=True)


def test_the_report_s_curves_are_means_with_their_limits(uneven: Any) -> None:
    """Median for mean, the first seed for all, limits of another metric or swapped."""
    classes = {method: f"m{i}" for i, method in enumerate(("base", "sft", "rl_zero", "bridge"))}
    data = curve_data(uneven, classes)
    (block,) = data["blocks"]
    by_method = {curve["method"]: curve for curve in block["curves"]}
    assert {m: c["seeds"] for m, c in by_method.items()} == {"sft": 3, "rl_zero": 2, "bridge": 5}
    shown = by_method["bridge"]["y"]["reward_mean"]
    steps = np.asarray(by_method["bridge"]["x"]["step"], float)[shown["at"]]
    offsets = np.array([0.0, 0.01, 0.02, 0.05, 0.42])
    mean = 0.1 + offsets.mean() + 0.01 * steps
    assert shown["mean"] == pytest.approx(mean.tolist(), rel=1e-4)
    half = student.ppf(0.975, 4) * offsets.std(ddof=1) / math.sqrt(5)
    assert shown["high"] == pytest.approx((mean + half).tolist(), rel=1e-3)
    assert shown["low"] == pytest.approx((mean - half).tolist(), rel=1e-3, abs=1e-5)
    assert by_method["bridge"]["class"] == "m3"


def test_the_report_names_the_best_method_of_a_block(built: Path) -> None:
    tidy = load_tidy(built.parent / "tidy")
    (block,) = build_blocks(tidy)
    means = {
        m: c.interval.mean for m in block.methods if (c := block.cells[m, block.overall]).interval
    }
    best = max(means, key=lambda m: means[m])
    (lead,) = report_summary.leads([block])
    said = f"{lead['verdict']}{lead['text']}"
    points = f"{100 * means[best]:.1f} points"
    assert f"{label(best)} leads: {points}" in said or f"has the highest mean, {points}" in said


if __name__ == "__main__":
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        made = build(Path(temporary))
        for file in FILES:
            shutil.copy(made / file, GOLDEN / file)
    print(json.dumps(FILES))
