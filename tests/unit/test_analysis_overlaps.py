"""The contamination table: counts as they are, the same text in bold, a missing column named."""

import pandas as pd
import pytest

from bridge.analysis.numbers.frames import TidyError
from bridge.analysis.tables.overlaps import load_overlaps, overlap_sheets


def test_contamination_shows_counts_and_stresses_the_same_text(tmp_path):
    rows = [
        {"suite": "s", "dataset": "chains", "training_set": name, "benchmark": "rung1"}
        | {"n_training": 9, "n_questions": 8, "n_exact": exact, "n_renamed": exact}
        | {"n_overlapping": 3, "overlap": 0.125}
        for name, exact in (("prompts", 2), ("demonstrations", 0))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "contamination.parquet")
    (sheet,) = overlap_sheets(load_overlaps(tmp_path))
    assert [[value.plain for value in row] for row in sheet.rows] == [
        ["prompts (9)", "rung1", "8", "2", "2", "3 (12.5 %)"],
        ["demonstrations (9)", "rung1", "8", "0", "0", "3 (12.5 %)"],
    ]
    assert [[value.highest for value in row[3:5]] for row in sheet.rows] == [
        [True, True],
        [False, False],
    ]
    pd.DataFrame(rows).drop(columns="overlap").to_parquet(tmp_path / "contamination.parquet")
    with pytest.raises(TidyError, match="lacks the column overlap"):
        load_overlaps(tmp_path)
    assert load_overlaps(tmp_path / "absent") is None
