"""The table of what k trials reach; the estimator behind it: test_analysis_clustered.py."""

from bridge.analysis.tables.trials import Trial, best_sheet


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
