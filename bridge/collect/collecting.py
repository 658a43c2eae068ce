"""Run folders -> the tidy tables of a suite, and a manifest.

``results/<suite>/tidy/`` gets ``runs``, ``scores`` (one row per question), ``dynamics`` (one row
per step), ``costs`` and ``answers`` (the greedy ones) as parquet, keyed by suite, model, dataset,
method and seed, ``contamination`` (what training and evaluation texts share), and
``manifest.json`` with their hashes and the configuration hash of each run. Equal run folders give
equal bytes: rows stand in the order of the suite's grid, then of the records. No torch, no model
code.

    python -m bridge collect --suite smoke [--partial]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bridge.collect.contamination import contamination_rows
from bridge.collect.run_rows import TABLES, Collected, TidyRow, collect_run, run_name
from bridge.plan.grid import Plan
from bridge.store.columns import ANSWERS, KEY, SHARED_DYNAMICS, names
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
    everything = Collected([], [], [], [], [])
    for spec in plan.runs:
        everything.add(collect_run(spec, results, partial=partial))
    _check_graders(everything.runs)
    frames = {name: as_table(name, getattr(everything, name)) for name in TABLES}
    frames["contamination"] = pd.DataFrame(contamination_rows(plan))
    for name, frame in frames.items():
        _write_parquet(folder / f"{name}.parquet", frame)
    commits = {row["commit"] for row in everything.runs if row["commit"]}
    manifest = {
        "suite": plan.name,
        "tables": {name: file_hash(folder / f"{name}.parquet") for name in frames},
        "commits": sorted(commits),
        "runs": {
            run_name(spec): {"spec_hash": spec.spec_hash, "status": row["status"]}
            for spec, row in zip(plan.runs, everything.runs, strict=True)
        },
    }
    write_json(folder / "manifest.json", manifest)


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


def as_table(name: str, rows: list[TidyRow]) -> pd.DataFrame:
    """Rows as a table with the columns of its kind."""
    if name == "dynamics":
        # Columns of a method's own come last, sorted, whatever run has them first.
        shared = names(SHARED_DYNAMICS)
        own = sorted({column for row in rows for column in row} - {*KEY, *shared})
        return pd.DataFrame(rows, columns=[*KEY, *shared, *own])
    if not rows and name == "scores":
        return pd.DataFrame(columns=[*KEY, "benchmark", "question_id", "spec_hash"])
    if name == "answers":
        # Answers to one question side by side: alike, so they take a fraction of the space.
        table = pd.DataFrame(rows, columns=[*KEY, *names(ANSWERS)])
        return table.sort_values(["dataset", "benchmark", "question_id"], kind="stable")
    return pd.DataFrame(rows)


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
