"""The table of clusters: patterns from the texts, and a second interval for each difference."""

import pandas as pd
import pytest

from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import TidyError, load_tidy
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.clusters import block_clusters, cluster_sheet, load_patterns, pattern
from bridge.analysis.tables.differences import differences_to
from tests.fixtures.tidy import make_tidy, sealed, write_tidy

METHODS = ("base", "sft", "bridge")


def test_a_pattern_forgets_numbers_and_the_names_of_letters():
    same = [
        "mod 10 : a = 6 + 2 ; b = a * 7 ; find b",
        "mod 7 : c = 61 + 12 ;  d = c * 0 ; find d",
    ]
    other = "mod 10 : a = 6 + 2 ; b = a - 7 ; find b"
    assert len({pattern(text) for text in same}) == 1
    assert pattern(other) != pattern(same[0])


def _suite(folder, n_patterns=30):
    """A suite whose n-th question of a benchmark is of pattern n modulo `n_patterns`."""
    tables = make_tidy(models=("tiny-qwen",), methods=METHODS, sizes=(120, 60), n_steps=10)
    asked = tables["scores"][["dataset", "benchmark", "question_id"]].drop_duplicates()
    number = asked["question_id"].str.extract(r"(\d+)$")[0].astype(int)
    words = (number % n_patterns).map(lambda n: "word " * n)
    answers = asked.assign(question=words + "and " + number.astype(str))
    return write_tidy(folder, tables | {"answers": answers})


def test_the_table_has_the_other_tables_numbers_and_a_second_interval(tmp_path):
    folder = _suite(tmp_path / "tidy")
    (block,) = build_blocks(load_tidy(folder))
    found = block_clusters(block, load_patterns(folder))
    assert [item.plain.second.name for item in found] == ["sft", "base"]
    for item in found:
        (same,) = [
            c for c in differences_to(block, "bridge") if c.first.name == item.plain.second.name
        ]
        assert item.plain.p_adjusted == same.p_adjusted
        assert item.plain.difference.mean == item.wider.difference.mean == -same.difference.mean
        assert item.ratio != 1 and 0.5 < item.ratio < 2
    build_tables(folder, tmp_path / "tables")
    rows = pd.read_csv(tmp_path / "tables" / "clusters.csv")
    assert list(rows["method"]) == ["sft", "base"] and set(rows["leader"]) == {"bridge"}
    assert rows["points"].tolist() == pytest.approx([100 * i.plain.difference.mean for i in found])
    text = (tmp_path / "tables" / "clusters.md").read_text()
    assert "chains: rung1 120 questions of 30 patterns, at most 4 of one; rung2 60" in text


def test_a_pattern_for_each_question_changes_nothing_but_the_last_digits(tmp_path):
    folder = _suite(tmp_path / "tidy", n_patterns=10_000)
    (block,) = build_blocks(load_tidy(folder))
    for item in block_clusters(block, load_patterns(folder)):
        assert item.ratio == pytest.approx(1, abs=1e-9)


def test_too_few_patterns_are_a_sentence_and_no_interval(tmp_path):
    folder = _suite(tmp_path / "tidy", n_patterns=3)
    (block,) = build_blocks(load_tidy(folder))
    sheet = cluster_sheet(block, load_patterns(folder))
    assert [row[2].text for row in sheet.rows] == ["–", "–"]
    assert sheet.notes[-1] == (
        "chains, no second interval: a benchmark has 3 patterns; an interval needs 10."
    )


def test_texts_that_are_missing_are_named(tmp_path):
    folder = _suite(tmp_path / "tidy")
    (block,) = build_blocks(load_tidy(folder))
    patterns = load_patterns(folder)
    del patterns["chains", "rung2"]
    assert {item.refused for item in block_clusters(block, patterns)} == {
        "the texts of rung2 were not collected"
    }
    answers = pd.read_parquet(folder / "answers.parquet").drop(columns="question")
    answers.to_parquet(folder / "answers.parquet")
    with pytest.raises(TidyError, match=r"answers\.parquet lacks the column question"):
        load_patterns(sealed(folder))
