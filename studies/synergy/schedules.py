"""What a schedule gains over SFT and RL alone: the tables of docs/studies/synergy.md.

    python -m studies.synergy.schedules results/synergy/tidy

Worlds are the units: differences are paired by world, intervals are Student's t over worlds. An
additive model says that a schedule gains what SFT and RL gain alone, together:

    points    base + (SFT - base) + (RL - base)
    log-odds  the same sum of logits, turned back; it cannot leave 0 to 100

Which of the two is the better one alone is decided by their means over worlds; p-values of the
schedules against it are of paired t tests, adjusted by Holm. Difficulty is the
number of steps of a question, known before any run: levels made from a model's own answers would
regress to the mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.numbers.paired import holm
from bridge.store.schema import read_yaml
from studies.worlds import Array, over_worlds, prediction_line, run_accuracies

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
BASE, SFT, RL = "base", "sft", "rl_zero"
SCHEDULES = ("cold_start", "mixing", "alternating")
_ALMOST = 0.05
"""Points that an accuracy keeps from 0 and 100 where its logit is taken: less than one question."""


def by_world(tidy: Tidy) -> dict[str, Array]:
    """Average accuracy in points by row, `[worlds]`; seeds of a world are averaged."""
    return {row: runs.mean(1) for row, runs in run_accuracies(tidy).items()}


def over_better(rows: Mapping[str, Array], schedule: str) -> Array:
    """A schedule minus the better of SFT and RL alone, `[worlds]`."""
    return rows[schedule] - rows[better(rows)]


def better(rows: Mapping[str, Array]) -> str:
    """SFT or RL, by the mean over worlds."""
    return max((SFT, RL), key=lambda row: float(rows[row].mean()))


def additive(rows: Mapping[str, Array], scale: str = "points") -> Array:
    """Accuracy in points that adding the two gains foretells, `[worlds]`.

    Raises:
        ValueError: an unknown scale.
    """
    if scale == "points":
        return rows[SFT] + rows[RL] - rows[BASE]
    if scale != "odds":
        raise ValueError(f"'{scale}' is no scale; say points or odds")
    total = _logit(rows[SFT]) + _logit(rows[RL]) - _logit(rows[BASE])
    return np.asarray(100 / (1 + np.exp(-total)))


def _logit(points: Array) -> Array:
    share = np.clip(points, _ALMOST, 100 - _ALMOST) / 100
    return np.asarray(np.log(share / (1 - share)))


def levels(tidy: Tidy) -> pd.DataFrame:
    """Accuracy in points and answer length in tokens by row and difficulty, means over worlds."""
    scores = tidy.scores.astype({"method": str, "greedy_correct": float})
    means = scores.groupby(["method", "difficulty", "seed"])[["greedy_correct", "greedy_tokens"]]
    table = means.mean().groupby(["method", "difficulty"]).mean()
    return table.assign(greedy_correct=100 * table["greedy_correct"])


def tables(tidy: Tidy, predictions: Sequence[Mapping[str, Any]]) -> str:
    """The tables as Markdown."""
    rows = by_world(tidy)
    costs = tidy.costs.astype({"method": str}).groupby("method")
    flops, tokens = costs["flops_total"].mean() / 1e9, costs["tokens_trained"].mean() / 1e3
    lines = [
        f"{len(rows[BASE])} worlds. The better one alone is {better(rows)}.",
        "",
        "| row | accuracy | over the better one alone | p | over the sum of gains, points "
        "| over it, log-odds | FLOPs (10^9) | trained tokens (k) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (BASE, SFT, RL, *SCHEDULES):
        cells = [f"{rows[row].mean():.1f}", *_differences(rows, row)]
        cells += [f"{flops.get(row, 0):.0f}", f"{tokens.get(row, 0):.0f}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    sums = [f"{additive(rows, scale).mean():.1f}" for scale in ("points", "odds")]
    lines += ["", f"An additive model foretells {sums[0]} in points and {sums[1]} in log-odds.", ""]
    lines += [*_levels(levels(tidy)), ""]
    lines += ["| predicted | limit | believed | found | |", "|---|---|---:|---:|---|"]
    for prediction in predictions:
        mean = over_worlds(quantity(prediction, rows))
        lines.append(prediction_line(prediction, mean, str(mean)))
    return "\n".join(lines) + "\n"


def quantity(prediction: Mapping[str, Any], rows: Mapping[str, Array]) -> Array:
    """What a prediction is about, `[worlds]`."""
    schedule = str(prediction["schedule"])
    if prediction["quantity"] == "over_better":
        return over_better(rows, schedule)
    return rows[schedule] - additive(rows, str(prediction.get("scale", "points")))


def adjusted(rows: Mapping[str, Array]) -> dict[str, float]:
    """p-value of each schedule against the better one alone, adjusted by Holm."""
    gaps = [over_better(rows, row) for row in SCHEDULES]
    raw = [float(ttest_1samp(gap, 0.0).pvalue) if gap.any() else 1.0 for gap in gaps]
    return dict(zip(SCHEDULES, map(float, holm(raw)), strict=True))


def _differences(rows: Mapping[str, Array], row: str) -> list[str]:
    if row not in SCHEDULES:
        return ["", "", "", ""]
    alone = str(over_worlds(over_better(rows, row)))
    sums = [str(over_worlds(rows[row] - additive(rows, s))) for s in ("points", "odds")]
    return [alone, f"{adjusted(rows)[row]:.3f}", *sums]


def _levels(table: pd.DataFrame) -> list[str]:
    steps = [int(step) for step in table.index.unique("difficulty")]
    lines = [
        "Accuracy and answer length (tokens) by number of steps:",
        "",
        "| row | " + " | ".join(map(str, steps)) + " |",
        "|---|" + "---:|" * len(steps),
    ]
    for row in (BASE, SFT, RL, *SCHEDULES):
        own = table.loc[row].loc[steps]
        pairs = zip(own["greedy_correct"], own["greedy_tokens"], strict=True)
        cells = [f"{accuracy:.0f} ({tokens:.0f})" for accuracy, tokens in pairs]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Five schedules of SFT and RL.")
    parser.add_argument("tidy", type=Path)
    chosen = parser.parse_args(arguments)
    print(tables(load_tidy(chosen.tidy), read_yaml(PREDICTIONS)["synergy"]), end="")


if __name__ == "__main__":
    main()
