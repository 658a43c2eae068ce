"""What each method cost: time, memory, tokens and FLOPs, as means over its finished runs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from bridge.analysis.numbers.cells import Block, unfinished
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.analysis.numbers.palette import label
from bridge.analysis.tables.render import Sheet, Value
from bridge.store.columns import COSTS, KEY

QUANTITIES = {c.name: (c.label, c.unit) for c in COSTS if c.label} | {
    "points_per_device_hour": ("points per", "device-hour")
}
COST_HEAD = (
    "suite",
    "model",
    "dataset",
    "method",
    "quantity",
    "unit",
    "mean",
    "lowest",
    "highest",
    "n_seeds",
    "n_runs",
    "without_number",
)
PREFIXES = (
    (1e18, "10^18"),
    (1e15, "10^15"),
    (1e12, "10^12"),
    (1e9, "10^9"),
    (1e6, "M"),
    (1e3, "k"),
)
COST_NOTE = (
    "Means over finished runs, lowest and highest seed in brackets where they differ. Training is "
    "wall-clock of the whole run; FLOPs count 6 per parameter and trained token, 2 per parameter "
    "and generated token. Points per device-hour: greedy accuracy of a run, averaged over "
    "benchmarks, divided by its device time; the untrained model has no device time and so none."
)


def cost_rows(tidy: Tidy, blocks: list[Block]) -> list[dict[str, object]]:
    """One row per method and quantity, in the unit given (not scaled)."""
    rows: list[dict[str, object]] = []
    for block in blocks:
        model, dataset = block.model, block.dataset
        for method in block.methods:
            costs, words, n_runs = _finished(tidy, model, dataset, method)
            costs = costs.assign(points_per_device_hour=_points_per_hour(costs, block, method))
            for quantity, (_, unit) in QUANTITIES.items():
                measured = costs[quantity] if quantity in costs else pd.Series(dtype=float)
                values = measured.dropna().astype(float)
                row: dict[str, object] = {
                    "suite": tidy.suite,
                    "model": model,
                    "dataset": dataset,
                    "method": method,
                    "quantity": quantity,
                    "unit": unit,
                    "n_seeds": len(values),
                    "n_runs": n_runs,
                    "without_number": words,
                }
                if len(values):
                    row |= {
                        "mean": values.mean(),
                        "lowest": values.min(),
                        "highest": values.max(),
                    }
                rows.append(row)
    return rows


def cost_sheets(tidy: Tidy, rows_found: list[dict[str, object]]) -> list[Sheet]:
    """The cost table from `cost_rows`, one sheet per model and dataset.

    Quantities that nobody measured are left out.
    """
    table = pd.DataFrame(rows_found, columns=list(COST_HEAD))
    sheets = []
    for model, dataset in tidy.blocks:
        block = block_of(table, model, dataset)
        measured = [name for name in QUANTITIES if _column(block, name)["mean"].notna().any()]
        scales = {name: _scale(_column(block, name)["mean"], name) for name in measured}
        head = [Value("method"), Value("seeds")]
        head += [Value(QUANTITIES[name][0], f"({scales[name][1]})") for name in measured]
        rows = []
        for method in tidy.methods(model, dataset):
            rows_of = block[block["method"] == method].to_dict("records")
            cells = {str(row["quantity"]): row for row in rows_of}
            first = rows_of[0]
            seeds = max(int(cell["n_seeds"]) for cell in rows_of)
            count = f"{seeds}" if seeds == first["n_runs"] else f"{seeds}/{first['n_runs']}"
            row = [Value(label(method)), Value(count, str(first["without_number"]))]
            row += [_value(cells[name], *scales[name], name) for name in measured]
            rows.append(row)
        title = f"{model} trained on {dataset}: cost"
        sheets.append(Sheet(title, head, rows, [COST_NOTE]))
    return sheets


def _finished(tidy: Tidy, model: str, dataset: str, method: str) -> tuple[pd.DataFrame, str, int]:
    """Costs of the finished runs of a method, words for the others, and how many runs there are."""
    runs = block_of(tidy.runs, model, dataset)
    runs = runs[runs["method"] == method]
    done = runs.loc[runs["status"] == DONE, list(KEY)]
    costs = done.merge(tidy.costs, on=list(KEY), how="inner")
    counts = unfinished(str(word) for word in runs["status"])
    return costs, ", ".join(f"{word} {n}/{len(runs)}" for word, n in counts.items()), len(runs)


def _points_per_hour(costs: pd.DataFrame, block: Block, method: str) -> pd.Series:
    """Accuracy in points over device-hours, per run; empty without answers or device time."""
    tables = block.answers[method, block.overall]
    means = pd.concat([table.mean(axis=1) for table in tables], axis=1) if tables else None
    by_seed = {} if means is None else means.mean(axis=1).to_dict()
    accuracy = costs["seed"].map(by_seed).astype(float)
    hours = costs["device_hours"].astype(float)
    return 100 * accuracy / hours.where(hours > 0)


def _column(block: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return block[block["quantity"] == quantity]


def _scale(means: pd.Series, quantity: str) -> tuple[float, str]:
    """Divisor and unit that keep the column's largest mean between 1 and 1000 where possible."""
    largest = float(means.max())
    if quantity in ("seconds_train", "seconds_evaluate"):
        steps = ((3600.0, "h", 2 * 3600.0), (60.0, "min", 600.0))
        return next(((size, unit) for size, unit, least in steps if largest >= least), (1.0, "s"))
    unit = QUANTITIES[quantity][1]
    if unit:
        return 1.0, unit
    return next(((size, name) for size, name in PREFIXES if largest >= size), (1.0, "1"))


def _value(row: dict[Hashable, Any], divisor: float, unit: str, quantity: str) -> Value:
    if pd.isna(row["mean"]):
        return Value("–", is_word=True)
    digits = 3 if quantity == "device_hours" else 2 if unit in ("GiB", "h") else 1
    texts = [f"{row[name] / divisor:,.{digits}f}" for name in ("mean", "lowest", "highest")]
    return Value(texts[0], f"[{texts[1]}, {texts[2]}]" if texts[1] != texts[2] else "")
