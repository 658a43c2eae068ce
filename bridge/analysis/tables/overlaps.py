"""The contamination table: what training and evaluation texts of a suite have in common.

The counts are made when runs are collected (`bridge.collect.contamination`), because they need
the texts.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bridge.analysis.numbers.frames import TidyError, read_table
from bridge.analysis.numbers.palette import benchmark_label
from bridge.analysis.tables.render import Sheet, Value

HEAD = (
    "suite",
    "dataset",
    "training_set",
    "benchmark",
    "n_training",
    "n_questions",
    "n_exact",
    "n_renamed",
    "n_overlapping",
    "overlap",
)
NOTES = (
    "Same text: questions that also stand in the training set, up to case and white space; a suite "
    "with one is refused before it trains. Renamed: the same after single letters are numbered in "
    "order of appearance.",
    "8-grams: questions that share at least one run of eight words or signs with a training text "
    "(demonstrations: with question and solution), and the mean share of a question's 8-grams. "
    "Problems of one pattern share many without sharing a question.",
    "Left out: what a base model saw in pre-training.",
)


def load_overlaps(tidy_dir: Path) -> pd.DataFrame | None:
    """The table `contamination.parquet`; None where it was not collected."""
    path = tidy_dir / "contamination.parquet"
    if not path.is_file():
        return None
    table = read_table(path)
    absent = [column for column in HEAD if column not in table.columns]
    if absent:
        raise TidyError(f"{path} lacks the column {', '.join(absent)}")
    return table


def overlap_sheets(table: pd.DataFrame) -> list[Sheet]:
    """One sheet per data set, one row per training and evaluation set."""
    head = [
        Value(name, unit)
        for name, unit in (
            ("training set", "(texts)"),
            ("evaluation set", ""),
            ("questions", ""),
            ("same text", ""),
            ("renamed", ""),
            ("8-grams", "(mean share)"),
        )
    ]
    sheets = []
    for dataset, part in table.groupby("dataset", sort=False):
        rows = [
            [
                Value(str(row["training_set"]), f"({row['n_training']})"),
                Value(benchmark_label(str(row["benchmark"]), str(dataset))),
                Value(str(row["n_questions"])),
                _count(row["n_exact"]),
                _count(row["n_renamed"]),
                Value(str(row["n_overlapping"]), f"({100 * row['overlap']:.1f} %)"),
            ]
            for row in part.to_dict("records")
        ]
        sheets.append(Sheet(f"{dataset}: training and evaluation texts", head, rows, NOTES))
    return sheets


def _count(number: int) -> Value:
    return Value(str(number), highest=number > 0)
