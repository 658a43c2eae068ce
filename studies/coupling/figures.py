"""Figures of the coupling study with real generation, from its committed tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from bridge.analysis.figures.canvas import GREY, PAGE_IN, look, new_figure, save
from studies.coupling.figures_exact import (
    LOSS,
    ORDERS,
    PLAIN,
    TARGET_STYLES,
    TICKS,
    phase_courses,
    predicted_observed,
)

SHOWN_BETA = 0.1
PENALTIES = {"k1 in the reward": "k1", "k3 in the loss": "k3", "no penalty": "no KL"}


def draw_generation(tables: Path, figures: Path) -> None:
    """Draw courses (at one beta), predicted against observed changes, and the table of signs."""
    courses = _named(pd.read_csv(tables / "courses.csv"))
    shown = courses[
        courses["order"].isin(ORDERS)
        & (courses["beta"] == SHOWN_BETA)
        & (courses["parameters"] == "k1 in the reward")
        & (courses["reference"] == "first")
    ]
    cell = ["order", "target", "parameters", "progress"]
    means = shown.groupby(cell, sort=False)[["loss", "reward"]].mean().reset_index()
    changes = _named(pd.read_csv(tables / "changes.csv"))
    changes = changes.rename(columns={"loss_change": "observed", "penalty": "parameters"})
    predicted = changes.dropna(subset=["predicted", "observed", "residual"])
    with look():
        save(phase_courses(means, LOSS, "reward J, sampled"), figures, "coupling_courses")
        save(predicted_observed(predicted), figures, "coupling_predictions")
        save(sign_forest(_named(pd.read_csv(tables / "signs.csv"))), figures, "coupling_signs")


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Targets with their first phase, where one target has SFT phases of several lengths."""
    sft = frame["order"].str.startswith("SFT")
    longest = frame[sft].groupby("target")["first_steps"].transform("max")
    short = sft & (frame["first_steps"] < longest.reindex(frame.index))
    return frame.assign(target=frame["target"].where(~short, frame["target"] + ", short SFT"))


def sign_forest(signs: pd.DataFrame) -> Figure:
    """Observed change with its interval over seeds, the predicted sign and the control beside it.

    Args:
        signs: columns order, target, penalty, reference, beta, predicted_sign, observed, low, high,
            supported, control; one row per cell.
    """
    orders = [order for order in ORDERS if (signs["order"] == order).any()]
    parts = [signs[signs["order"] == order].reset_index(drop=True) for order in orders]
    heights = [0.16 * len(part) + 0.55 for part in parts]
    figure = new_figure(PAGE_IN, sum(heights) + 0.3)
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, order, part in zip(panels, orders, parts, strict=True):
        _forest_panel(axes, part)
        if order == ORDERS[0]:  # from a tenth of a nat to tens of them
            axes.set_xscale("symlog", linthresh=0.1)
            axes.xaxis.set_major_locator(FixedLocator(TICKS))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(PLAIN)
        quantity = "L (nats per sequence)" if order == ORDERS[0] else "J"
        axes.set_title(f"{order}: change of {quantity}")
    marks = [
        ("o", GREY, "interval excludes 0 on the predicted side"),
        ("o", "white", "it does not"),
        ("|", GREY, "more of the first phase instead"),
        (">", GREY, "predicted sign (at the margin)"),
    ]
    handles = [
        Line2D([], [], marker=m, color=GREY, markerfacecolor=f, linestyle="", markersize=4, label=t)
        for m, f, t in marks
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _forest_panel(axes: Axes, part: pd.DataFrame) -> None:
    rows = [{str(key): value for key, value in row.items()} for row in part.to_dict("records")]
    for place, row in enumerate(rows):
        color = TARGET_STYLES[row["target"]][0]
        if np.isfinite(row["low"]):  # one seed has no interval
            axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.0)
        axes.plot(
            row["observed"], place, "o", color=color, markersize=4,
            markerfacecolor=color if row["supported"] else "white",
        )  # fmt: skip
        axes.plot(row["control"], place, "|", color=GREY, markersize=7)
        sign = row["predicted_sign"]
        if sign:
            axes.plot(
                1.015 if sign > 0 else -0.015, place, marker=">" if sign > 0 else "<", color=color,
                markersize=3.5, transform=axes.get_yaxis_transform(), clip_on=False,
            )  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=0.7, zorder=0.5)
    axes.set_yticks(range(len(rows)), [_row_name(row) for row in rows])
    axes.tick_params(axis="y", pad=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _row_name(row: dict[str, Any]) -> str:
    name = f"{row['target']}, {PENALTIES[row['penalty']]}"
    if row["beta"] > 0:
        name += f" {row['beta']:g}"
        name += ", reference: base" if row["reference"] == "base" else ""
    return name
