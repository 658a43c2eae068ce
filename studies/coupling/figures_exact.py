"""Figures of the coupling study: both objectives across a change of phase, and its predictions.

Each function draws one tidy frame, from exact mode or from real generation alike. Colours and
markers are those of the demonstrations' format, dashes those of the parameterisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from bridge.analysis.figures.canvas import GREY, PAGE_IN, look, new_figure, save
from bridge.analysis.numbers.palette import DASHED, DOTTED, SOLID, DashPattern

ORDERS = ("SFT then RL", "RL then SFT")
TARGET_STYLES: dict[str, tuple[str, str]] = {
    "verifier format": ("#009E73", "o"),
    "verifier format, 10 % noise": ("#56B4E9", "s"),
    "verifier format, 30 % noise": ("#0072B2", "^"),
    "bare label": ("#D55E00", "D"),
    "bare label, short SFT": ("#CC79A7", "v"),
}
LINE_STYLES: dict[str, DashPattern] = {
    "free logits": SOLID,
    "shared map": DASHED,
    "k1 in the reward": SOLID,
    "k3 in the loss": DASHED,
    "no penalty": DOTTED,
}
TICKS = (-1.0, -0.1, 0.0, 0.1, 1.0, 10.0, 100.0)
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
LOSS, REWARD = "SFT loss L (nats per sequence)", "reward J"


def phase_courses(frame: pd.DataFrame, loss: str = LOSS, reward: str = REWARD) -> Figure:
    """L and J across the change of phase, a column per order; labels of both axes.

    Args:
        frame: columns order, target, parameters, progress (0 to 1 in the first phase, 1 to 2 in
            the second), loss, reward and, where the crossing J(p) = J(D) is to be marked,
            crossing (bool).
    """
    figure = new_figure(PAGE_IN, 4.3)
    panels = figure.subplots(2, 2, sharex="col", sharey="row", squeeze=False)
    for column, order in enumerate(ORDERS):
        for row, (quantity, label) in enumerate((("loss", loss), ("reward", reward))):
            axes = panels[row, column]
            _course_panel(axes, frame[frame["order"] == order], quantity)
            if column == 0:
                axes.set_ylabel(label)
        first, second = order.split(" then ")
        panels[0, column].set_title(order)
        panels[1, column].set_xticks([0.0, 0.5, 1.0, 1.5, 2.0])
        panels[1, column].set_xticklabels(["0", first, "change of phase", second, "end"])
    panels[0, 0].set_ylim(bottom=0)
    panels[1, 0].set_ylim(0, 1.03)
    parameters = list(dict.fromkeys(frame["parameters"]))
    _legend(figure, list(dict.fromkeys(frame["target"])), parameters if len(parameters) > 1 else [])
    return figure


def _course_panel(axes: Axes, frame: pd.DataFrame, quantity: str) -> None:
    axes.axvline(1.0, color=GREY, linewidth=0.7)
    for (target, parameters), line in frame.groupby(["target", "parameters"], sort=False):
        color, marker = TARGET_STYLES[str(target)]
        line = line.sort_values("progress", kind="stable")
        # The untrained level, to see whether a loss ends above it.
        axes.axhline(line[quantity].iloc[0], color=color, linewidth=0.6, alpha=0.5, dashes=(1, 2))
        axes.plot(
            line["progress"],
            line[quantity],
            color=color,
            dashes=LINE_STYLES[str(parameters)] or (None, None),
        )
        if "crossing" in line:
            met = line[line["crossing"]]
            axes.plot(
                met["progress"],
                met[quantity],
                marker,
                color=color,
                markersize=5,
                markeredgecolor="black",
                markeredgewidth=0.7,
                zorder=4,
            )


def predicted_observed(frame: pd.DataFrame) -> Figure:
    """Predicted against observed change of L under RL, the residual KL(p, p_G) as colour.

    Args:
        frame: columns parameters, target, predicted, observed, residual; one row per point.
    """
    groups = list(dict.fromkeys(frame["parameters"]))
    figure = new_figure(PAGE_IN, 3.3)
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    shades = LogNorm(1e-4, 10.0)
    for axes, group in zip(panels, groups, strict=True):
        part = frame[frame["parameters"] == group]
        points = None
        for target, (_, marker) in TARGET_STYLES.items():
            cell = part[part["target"] == target]
            points = axes.scatter(
                cell["predicted"], cell["observed"], c=np.clip(cell["residual"], 1e-4, 10.0),
                norm=shades, cmap="viridis_r", marker=marker, s=15, linewidths=0.3,
                edgecolors="black",
            )  # fmt: skip
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_yscale("symlog", linthresh=0.1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(TICKS))
            axis.set_major_formatter(PLAIN)
        ends = [frame[["predicted", "observed"]].min().min(), frame["predicted"].max()]
        axes.plot(ends, ends, color=GREY, linewidth=0.7, zorder=0.5)
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0.5)
        axes.axvline(0, color=GREY, linewidth=0.5, zorder=0.5)
        axes.set_title(group)
        axes.set_xlabel("predicted change of L, I1 (nats)")
    panels[0].set_ylabel("observed change of L (nats)")
    assert points is not None
    figure.colorbar(
        points, ax=list(panels), label="residual KL(p, p_G) (nats)", pad=0.01, format=PLAIN
    )
    handles = [
        Line2D([], [], color="#777777", marker=marker, linestyle="", markersize=4.5, label=target)
        for target, (_, marker) in TARGET_STYLES.items()
        if (frame["target"] == target).any()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def sign_rates(table: pd.DataFrame) -> Figure:
    """Share of tasks whose change had the predicted sign, with 95 % Wilson intervals.

    Args:
        table: columns order, parameters, target, beta, right, right_low, right_high.
    """
    groups = list(dict.fromkeys(table["parameters"]))
    betas = sorted(table["beta"].unique())
    figure = new_figure(PAGE_IN, 4.0)
    panels = figure.subplots(2, len(groups), sharex=True, sharey=True, squeeze=False)
    targets = [t for t in TARGET_STYLES if (table["target"] == t).any()]
    for row, order in enumerate(ORDERS):
        for axes, group in zip(panels[row], groups, strict=True):
            part = table[(table["order"] == order) & (table["parameters"] == group)]
            for index, target in enumerate(targets):
                color, marker = TARGET_STYLES[target]
                cell = part[part["target"] == target].sort_values("beta")
                x = [betas.index(b) + 0.16 * (index - (len(targets) - 1) / 2) for b in cell["beta"]]
                below = cell["right"] - cell["right_low"]
                above = cell["right_high"] - cell["right"]
                axes.errorbar(
                    x, cell["right"], yerr=[below.clip(lower=0), above.clip(lower=0)], fmt=marker,
                    color=color, markersize=4, elinewidth=0.9,
                )  # fmt: skip
            axes.set_title(f"{order}, {group}")
            axes.set_xticks(range(len(betas)), [f"{b:g}" for b in betas])
        panels[row, 0].set_ylabel("share with predicted sign")
    panels[0, 0].set_ylim(-0.04, 1.04)
    for axes in panels[-1]:
        axes.set_xlabel("beta")
    _legend(figure, targets, [], lines=False)
    return figure


def _legend(
    figure: Figure, targets: Sequence[str], parameters: Sequence[str], *, lines: bool = True
) -> None:
    handles = []
    for target in targets:
        color, marker = TARGET_STYLES[target]
        handles.append(
            Line2D([], [], color=color, marker=marker, linestyle="-" if lines else "",
                   markersize=4, label=target)
        )  # fmt: skip
    for name in parameters:
        handle = Line2D([], [], color=GREY, label=name)
        if LINE_STYLES[name]:
            handle.set_dashes(LINE_STYLES[name])
        handles.append(handle)
    if lines:
        handles.append(
            Line2D([], [], color=GREY, linewidth=0.6, dashes=(1, 2), label="untrained level")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def draw_exact(tables: Path, figures: Path) -> None:
    """Draw the four figures of exact mode from its CSV files; the same files, the same bytes."""
    changes = pd.read_csv(tables / "changes.csv")
    with look():
        save(phase_courses(pd.read_csv(tables / "paths.csv")), figures, "coupling_paths")
        save(phase_courses(pd.read_csv(tables / "courses.csv")), figures, "coupling_courses")
        save(predicted_observed(changes), figures, "coupling_predictions")
        save(sign_rates(pd.read_csv(tables / "signs.csv")), figures, "coupling_signs")
