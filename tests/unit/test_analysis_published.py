"""Published numbers: which rows count, how they are joined, and that they stay apart from ours."""

import pandas as pd
import pytest

from bridge.analysis.numbers.cells import AVERAGE
from bridge.analysis.numbers.frames import TidyError
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.published import FILES, FOLDER, load_published, published_numbers
from tests.fixtures.tidy import make_tidy, write_tidy

NAMES = ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]
COLUMNS = [*NAMES, AVERAGE]


@pytest.fixture(scope="module")
def table():
    return load_published(FOLDER)


def _points(table, model, columns=COLUMNS):
    found = published_numbers(table, model, "math", columns)
    return {key: number.points for key, number in found.items()}


def test_main_rows_of_the_newest_version_are_joined_by_our_names(table):
    points = _points(table, "Qwen/Qwen2.5-3B")
    assert [points["bridge", column] for column in COLUMNS] == [66.2, 23.9, 28.9, 13.3, 47.5, 36.0]
    assert points["rl_zero", AVERAGE] == points["cold_start", AVERAGE] == 32.2
    assert points["alternating", AVERAGE] == 33.4
    assert points["sft", "aime24"] == 3.3


def test_a_row_never_mixes_papers_or_versions(table):
    found = published_numbers(table, "Qwen2.5-3B", "math", COLUMNS)
    for method in {method for method, _ in found}:
        assert len({n.source for (name, _), n in found.items() if name == method}) == 1
    assert found["bridge", "math500"].source.startswith("BRIDGE v3 (secondary; https://")


def test_epochs_noise_costs_and_derived_rows_are_left_out(table):
    assert set(table["metric"]) == {"accuracy"}
    bridge = table[(table["paper"] == "BRIDGE") & (table["benchmark"] == "average5")]
    assert 13.9 not in set(bridge["value"])
    assert not table["note"].str.contains(r"epoch=|flip_prob=|table=none").any()


def test_other_papers_lend_cells_but_no_average_and_no_unclear_amc(table):
    points = _points(table, "Qwen2.5-Math-7B")
    assert points["luffy", "math500"] == 87.6
    assert points["cold_start", "minerva_math"] == 43.9
    assert not [key for key in points if key[1] in (AVERAGE, "amc23")]


def test_an_average_over_other_benchmarks_is_not_compared(table):
    assert ("bridge", AVERAGE) not in _points(table, "Qwen2.5-3B", [*NAMES[:4], AVERAGE])
    assert ("bridge", AVERAGE) not in _points(table, "Qwen2.5-3B", [*NAMES, "gsm8k", AVERAGE])


@pytest.mark.parametrize("model", ["tiny-qwen", "Qwen2.5-3B-Instruct", "Qwen2.5-32B"])
def test_models_in_no_paper_get_nothing(table, model):
    points = _points(table, model)
    assert not {key for key in points if key[0] == "bridge"}


@pytest.mark.parametrize("damage", ["missing", "column", "number", "repeated"])
def test_damaged_files_are_named(tmp_path, damage):
    for name in FILES:
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    path = tmp_path / FILES[0]
    rows = pd.read_csv(path, keep_default_na=False)
    said = {
        "missing": "is missing",
        "column": "lacks the column source",
        "number": "line 4: the value is not a number",
        "repeated": "line 177: a repeated row",
    }[damage]
    if damage == "missing":
        path.unlink()
    elif damage == "column":
        rows.drop(columns="source").to_csv(path, index=False)
    elif damage == "number":
        rows["value"] = rows["value"].astype(object)
        rows.loc[2, "value"] = "n/a"
        rows.to_csv(path, index=False)
    else:
        pd.concat([rows, rows.iloc[[5]]]).to_csv(path, index=False)
    with pytest.raises(TidyError, match=rf"published\.csv.*{said}"):
        load_published(tmp_path)


def _suite(folder, model):
    tables = make_tidy(
        models=(model,),
        datasets=("math",),
        methods=("rl_zero", "bridge"),
        sizes=(25, 24, 23, 22, 21),
        n_steps=5,
    )
    names = {f"math_rung{i}": name for i, name in enumerate(NAMES, 1)}
    tables["scores"]["benchmark"] = tables["scores"]["benchmark"].map(names)
    build_tables(write_tidy(folder / "tidy", tables), folder / "tables")
    return folder / "tables"


def test_published_numbers_stand_in_their_own_columns_with_their_source(tmp_path):
    folder = _suite(tmp_path, "Qwen2.5-3B")
    rows = pd.read_csv(folder / "main.csv").set_index(["method", "benchmark"])
    assert rows.loc[("bridge", "average"), "published_points"] == 36.0
    assert rows.loc[("bridge", "average"), "points"] != 36.0
    assert "2509.06948" in rows.loc[("bridge", "average"), "published_source"]
    text = (folder / "main.md").read_text()
    assert "average published" in text
    assert "Source a: BRIDGE v3" in text
    assert r"\multicolumn{7}{c}{published, not ours}" in (folder / "main.tex").read_text()
    html = (folder / "main.html").read_text()
    assert '<th colspan="7" scope="colgroup">published, not ours</th>' in html


def test_our_means_do_not_change_when_there_are_published_numbers(tmp_path):
    ours = pd.read_csv(_suite(tmp_path / "a", "Qwen2.5-3B") / "main.csv")
    tables = make_tidy(
        models=("Qwen2.5-3B",),
        datasets=("math",),
        methods=("bridge",),
        sizes=(25, 24, 23, 22, 21),
        n_steps=5,
    )
    scores = tables["scores"]
    by_benchmark = scores.groupby("benchmark")["greedy_correct"].mean()
    found = ours[(ours["method"] == "bridge") & (ours["benchmark"] == "average")]
    assert found["points"].iloc[0] == pytest.approx(100 * by_benchmark.mean())


def test_tiny_models_show_no_published_columns(tmp_path):
    folder = _suite(tmp_path, "tiny-qwen")
    assert pd.read_csv(folder / "main.csv")["published_points"].isna().all()
    for kind in ("md", "tex", "html"):
        assert "published" not in (folder / f"main.{kind}").read_text()
