"""How much of a gain is tuning asymmetry: the tables of docs/studies/referee.md.

    python -m studies.referee.asymmetry results/asymmetry/tidy --figures figures/asymmetry

Reads the tidy tables of suites/asymmetry.yaml: rows with equal trials in several worlds. X(b) is
the test accuracy of the trial of row X that validation chooses among b random ones of its trials
(:mod:`studies.referee.selection`), worked out in each world. A difference X(a) - Y(b) is paired by
world; its interval is Student's t over worlds, so it counts base models, training data and runs.
An unfinished trial is never preferred, and counts as zero where nothing else is there to choose.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from bridge.analysis.figures.canvas import PAGE_IN, line_keywords, look, new_figure, save
from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.numbers.palette import label, style
from bridge.plan.trials import row_of
from bridge.store.columns import KEY
from bridge.store.schema import read_yaml
from studies.referee.selection import expected_test
from studies.worlds import OUTCOMES, Array, Mean, limits, over_worlds, within

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
_NAME_POINTS = 1.5
"""Height of a name in the figure, in points of accuracy."""


@dataclass(frozen=True)
class Trials:
    """Accuracies in points by row, `[worlds, trials]`; NaN in `validation`: not finished."""

    validation: Mapping[str, Array]
    test: Mapping[str, Array]
    worlds: tuple[int, ...]

    @property
    def n_trials(self) -> int:
        """Trials of each row."""
        return int(next(iter(self.test.values())).shape[1])

    def reached(self, row: str, b: int) -> Array:
        """X(b) in each world."""
        pairs = zip(self.validation[row], self.test[row], strict=True)
        return np.array([expected_test(judged, tested, b) for judged, tested in pairs])


def read_trials(tidy: Tidy) -> Trials:
    """Validation and test accuracy of every trial, of the worlds in which no run is missing."""
    key = list(KEY)
    last = tidy.dynamics.dropna(subset=["heldout_accuracy"]).sort_values("step")
    judged = last.groupby(key, sort=False).tail(1).set_index(["method", "seed"])["heldout_accuracy"]
    scores = tidy.scores.astype({"benchmark": str})
    tested = scores.groupby(["method", "seed", "benchmark"], observed=True)["greedy_correct"].mean()
    tested = tested.astype(float).groupby(["method", "seed"]).mean()
    runs = tidy.runs[tidy.runs["status"] != "missing"]
    wanted = tidy.runs["method"].nunique()
    full = runs.groupby("seed")["method"].nunique()
    seeds = sorted(int(seed) for seed in full[full == wanted].index)
    done = runs[runs["status"] == "done"].set_index(["method", "seed"]).index
    rows: dict[str, list[str]] = {}
    for name in tidy.runs["method"].astype(str).unique():
        row, number = row_of(name)
        if number is not None:
            rows.setdefault(row, []).append(name)

    def table(values: Any, otherwise: float) -> dict[str, Array]:
        return {
            row: np.array(
                [
                    [
                        100 * float(values[name, seed]) if (name, seed) in done else otherwise
                        for name in sorted(names)
                    ]
                    for seed in seeds
                ]
            )
            for row, names in rows.items()
        }

    return Trials(table(judged, float("nan")), table(tested, 0.0), tuple(s // 100 for s in seeds))


def gap(trials: Trials, left: tuple[str, int], right: tuple[str, int]) -> Mean:
    """X(a) - Y(b), paired by world."""
    return over_worlds(trials.reached(*left) - trials.reached(*right))


def ranking_tau(trials: Trials, few: int, many: int) -> Mean:
    """Kendall's tau of the rows' order at two numbers of trials, with percentiles over draws of
    worlds."""
    reached = np.array([[trials.reached(row, b) for row in trials.test] for b in (few, many)])
    rng = np.random.default_rng(0)
    n = reached.shape[-1]

    def tau(worlds: Any) -> float:
        return float(kendalltau(*reached[..., worlds].mean(-1)).statistic)

    low, high = np.quantile([tau(rng.integers(0, n, n)) for _ in range(1000)], [0.025, 0.975])
    return Mean(tau(np.arange(n)), float(low), float(high))


@dataclass(frozen=True)
class Scored:
    """A prediction and what came of it; `came_true` is None where the interval holds the limit."""

    name: str
    probability: float
    said: str
    found: str
    came_true: bool | None


def score(trials: Trials, predictions: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """Every prediction with its outcome."""
    return [_scored(trials, prediction) for prediction in predictions]


def _scored(trials: Trials, prediction: Mapping[str, Any]) -> Scored:
    low, high, said = limits(prediction)
    if "kendall_tau" in prediction:
        mean = ranking_tau(trials, *prediction["kendall_tau"])
        found = f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
    else:
        if "own_gain" in prediction:
            most = trials.n_trials
            gains = [trials.reached(row, most) - trials.reached(row, 1) for row in trials.test]
            mean = over_worlds(np.mean(gains, axis=0))
        else:
            sides = (prediction["left"], prediction["right"])
            mean = gap(trials, *((side["row"], int(side["trials"])) for side in sides))
        found = str(mean)
    name, chance = str(prediction["name"]), float(prediction["probability"])
    return Scored(name, chance, said, found, within(mean, low, high))


def brier(scored: Sequence[Scored]) -> float | None:
    """Mean squared error of the probabilities over what was decided."""
    decided = [(s.probability, s.came_true) for s in scored if s.came_true is not None]
    return sum((p - o) ** 2 for p, o in decided) / len(decided) if decided else None


def tables(trials: Trials, predictions: Sequence[Mapping[str, Any]]) -> str:
    """The tables as Markdown."""
    steps = [b for b in (1, 2, 4, 8, 16) if b <= trials.n_trials]
    rows = list(trials.test)
    lines = [
        f"{len(trials.worlds)} worlds, {trials.n_trials} trials a row.",
        "",
        "| trials | " + " | ".join(rows) + " |",
        "|---:|" + "---:|" * len(rows),
    ]
    for b in steps:
        means = [over_worlds(trials.reached(row, b)) for row in rows]
        cells = [f"{m.mean:.1f} [{m.low:.1f}, {m.high:.1f}]" for m in means]
        lines.append(f"| {b} | " + " | ".join(cells) + " |")
    most = steps[-1]
    lines += ["", "| difference | 1 : 1 | " + f"{most} : 1 | 1 : {most} | {most} : {most} |"]
    lines += ["|---|---:|---:|---:|---:|"]
    pairs = [(a, b) for a in rows for b in rows if b == "mixing" and a != b]
    for left, right in pairs:
        cells = [
            str(gap(trials, (left, a), (right, b)))
            for a, b in ((1, 1), (most, 1), (1, most), (most, most))
        ]
        lines.append(f"| {left} minus {right} | " + " | ".join(cells) + " |")
    scored = score(trials, predictions)
    lines += ["", "| predicted | limit, points | believed | found | |", "|---|---|---:|---:|---|"]
    for s in scored:
        lines.append(
            f"| {s.name} | {s.said} | {s.probability:.2f} | {s.found} | {OUTCOMES[s.came_true]} |"
        )
    error = brier(scored)
    n = sum(s.came_true is not None for s in scored)
    if error is not None:
        lines += ["", f"Brier score {error:.2f} over the {n} that were decided (0.25: a coin)."]
    return "\n".join(lines) + "\n"


def curves(trials: Trials) -> Figure:
    """Accuracy of the chosen trial by the number of trials, mean over worlds."""
    steps = list(range(1, trials.n_trials + 1))
    figure = new_figure(PAGE_IN, 3.2)
    axes = figure.add_subplot()
    ends = []
    for row in trials.test:
        means = [float(trials.reached(row, b).mean()) for b in steps]
        axes.plot(steps, means, **line_keywords(style(row)))
        ends.append((means[-1], row))
    height = -np.inf
    for mean, row in sorted(ends):  # a name stands at its line's end, above the one below it
        height = max(mean, height + _NAME_POINTS)
        axes.text(steps[-1] * 1.05, height, label(row), color=style(row).color, va="center")
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(len(steps).bit_length())]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xlim(1, 1.6 * steps[-1])
    axes.set_xlabel("trials given to the row")
    axes.set_ylabel("accuracy of the chosen one")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description="What a rival's missing trials are worth.")
    parser.add_argument("tidy", type=Path)
    parser.add_argument("--figures", type=Path)
    chosen = parser.parse_args(arguments)
    trials = read_trials(load_tidy(chosen.tidy))
    print(tables(trials, read_yaml(PREDICTIONS)["asymmetry"]), end="")
    if chosen.figures:
        with look():
            save(curves(trials), chosen.figures, "asymmetry")


if __name__ == "__main__":
    main()
