"""The table of differences: pairing, families of tests, and what is refused by name."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bridge.analysis.numbers.cells import AVERAGE, build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.paired import Refused, holm, log_ratio, paired_difference, seed_mean
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.accuracy import main_table_text
from bridge.analysis.tables.differences import arm, block_differences, contrast, p_text, signed
from tests.fixtures.tidy import make_tidy, write_tidy

SIZES = (60, 40)
SMALL = {
    "models": ("tiny-qwen",),
    "methods": ("sft", "rl_zero", "cold_start", "bridge"),
    "sizes": SIZES,
    "n_steps": 5,
}


def _block(folder, tables=None):
    return build_blocks(load_tidy(write_tidy(folder, tables or make_tidy(**SMALL))))[0]


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    return _block(tmp_path_factory.mktemp("tidy"))


def test_a_difference_is_that_of_the_answers_question_by_question(block, tmp_path):
    scores = make_tidy(**SMALL)["scores"]
    arrays = []
    for method in ("bridge", "rl_zero"):
        part = scores[(scores["method"] == method) & (scores["benchmark"] == "rung1")]
        table = part.pivot(index="seed", columns="question_id", values="greedy_correct")
        arrays.append(table.to_numpy(float))
    expected = paired_difference(arrays[:1], arrays[1:])
    found = contrast(arm(block, "bridge", "rung1"), arm(block, "rl_zero", "rung1"), "rung1")
    assert found.difference == expected
    gaps = arrays[0].mean(0) - arrays[1].mean(0)
    assert (found.won, found.lost) == ((gaps > 0).sum(), (gaps < 0).sum())


def test_averages_and_single_benchmarks_are_two_families_over_both_baselines(block):
    contrasts = block_differences(block)
    for family in (
        [item for item in contrasts if item.column == AVERAGE],
        [item for item in contrasts if item.column != AVERAGE],
    ):
        expected = holm([item.difference.p_value for item in family])
        assert [item.p_adjusted for item in family] == pytest.approx(list(expected))
        assert {item.second.name for item in family} == {"rl_zero", "cold_start"}
    assert len(contrasts) == 2 * 3 * 3


def test_a_missing_baseline_has_no_columns_and_a_failed_method_a_reason(tmp_path):
    statuses = {("tiny-qwen", "chains", "bridge", seed): "diverged" for seed in range(3)}
    tables = make_tidy(**(SMALL | {"methods": ("sft", "rl_zero", "bridge")}), statuses=statuses)
    build_tables(write_tidy(tmp_path / "tidy", tables), tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert set(rows["baseline"]) == {"rl_zero"}
    refused = rows[rows["method"] == "bridge"]
    assert refused["points"].isna().all()
    assert set(refused["refused"]) == {"bridge: diverged 3/3"}
    assert (
        "BRIDGE: no difference, bridge: diverged 3/3."
        in (tmp_path / "tables" / "differences.md").read_text()
    )


def test_fewer_than_twenty_shared_questions_are_refused_in_the_table(tmp_path):
    block = _block(tmp_path, make_tidy(**(SMALL | {"sizes": (60, 19)})))
    found = {item.column: item for item in block_differences(block)}
    assert found["rung1"].difference is not None
    assert found["rung2"].refused.startswith("only 19 shared questions")
    assert found[AVERAGE].refused.startswith("only 19 shared questions")


def test_arms_of_different_graders_are_not_subtracted(tmp_path):
    tables = make_tidy(**SMALL)
    tables["runs"].loc[tables["runs"]["method"] == "bridge", "grader_version"] = "2"
    found = [item for item in block_differences(_block(tmp_path, tables)) if item.refused]
    assert {(item.first.name, item.refused) for item in found} == {
        ("bridge", "different graders: 1, 2")
    }


def test_a_cell_graded_by_two_graders_has_no_number(tmp_path):
    tables = make_tidy(**SMALL)
    runs = tables["runs"]
    runs.loc[(runs["method"] == "bridge") & (runs["seed"] == 1), "grader_version"] = "2"
    folder = write_tidy(tmp_path, tables)
    block = build_blocks(load_tidy(folder))[0]
    for column in block.columns:
        assert block.cells["bridge", column].interval is None
        assert block.cells["bridge", column].words == ["mixed graders 3/3"]
        assert block.cells["sft", column].interval is not None
    assert "mixed graders" in main_table_text(folder)


def test_main_table_shows_the_average_difference_and_its_p(block, tmp_path):
    folder = write_tidy(tmp_path, make_tidy(**SMALL))
    text = main_table_text(folder)
    found = {
        item.first.name: item
        for item in block_differences(block)
        if item.column == AVERAGE and item.second.name == "rl_zero"
    }
    assert signed(100 * found["bridge"].difference.mean) in text
    assert p_text(found["bridge"].p_adjusted) in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_row_has_its_detectable_effect(tmp_path):
    build_tables(write_tidy(tmp_path / "tidy", make_tidy(**SMALL)), tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert rows["minimum_detectable_effect"].to_numpy() == pytest.approx(
        2.8016 * rows["standard_error"].to_numpy(), rel=1e-4
    )
    assert "detectable gap" in (tmp_path / "tables" / "differences.md").read_text()


def test_seed_mean_and_log_ratio_agree_with_scipy():
    first, second = [61.0, 64.5, 60.2], [40.1, 55.0, 43.7, 41.9]
    expected = stats.ttest_1samp(first, 0)
    limits = expected.confidence_interval(0.95)
    found = seed_mean(first)
    assert (found.low, found.high, found.p_value) == pytest.approx(
        (limits.low, limits.high, expected.pvalue)
    )
    logs = [np.log(side) for side in (first, second)]
    welch = stats.ttest_ind(*logs, equal_var=False)
    limits = welch.confidence_interval(0.95)
    ratio = log_ratio(first, second)
    assert (ratio.low, ratio.high, ratio.p_value) == pytest.approx(
        (limits.low, limits.high, welch.pvalue)
    )


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 2.0])])
def test_ratios_of_one_seed_or_of_nothing_are_refused(first, second):
    with pytest.raises(Refused):
        log_ratio(first, second)


def test_small_numbers_are_written_honestly():
    assert (signed(-0.04), signed(0.05), signed(-3.26)) == ("+0.0", "+0.1", "-3.3")
    assert (p_text(0.0), p_text(0.0312), p_text(0.5)) == ("p < 0.001", "p = 0.031", "p = 0.50")
