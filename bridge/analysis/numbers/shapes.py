"""What a tidy table can hold: types and ranges, checked before anything is computed.

Cached tables are files that anybody can edit. A value that no run could have written is refused
with table, column and row; it is never drawn.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bridge.store.records import STATUSES

TEXTS = ("suite", "model", "dataset", "method", "status", "benchmark", "question_id", "spec_hash")
COUNTS = (
    *("seed", "step", "rl_step", "n_samples", "n_sampled_correct", "n_parameters", "n_steps"),
    *("tokens_generated", "tokens_trained", "greedy_tokens"),
)
SHARES = (
    *("progress", "accuracy", "heldout_accuracy", "train_accuracy", "truncated_share"),
    *("zero_spread_share", "unparsed_share", "greedy_correct", "heldout_format", "train_format"),
    *("rl_clip_share", "shadow_clip_share", "gate_failed_share", "demonstrated_group_share"),
)
MISSING = "missing"
"""Status of a run that is not there."""


def impossible(name: str, table: pd.DataFrame) -> str | None:
    """The first value that no run could have written, in words; None if there is none."""
    for column in map(str, table.columns):
        values = table[column]
        if column in TEXTS:
            bad = ~values.map(lambda v: isinstance(v, str) and bool(v))
            words = "is no text"
        elif column in COUNTS:
            bad, words = _beyond(values, whole=True), "is no count"
        elif column in SHARES:
            bad, words = _beyond(values, most=1.0), "is not a share between 0 and 1"
        elif column.startswith(("seconds_", "flops_", "memory_")) or column.endswith("_s"):
            bad, words = _beyond(values), "is negative or not a number"
        else:
            continue
        if bad.any():
            value = str(values[bad].iloc[0])
            return f"{column} {value[:40]!r} in row {int(np.flatnonzero(bad)[0])} {words}"
    return _between_columns(name, table)


def _between_columns(name: str, table: pd.DataFrame) -> str | None:
    if name == "runs":
        unknown = sorted(set(table["status"].astype(str)) - {*STATUSES, MISSING})
        if unknown:
            return f"unknown status {unknown[0][:40]!r}; known: {', '.join((*STATUSES, MISSING))}"
    if name == "scores" and not table.empty:
        if table["greedy_correct"].isna().any():
            return "column greedy_correct has empty cells"
        if not table["greedy_correct"].isin([0, 1]).all():
            return "column greedy_correct has values other than 0 and 1"
        if (table["n_sampled_correct"] > table["n_samples"]).any():
            return "more sampled answers are correct than there are"
    return None


def _beyond(values: pd.Series, *, most: float = np.inf, whole: bool = False) -> pd.Series:
    """Where a value is no number from 0 to ``most``; empty cells are none of them."""
    numbers = pd.to_numeric(values, errors="coerce")
    there = values.notna()
    bad = there & (numbers.isna() | (numbers < 0) | (numbers > most) | ~np.isfinite(numbers))
    return bad | (there & whole & (numbers % 1 != 0))
