"""Means over worlds, and predictions held against them: what the studies' tables are made of.

Seeds of a world are averaged, and an interval is Student's t over worlds, so it counts base models,
training data and runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from bridge.analysis.numbers.frames import Tidy

Array = NDArray[np.float64]
OUTCOMES = {True: "came true", False: "did not", None: "undecided"}
"""Of a prediction; None: the interval holds a limit."""


@dataclass(frozen=True)
class Mean:
    """A mean over worlds with its 95 % interval, in points."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def over_worlds(values: Array) -> Mean:
    """Student's interval of a mean over worlds."""
    n = len(values)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    mean = float(values.mean())
    return Mean(mean, mean - half, mean + half)


def within(mean: Mean, low: float, high: float) -> bool | None:
    """Whether the whole interval lies inside the limits (True) or outside of them (False)."""
    if low <= mean.low and mean.high <= high:
        return True
    return False if mean.high < low or mean.low > high else None


def limits(prediction: Mapping[str, Any]) -> tuple[float, float, str]:
    """The limits of a prediction, infinite where it has none, and how they are said."""
    low = float(prediction.get("at_least", -np.inf))
    high = float(prediction.get("at_most", np.inf))
    said = [f"at least {low:g}"] * (low > -np.inf) + [f"at most {high:g}"] * (high < np.inf)
    return low, high, " and ".join(said)


def prediction_line(prediction: Mapping[str, Any], mean: Mean, found: str) -> str:
    """A prediction and its outcome as a line of a Markdown table."""
    low, high, said = limits(prediction)
    return (
        f"| {prediction['name']} | {said} | {prediction['probability']:.2f} | {found} | "
        f"{OUTCOMES[within(mean, low, high)]} |"
    )


def run_accuracies(tidy: Tidy) -> dict[str, Array]:
    """Average accuracy of each run in points, `[worlds, seeds]` by row, of complete worlds."""
    scores = tidy.scores.astype({"benchmark": str, "method": str})
    means = scores.groupby(["method", "seed", "benchmark"])["greedy_correct"].mean().astype(float)
    runs = 100 * means.groupby(["method", "seed"]).mean()
    methods = list(dict.fromkeys(tidy.runs["method"].astype(str)))
    world_of = dict(zip(tidy.runs["seed"], tidy.runs["world"].astype(int), strict=True))
    seeds: dict[int, list[int]] = {}
    for seed, world in sorted(world_of.items()):
        seeds.setdefault(world, []).append(seed)
    full = [
        own for own in seeds.values() if all((method, s) in runs for method in methods for s in own)
    ]
    return {m: np.array([[runs[m, s] for s in own] for own in full]) for m in methods}
