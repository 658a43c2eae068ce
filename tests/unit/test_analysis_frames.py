"""What the door refuses, by name, and what it warns about."""

import subprocess
import sys

import pandas as pd
import pytest

from bridge.analysis.numbers.frames import TidyError, cautions, load_tidy
from bridge.store.columns import NEEDED_TABLES, needed
from tests.fixtures.tidy import make_tidy, write_tidy

SMALL = {"models": ("tiny-qwen",), "methods": ("base", "sft"), "sizes": (6, 4), "n_steps": 10}


@pytest.fixture
def tables():
    return make_tidy(**SMALL)


def test_importing_the_package_is_light_and_no_part_needs_torch():
    code = (
        "import sys, bridge.analysis; assert not {'pandas', 'matplotlib'} & set(sys.modules);"
        "import bridge.analysis.report.page, bridge.analysis.figures.drawing;"
        "import bridge.analysis.tables.accuracy;"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_good_folder_loads_in_order(tables, tmp_path):
    tidy = load_tidy(write_tidy(tmp_path, tables))
    assert tidy.suite == "fixture"
    assert tidy.blocks == [("tiny-qwen", "chains")]
    assert tidy.methods("tiny-qwen", "chains") == ["base", "sft"]
    assert tidy.benchmarks("tiny-qwen", "chains") == ["rung1", "rung2"]
    assert cautions(tidy) == []


def test_category_order_of_benchmarks_wins_over_appearance(tables, tmp_path):
    tables["scores"]["benchmark"] = pd.Categorical(
        tables["scores"]["benchmark"], categories=["rung2", "unused", "rung1"]
    )
    tidy = load_tidy(write_tidy(tmp_path, tables))
    assert tidy.benchmarks("tiny-qwen", "chains") == ["rung2", "rung1"]


@pytest.mark.parametrize("name", NEEDED_TABLES)
def test_a_missing_file_is_named(tables, tmp_path, name):
    write_tidy(tmp_path, tables)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(TidyError, match=rf"{name}\.parquet is missing"):
        load_tidy(tmp_path)


def test_a_truncated_file_is_named(tables, tmp_path):
    write_tidy(tmp_path, tables)
    path = tmp_path / "scores.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TidyError, match=r"scores\.parquet cannot be read"):
        load_tidy(tmp_path)


@pytest.mark.parametrize(("name", "column"), [(n, needed(n)[-1]) for n in NEEDED_TABLES])
def test_a_missing_column_is_named_with_its_file(tables, tmp_path, name, column):
    tables[name] = tables[name].drop(columns=column)
    with pytest.raises(TidyError, match=rf"{name}\.parquet lacks the column {column}"):
        load_tidy(write_tidy(tmp_path, tables))


def test_an_answer_given_twice_is_refused(tables, tmp_path):
    tables["scores"] = pd.concat([tables["scores"], tables["scores"].iloc[[3]]])
    with pytest.raises(TidyError, match=r"more than one row for .*/rung1/rung1-0003"):
        load_tidy(write_tidy(tmp_path, tables))


def test_mixed_spec_hashes_in_one_run_are_refused_by_name(tables, tmp_path):
    scores = tables["scores"]
    run = (scores["method"] == "sft") & (scores["seed"] == 1)
    scores.loc[run & (scores["benchmark"] == "rung2"), "spec_hash"] = "other"
    with pytest.raises(TidyError, match=r"tiny-qwen/chains/sft/seed1 mixes .*, other"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_another_spec_than_the_run_are_refused(tables, tmp_path):
    runs = tables["runs"]
    runs.loc[(runs["method"] == "sft") & (runs["seed"] == 2), "spec_hash"] = "newer"
    with pytest.raises(TidyError, match=r"sft/seed2: spec hash .* but newer in"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_a_run_that_is_not_done_are_refused(tables, tmp_path):
    tables["runs"].loc[0, "status"] = "diverged"
    with pytest.raises(TidyError, match=r"answers of .*/seed0, whose status is diverged"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_an_unknown_run_are_refused(tables, tmp_path):
    tables["runs"] = tables["runs"].iloc[1:]
    with pytest.raises(TidyError, match=r"not in runs\.parquet"):
        load_tidy(write_tidy(tmp_path, tables))


def test_an_unknown_status_is_refused(tables, tmp_path):
    tables["runs"].loc[0, "status"] = "sort of"
    with pytest.raises(TidyError, match="unknown status 'sort of'"):
        load_tidy(write_tidy(tmp_path, tables))


def test_two_suites_and_no_runs_are_refused(tables, tmp_path):
    tables["runs"].loc[0, "suite"] = "other"
    with pytest.raises(TidyError, match="mixes the suites fixture, other"):
        load_tidy(write_tidy(tmp_path, tables))
    tables["runs"] = tables["runs"].iloc[:0]
    with pytest.raises(TidyError, match="nothing was run"):
        load_tidy(write_tidy(tmp_path, tables))


def test_empty_verdicts_are_refused(tables, tmp_path):
    tables["scores"]["greedy_correct"] = tables["scores"]["greedy_correct"].astype(float)
    tables["scores"].loc[0, "greedy_correct"] = float("nan")
    with pytest.raises(TidyError, match="greedy_correct has empty cells"):
        load_tidy(write_tidy(tmp_path, tables))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("grader_version", "2", "tiny-qwen x chains mixes grader versions: 1, 2"),
        ("data_hash", "cc33", "tiny-qwen x chains mixes data hashes"),
        ("commit", "fedcba", "the runs come from 2 commits"),
        ("dirty", True, "uncommitted changes"),
    ],
)
def test_what_was_mixed_is_said(tables, tmp_path, column, value, said):
    tables["runs"].loc[1, column] = value
    assert said in "; ".join(cautions(load_tidy(write_tidy(tmp_path, tables))))
