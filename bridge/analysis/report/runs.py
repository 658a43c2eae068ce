"""Where the numbers of a report come from: the head of the page, the runs and their provenance."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import quote

import pandas as pd

from bridge.analysis.numbers.frames import DONE, Tidy
from bridge.analysis.numbers.palette import label, ordered_methods
from bridge.analysis.tables.accuracy import distinct

VERSIONS = {"torch": "torch_version", "Python": "python_version", "grader": "grader_version"}

RunLine = dict[str, Any]


def run_link(tidy: Tidy, model: str, dataset: str, class_name: str) -> str:
    """Name of the place where the runs of one method in one block are listed."""
    return f"runs-{tidy.blocks.index((model, dataset))}-{class_name}"


def counts(tidy: Tidy) -> str:
    """The size of a suite in a line."""
    runs, blocks = tidy.runs, tidy.blocks
    finished = int((runs["status"] == DONE).sum())
    sizes = [
        (len({model for model, _ in blocks}), "model"),
        (len({dataset for _, dataset in blocks}), "data set"),
        (runs["method"].nunique(), "method"),
        (runs["seed"].nunique(), "seed"),
    ]
    said = ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in sizes)
    return f"{said}; {finished} of {len(runs)} runs finished."


def facts(tidy: Tidy) -> list[tuple[str, str]]:
    """What was run, in a line each, from the data only."""
    runs = tidy.runs
    statuses = Counter(str(word) for word in runs["status"])
    finished = f"{statuses.pop(DONE, 0)} of {len(runs)} finished"
    others = [f"{count} {word}" for word, count in sorted(statuses.items())]
    methods = ordered_methods(distinct(runs["method"]))
    seeds = sorted({int(seed) for seed in runs["seed"]})
    hours = tidy.costs["device_hours"].astype(float).sum()
    return [
        ("runs", ", ".join([finished, *others])),
        ("models", ", ".join(dict.fromkeys(model for model, _ in tidy.blocks))),
        ("data sets", ", ".join(dict.fromkeys(dataset for _, dataset in tidy.blocks))),
        # Names such as `BRIDGE, no gain` have commas of their own.
        ("methods", "; ".join(label(method) for method in methods)),
        ("seeds", ", ".join(map(str, seeds))),
        ("started", _dates(runs["started_at"])),
        ("device", "; ".join(distinct(runs["device"])) or "unknown"),
        ("device-hours, all runs", f"{hours:,.2f}"),
    ]


def provenance(tidy: Tidy) -> list[tuple[str, str]]:
    """Versions and hashes of everything the runs were made from."""
    runs = tidy.runs
    found = [("commit", _commits(runs))]
    for column, name in (
        ("torch_version", "torch"),
        ("python_version", "Python"),
        ("grader_version", "grader"),
        ("n_parameters", "parameters"),
        ("base_model_hash", "base models"),
        ("data_hash", "data"),
    ):
        found.append((name, ", ".join(distinct(runs[column])) or "unknown"))
    return found


def run_groups(tidy: Tidy, classes: dict[str, str]) -> list[RunLine]:
    """All runs, one group per block and method, in the order of the tables."""
    groups: dict[str, list[RunLine]] = {}
    for row in _rows(tidy, classes):
        groups.setdefault(row["group"], []).append(row)
    return [{"id": name, "rows": rows} for name, rows in groups.items()]


def without_result(tidy: Tidy, classes: dict[str, str]) -> list[RunLine]:
    """The runs that did not finish."""
    return [row for row in _rows(tidy, classes) if row["status"] != DONE]


def _rows(tidy: Tidy, classes: dict[str, str]) -> list[RunLine]:
    """One row per run, missing values as empty text."""
    blocks, methods = tidy.blocks, list(classes)
    order = tidy.runs.assign(
        block=[
            blocks.index(pair)
            for pair in zip(tidy.runs["model"], tidy.runs["dataset"], strict=True)
        ],
        rank=[methods.index(method) for method in tidy.runs["method"]],
    ).sort_values(["block", "rank", "seed"], kind="stable")
    rows = []
    for found in order.astype(object).to_dict("records"):
        row = {str(name): "" if pd.isna(value) else value for name, value in found.items()}
        name = classes[row["method"]]
        rows.append(
            row
            | {
                "group": run_link(tidy, row["model"], row["dataset"], name),
                "class": name,
                "label": label(row["method"]),
                "train_s": _seconds(row["train_s"]),
                "evaluate_s": _seconds(row["evaluate_s"]),
                "commit": str(row["commit"])[:12] + ("+" if row["dirty"] else ""),
                "versions": ", ".join(f"{k} {row[v]}" for k, v in VERSIONS.items() if row[v]),
                # The leading dot keeps a folder's name from being read as an address's scheme.
                "address": f"./{quote(str(row['folder']), errors='replace')}/",
            }
        )
    return rows


def _seconds(value: Any) -> str:
    return "" if value == "" else f"{value:,.1f}"


def _commits(runs: pd.DataFrame) -> str:
    commits = ", ".join(commit[:12] for commit in distinct(runs["commit"])) or "unknown"
    return commits + (" (uncommitted changes)" if any(runs["dirty"].fillna(False)) else "")


def _dates(started: pd.Series) -> str:
    """First and last day on which a run started, UTC."""
    if pd.api.types.is_numeric_dtype(started):
        times = pd.to_datetime(started.dropna(), unit="s", utc=True)
    else:
        times = pd.to_datetime(started.dropna().astype(str), utc=True, format="ISO8601")
    if times.empty:
        return "unknown"
    first, last = (f"{time:%Y-%m-%d}" for time in (times.min(), times.max()))
    return first if first == last else f"{first} to {last}"
