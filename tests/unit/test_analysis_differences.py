"""The table of differences: pairing, families of tests, and what is refused by name."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bridge.analysis.numbers.cells import AVERAGE, build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.paired import Refused, holm, log_ratio, paired_difference, seed_mean
from bridge.analysis.numbers.uncertainty import power
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
    assert block.spreads["rung1"] is not None
    expected = paired_difference(arrays[:1], arrays[1:])
    found = contrast(arm(block, "bridge", "rung1"), arm(block, "rl_zero", "rung1"), "rung1")
    assert found.difference == expected
    gaps = arrays[0].mean(0) - arrays[1].mean(0)
    assert (found.won, found.lost) == ((gaps > 0).sum(), (gaps < 0).sum())


def test_each_baseline_has_a_family_of_averages_and_one_of_benchmarks(block):
    contrasts = block_differences(block)
    assert len(contrasts) == 2 * 3 * 3
    for overall in (True, False):
        first, second = (
            [c for c in contrasts if c.second.name == b and (c.column == AVERAGE) is overall]
            for b in ("rl_zero", "cold_start")
        )
        expected = holm([item.difference.p_value for item in first])
        assert [item.p_adjusted for item in first] == pytest.approx(list(expected))
        own = [item for item in second if item.first.name != "rl_zero"]
        expected = holm([item.difference.p_value for item in own])
        assert [item.p_adjusted for item in own] == pytest.approx(list(expected))
        assert [item.level for item in own] == pytest.approx([0.05 / len(own)] * len(own))


def test_the_pair_of_both_baselines_is_tested_once_and_shown_from_both_sides(block):
    found = {(c.first.name, c.second.name, c.column): c for c in block_differences(block)}
    there = found["cold_start", "rl_zero", AVERAGE]
    back = found["rl_zero", "cold_start", AVERAGE]
    assert back.p_adjusted == there.p_adjusted
    assert (back.difference.mean, back.difference.low) == pytest.approx(
        (-there.difference.mean, -there.difference.high)
    )
    assert (back.won, back.lost) == (there.lost, there.won)


def _with_rows(**rows):
    """The small block with further rows, each the copy of a row under another name."""
    tables = make_tidy(**SMALL)
    for name, table in tables.items():
        copies = [table[table["method"] == old].assign(method=new) for new, old in rows.items()]
        tables[name] = pd.concat([table, *copies], ignore_index=True)
    return tables


def test_copies_differ_by_zero_with_zero_width_and_count_once(block, tmp_path):
    tables = _with_rows(twin="bridge", baseline_twin="rl_zero")
    other = _block(tmp_path, tables)
    assert other.copies == {"twin": "bridge", "baseline_twin": "rl_zero"}
    found = {
        (c.first.name, c.second.name): c for c in block_differences(other) if c.column == AVERAGE
    }
    same = found["baseline_twin", "rl_zero"].difference
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert found["baseline_twin", "rl_zero"].verdict == "equivalent"
    assert found["twin", "rl_zero"].p_adjusted == found["bridge", "rl_zero"].p_adjusted
    before = {
        (c.first.name, c.second.name): c for c in block_differences(block) if c.column == AVERAGE
    }
    assert other.spreads[AVERAGE].pair == pytest.approx(block.spreads[AVERAGE].pair)
    assert found["twin", "cold_start"].p_adjusted == pytest.approx(
        before["bridge", "cold_start"].p_adjusted
    )


def test_the_untrained_model_is_in_no_family_of_trained_rows(block, tmp_path):
    tables = make_tidy(**(SMALL | {"methods": ("base", *SMALL["methods"])}))
    other = _block(tmp_path, tables)
    assert not other.varies("base", AVERAGE)
    before = {(c.first.name, c.second.name, c.column): c for c in block_differences(block)}
    for item in block_differences(other):
        if item.first.name != "base":
            old = before[item.first.name, item.second.name, item.column]
            assert item.p_adjusted == pytest.approx(old.p_adjusted)
        elif item.column == AVERAGE:
            assert item.p_adjusted == item.difference.p_value and item.significant


def test_two_seeds_decide_nothing(tmp_path):
    tables = make_tidy(**(SMALL | {"seeds": (0, 1), "methods": ("base", *SMALL["methods"])}))
    found = block_differences(_block(tmp_path, tables))
    assert min(item.p_adjusted for item in found) < 0.001
    assert {item.verdict for item in found} == {"undecided"}
    assert not any(item.significant for item in found)


def test_seeds_that_one_side_lacks_leave_the_pairing(tmp_path):
    missing = {("tiny-qwen", "chains", "bridge", 1): "diverged"}
    tables = make_tidy(**(SMALL | {"seeds": range(4)}), statuses=missing)
    block = _block(tmp_path, tables)
    (found,) = [
        c for c in block_differences(block)
        if (c.first.name, c.second.name, c.column) == ("bridge", "rl_zero", "rung1")
    ]  # fmt: skip
    left, right = (block.answers[name, "rung1"][0] for name in ("bridge", "rl_zero"))
    gaps = left.mean(axis=1) - right.mean(axis=1)[[0, 2, 3]]
    assert found.difference.mean == pytest.approx(gaps.mean())
    assert found.difference.seeds == (3, 3) and found.difference.paired_by_seed
    assert found.robust.seeds == (3, 4)


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


def test_every_row_has_what_it_could_have_shown_at_the_level_used(tmp_path):
    folder = write_tidy(tmp_path / "tidy", make_tidy(**SMALL))
    build_tables(folder, tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "differences.csv")
    found = block_differences(build_blocks(load_tidy(folder))[0])
    for item in found:
        assert power(item.difference.spread, item.detectable, item.level) == pytest.approx(
            0.8, abs=1e-3
        )
        if not item.significant:
            assert abs(item.difference.mean) < item.detectable
    assert list(rows["minimum_detectable_effect"]) == pytest.approx(
        [100 * item.detectable for item in found]
    )
    assert (rows["robust_high"] - rows["robust_low"]).gt(0).all()
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
