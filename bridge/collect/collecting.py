"""Run folders -> the tidy tables of a suite, and a manifest.

``results/<suite>/tidy/`` gets ``runs``, ``scores`` (one row per question), ``dynamics`` (one row
per step), ``costs`` and ``answers`` (the greedy ones) as parquet, keyed by suite, model, dataset,
method and seed, ``contamination`` (what training and evaluation texts share), and
``manifest.json`` with their hashes and the configuration hash of each run. The choice of a
tuned suite is kept beside them. Equal run folders give equal bytes: rows stand in the order of the
suite's grid, then of the records. No torch, no model code.

    python -m bridge collect --suite smoke [--partial]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bridge.collect.contamination import contamination_rows
from bridge.collect.run_rows import TABLES, TidyRow, collect_run, run_name
from bridge.plan.choices import CHOICE
from bridge.plan.grid import Plan
from bridge.store.columns import ANSWERS, KEY, SHARED_DYNAMICS, TIDY_TABLES, names
from bridge.store.records import (
    RecordError,
    file_hash,
    sync_folder,
    write_json,
    writing,
)


def collect_suite(plan: Plan, *, results: Path, folder: Path, partial: bool = False) -> None:
    """Write the tidy tables of a suite to a folder.

    Args:
        partial: show runs that are missing or failed as such, instead of refusing them.

    Raises:
        RecordError: naming the run, the file (and line) and the remedy.
    """
    tables = {name: Columns() for name in TABLES}
    runs: list[TidyRow] = []
    for spec in plan.runs:
        collected = collect_run(spec, results, partial=partial)
        runs += collected.runs
        for name, columns in tables.items():
            columns.extend(getattr(collected, name))
    _check_graders(runs)
    for name in TABLES:
        # One table at a time, each gone before the next: together they are a multiple of the files.
        _write_parquet(folder / f"{name}.parquet", as_table(name, tables.pop(name)))
    contamination = pd.DataFrame(contamination_rows(plan))
    _write_parquet(folder / "contamination.parquet", contamination)
    commits = {row["commit"] for row in runs if row["commit"]}
    manifest = {
        "suite": plan.name,
        "tables": {name: file_hash(folder / f"{name}.parquet") for name in TIDY_TABLES},
        "commits": sorted(commits),
        "runs": {
            run_name(spec): {"spec_hash": spec.spec_hash, "status": row["status"]}
            for spec, row in zip(plan.runs, runs, strict=True)
        },
    }
    if plan.choices is not None:
        write_json(folder / CHOICE, plan.choices.record)
    write_json(folder / "manifest.json", manifest)


class Columns:
    """Rows kept column by column, in a sixth of the memory of as many mappings."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}
        self.n_rows = 0

    def extend(self, rows: Iterable[TidyRow]) -> None:
        """Append rows; what a row lacks is NaN, as pandas has it."""
        for row in rows:
            if row.keys() != self.values.keys():
                for name in row:
                    self.values.setdefault(name, [math.nan] * self.n_rows)
            for name, column in self.values.items():
                column.append(row.get(name, math.nan))
            self.n_rows += 1

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows with these columns, or with those that they have."""
        lacking = [math.nan] * self.n_rows
        names = self.values if columns is None else columns
        return pd.DataFrame({name: self.values.get(name, lacking) for name in names})


def _check_graders(runs: Sequence[TidyRow]) -> None:
    graders: dict[str, TidyRow] = {}
    for row in runs:
        if row["status"] == "done":
            graders.setdefault(str(row["grader_version"]), row)
    if len(graders) > 1:
        named = "; ".join(f"{version} in {row['folder']}" for version, row in graders.items())
        raise RecordError(
            f"the runs were graded by different graders ({named}); evaluate the older ones again."
        )


def as_table(name: str, rows: Columns) -> pd.DataFrame:
    """Rows as a table with the columns of its kind."""
    if name == "dynamics":
        # Columns of a method's own come last, sorted, whatever run has them first.
        shared = names(SHARED_DYNAMICS)
        return rows.table([*KEY, *shared, *sorted({*rows.values} - {*KEY, *shared})])
    if not rows.n_rows and name == "scores":
        return pd.DataFrame(columns=[*KEY, "benchmark", "question_id", "spec_hash"])
    if name == "answers":
        # Answers to one question side by side: alike, so they take a fraction of the space.
        table = rows.table([*KEY, *names(ANSWERS)])
        return table.sort_values(["dataset", "benchmark", "question_id"], kind="stable")
    return rows.table()


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            table.to_parquet(temporary, index=False, compression="zstd")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
