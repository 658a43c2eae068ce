"""The table of what k trials reach; the estimator behind it: test_analysis_clustered.py."""

import pytest

from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.trials import Trial, best_sheet
from bridge.analysis.tables.tuned import load_choice, tuned_rows, tuned_sheets
from bridge.plan.choices import CHOICE, sealed
from bridge.store.records import read_json, write_json
from bridge.store.schema import ConfigError
from tests.fixtures.tidy import make_tidy, write_tidy


def _trials(*accuracies):
    return [Trial(f"t{n}", n, value, 2, 1e-3, 1e-4) for n, value in enumerate(accuracies)]


def test_the_expected_best_stands_per_row_and_number_of_trials():
    rows = {"mixing": _trials(0.2, 0.6, 0.4), "bridge": _trials(0.5, None, 0.3)}
    sheet = best_sheet("tiny-qwen", "chains", rows)
    assert [value.text for value in sheet.head] == ["trials", "mixing", "bridge"]
    assert [[value.text for value in line] for line in sheet.rows] == [
        ["1", "40.0", "40.0"],
        ["2", "53.3", "50.0"],
        ["3", "60.0", "–"],
    ]


def test_no_finished_trial_gives_an_empty_table():
    assert best_sheet("m", "d", {"mixing": _trials(None)}).rows == []


def _choice(method="mixing"):
    chosen = {
        "trial": "mixing.t03",
        "method": method,
        "options": {"steps": 200, "rl_weight": 0.7},
        "training": {"lr_sft": 1e-3, "lr_rl": 3e-5},
        "validation": 0.875,
        "tried": 6,
        "ineligible": 1,
        "code": "0" * 16,
    }
    block = {"protocol": "0" * 16, "seeds": [10000], "rows": {"mixing": chosen}}
    return sealed({"suite": "trials", "rule": "the best", "blocks": {"tiny-qwen/chains": block}})


@pytest.fixture
def tuned(tmp_path):
    """Tidy tables with the choice that set their rows."""
    methods = ("base", "mixing")
    tables = make_tidy(models=("tiny-qwen",), methods=methods, sizes=(6, 4), n_steps=10)
    folder = write_tidy(tmp_path / "tidy", tables)
    write_json(folder / CHOICE, _choice())
    return folder


def test_the_settings_of_a_tuned_suite_are_a_table(tuned, tmp_path):
    tidy, choice = load_tidy(tuned), load_choice(tuned)
    (sheet,) = tuned_sheets(tidy, choice)
    (line,) = sheet.rows
    words = ["Mixing", "1.0e-03", "3.0e-05", "rl_weight 0.7", "87.5", "5 of 6"]
    assert [value.text for value in line] == words
    (row,) = tuned_rows(tidy, choice)
    assert (row["knob"], row["knob_value"], row["validation_accuracy"]) == (
        "rl_weight",
        "0.7",
        87.5,
    )
    build_tables(tuned, tmp_path / "tables")
    assert (tmp_path / "tables" / "tuned.html").is_file()
    assert not list((tmp_path / "tables").glob("rates.*")), "the grid per stage set nothing here"


def test_a_choice_is_read_as_strangers_data(tuned, tmp_path, monkeypatch):
    """Of a method that the table does not know no code is run, and an edited one is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("raise AssertionError('was imported')\n")
    write_json(tuned / CHOICE, _choice("own.py"))
    (row,) = tuned_rows(load_tidy(tuned), load_choice(tuned))
    assert row["knob"] == ""
    write_json(tuned / CHOICE, read_json(tuned / CHOICE) | {"suite": "others"})
    with pytest.raises(ConfigError, match="was edited"):
        load_choice(tuned)
    (tuned / CHOICE).unlink()
    assert load_choice(tuned) is None
