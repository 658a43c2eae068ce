"""Predictors of accuracy after RL over SFT checkpoints: tables and figure of
docs/studies/quagmires.md.

    python -m studies.quagmires.predictors results/quagmires/tidy --figures figures

A checkpoint is a row of studies/quagmires/suites/quagmires.yaml on a data set; its outcome is the
row with ``_rl`` behind its name, which goes on from it. Both are means over seeds. Predictors are
read off one half of the questions and outcomes off the other, so no question's difficulty is on
both sides. Intervals are percentiles of a bootstrap over checkpoints; two predictors are compared
within each of its draws (the pairing matters: both have the same twelve outcomes).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata

from bridge.analysis.figures.canvas import PAGE_IN, look, new_figure, save
from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.numbers.statistics import average_at_n, pass_at_k
from bridge.store.schema import read_yaml
from studies.worlds import Array, Mean, prediction_line

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
K = 8
"""Of pass@k, of 32 samples: close to their number it would only say whether any was right."""
NAMES = {
    "pass_1": "pass@1",
    "loss": "held-out loss",
    "pass_k": f"pass@{K}",
    "both": f"loss and pass@{K}",
}
DRAWS = 2000
Columns = Mapping[str, Array]
"""Predictors and outcomes by name, [checkpoints] each."""


def checkpoints(tidy: Tidy) -> pd.DataFrame:
    """A line for each checkpoint: ``pass_1``, ``pass_k``, ``loss`` (lower is better, so negated)
    and ``after``, the greedy accuracy after RL; means of benchmarks, then of seeds."""
    scores = tidy.scores.astype({"benchmark": str, "method": str, "dataset": str})
    even = scores["question_id"].str.extract(r"(\d+)$")[0].astype(int) % 2 == 0
    asked = scores[even & (scores["n_samples"] > 0)]
    asked = asked.assign(
        pass_1=average_at_n(asked["n_samples"], asked["n_sampled_correct"]),
        pass_k=pass_at_k(asked["n_samples"], asked["n_sampled_correct"], K),
    )
    run = ["dataset", "method", "seed"]
    before = _over_benchmarks(asked, ["pass_1", "pass_k"], run)
    after = _over_benchmarks(scores[~even], ["greedy_correct"], run)["greedy_correct"]
    last = tidy.dynamics.dropna(subset=["demo_loss_heldout"]).sort_values("step")
    last = last.astype({"method": str, "dataset": str}).groupby(run).tail(1)
    loss = last.set_index(run)["demo_loss_heldout"].sort_index()
    lines = []
    for dataset, method in dict.fromkeys(zip(scores["dataset"], scores["method"], strict=True)):
        if method.endswith("_rl"):
            continue
        line = {"dataset": dataset, "row": method, **before.loc[dataset, method].mean()}
        line["loss"] = -loss.loc[dataset, method].mean()
        line["after"] = after.loc[dataset, f"{method}_rl"].mean()
        lines.append(line)
    return pd.DataFrame(lines)


def _over_benchmarks(frame: pd.DataFrame, columns: list[str], run: list[str]) -> pd.DataFrame:
    means = frame.groupby([*run, "benchmark"])[columns].mean().astype(float)
    return means.groupby(run).mean()


def left_out(values: Array, after: Array) -> Array:
    """Each outcome as a straight line through all other checkpoints foretells it.

    Args:
        values, after: [checkpoints].
    """
    design = np.column_stack([np.ones(len(after)), values])
    hat = design @ np.linalg.pinv(design)
    return after - (after - hat @ after) / (1 - np.diag(hat))


def rho(values: Array, after: Array) -> float:
    """Spearman's; 0 where one side is constant."""
    if np.ptp(values) == 0 or np.ptp(after) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(values), rankdata(after))[0, 1])


def predicted(columns: Columns, name: str) -> Array:
    """What a predictor says; for ``both`` the sum of the two in standard deviations, since weights
    fitted to twelve outcomes would foretell themselves."""
    if name != "both":
        return columns[name]
    return _standard(columns["loss"]) + _standard(columns["pass_k"])


def _standard(values: Array) -> Array:
    return (values - values.mean()) / (values.std() or 1.0)


def bootstrap(columns: Columns, statistic: Callable[[Columns], float], draws: int = DRAWS) -> Mean:
    """A statistic with its 95 % percentile interval over draws of checkpoints."""
    rng = np.random.default_rng(0)
    n = len(columns["after"])
    drawn = (rng.integers(0, n, n) for _ in range(draws))
    values = [statistic({name: v[i] for name, v in columns.items()}) for i in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return Mean(statistic(columns), float(low), float(high))


def r_squared(values: Array, after: Array) -> float:
    """Share of the outcomes' variance that a straight line in the predictor explains; 0 where one
    side is constant."""
    if np.ptp(values) == 0 or np.ptp(after) == 0:
        return 0.0
    return float(np.corrcoef(values, after)[0, 1] ** 2)


def tables(frame: pd.DataFrame, predictions: Sequence[Mapping[str, Any]]) -> str:
    """The tables as Markdown."""
    columns = {
        n: frame[n].to_numpy(float)
        for n in frame.columns.difference(["dataset", "row"], sort=False)
    }
    after = columns["after"]
    lines = [f"| data | SFT | pass@1 | held-out loss | pass@{K} | after RL |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for i, (dataset, row) in enumerate(zip(frame["dataset"], frame["row"], strict=True)):
        pass_1, pass_k, loss, end = (columns[n][i] for n in ("pass_1", "pass_k", "loss", "after"))
        lines.append(
            f"| {dataset} | {row} | {100 * pass_1:.1f} | {-loss:.3f} | {100 * pass_k:.1f} | "
            f"{100 * end:.1f} |"
        )
    head = ["predictor", "Spearman", "minus pass@1's", "R²", "minus pass@1's"]
    lines += ["", "| " + " | ".join([*head, "error, leave one out"]) + " |"]
    lines += ["|---|---|---|---|---|---:|"]
    for name, title in NAMES.items():
        error = 100 * float(np.abs(left_out(predicted(columns, name), after) - after).mean())
        cells = []
        for statistic in (rho, r_squared):
            cells.append(_two(correlation(columns, name, statistic=statistic)))
            better = correlation(columns, name, "pass_1", statistic)
            cells.append("" if name == "pass_1" else _two(better))
        lines.append(f"| {title} | {' | '.join(cells)} | {error:.1f} |")
    lines += ["", "| predicted | limit | believed | found | |", "|---|---|---:|---:|---|"]
    for p in predictions:
        mean = correlation(columns, p["left"], p.get("right"))
        lines.append(prediction_line(p, mean, _two(mean)))
    return "\n".join(lines) + "\n"


def correlation(
    columns: Columns,
    name: str,
    other: str | None = None,
    statistic: Callable[[Array, Array], float] = rho,
) -> Mean:
    """Of a predictor with the outcomes, or how much higher it is than another predictor's."""

    def value(drawn: Columns) -> float:
        own = statistic(predicted(drawn, name), drawn["after"])
        return own if other is None else own - statistic(predicted(drawn, other), drawn["after"])

    return bootstrap(columns, value)


def scatter(frame: pd.DataFrame) -> Figure:
    """Each checkpoint by its score before RL and its accuracy after, a panel for each predictor."""
    shown = {"pass_1": ("pass@1 before RL, points", 100), "pass_k": (f"pass@{K} before RL", 100)}
    shown["loss"] = ("loss on held-out demonstrations", -1)
    figure = new_figure(PAGE_IN, 2.3)
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, (name, (title, unit)) in zip(panels, shown.items(), strict=True):
        for dataset, own in frame.groupby("dataset", sort=False):
            axes.plot(unit * own[name], 100 * own["after"], "o", label=dataset)
        axes.set_xlabel(title)
        found = rho(frame[name].to_numpy(float), frame["after"].to_numpy(float))
        axes.set_title(f"rho {found:.2f}", loc="left")
    figure.axes[0].set_ylabel("accuracy after RL, points")
    figure.axes[0].legend(frameon=False, loc="upper left")
    return figure


def _two(mean: Mean) -> str:
    return f"{mean.mean:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description="What foretells accuracy after RL.")
    parser.add_argument("tidy", type=Path)
    parser.add_argument("--figures", type=Path, help="folder for the figure")
    chosen = parser.parse_args(arguments)
    frame = checkpoints(load_tidy(chosen.tidy))
    print(tables(frame, read_yaml(PREDICTIONS)["quagmires"]), end="")
    if chosen.figures:
        with look():
            save(scatter(frame), chosen.figures, "quagmires")


if __name__ == "__main__":
    main()
