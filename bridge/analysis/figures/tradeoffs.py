"""Accuracy against what it cost, with the Pareto front, and where the training time went."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    GREY,
    PAGE_IN,
    grid,
    legend_handles,
    line_keywords,
    marker_keywords,
    new_figure,
    say,
    suptitle,
)
from bridge.analysis.numbers.cells import UNTRAINED, Block, build_blocks
from bridge.analysis.figures.curves import time_unit
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.store.columns import KEY
from bridge.analysis.numbers.palette import label, ordered_methods, style
from bridge.analysis.tables.render import printable
from bridge.analysis.numbers.statistics import Interval

COSTS = {"flops_total": "training compute", "seconds_train": "training time"}
# Costs that differ by more than this factor are drawn on a logarithmic axis.
WIDE = 8.0
FRONT = "#B5B5B5"
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
# A stage has the same colour everywhere.
STAGES = {
    "rollout": "#4477AA",
    "grade": "#66CCEE",
    "update": "#EE6677",
    "sync": "#AA3377",
    "checkpoint": "#CCBB44",
    "probe": "#BBBBBB",
    "other": "#E2E2E2",
}


@dataclass(frozen=True)
class Point:
    """A method's mean cost and its accuracy."""

    method: str
    cost: float
    accuracy: Interval


def accuracy_cost(tidy: Tidy) -> Figure:
    """One row per model and dataset: accuracy against FLOPs and against training time."""
    blocks = build_blocks(tidy)
    figure = new_figure(PAGE_IN, 2.4 * len(blocks) + 0.6)
    parts = figure.subfigures(len(blocks), 1, squeeze=False)
    drawn: list[str] = []
    for part, block in zip(parts[:, 0], blocks, strict=True):
        suptitle(part, f"{block.model} · {block.dataset}")
        panels = part.subplots(1, len(COSTS), sharey=True)
        for axes, (quantity, name) in zip(panels, COSTS.items(), strict=True):
            points = block_points(tidy, block, quantity)
            drawn += _scatter(axes, points, name, UNITS[quantity])
        panels[0].set_ylabel("greedy accuracy (points)")
    _add_legend(figure, ordered_methods(drawn))
    return figure


def stage_costs(tidy: Tidy) -> Figure:
    """Stacked bars of training seconds by stage, one panel per model and dataset."""
    n_rows, n_columns = grid(len(tidy.blocks))
    most = max(len(tidy.methods(*pair)) for pair in tidy.blocks)
    height = (0.17 * most + 0.65) * n_rows + 0.35
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, height)
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, (model, dataset) in zip(panels.flat, tidy.blocks, strict=False):
        axes.set_title(printable(f"{model} · {dataset}"))
        _bars(axes, stage_seconds(tidy, model, dataset))
    for axes in panels.flat[len(tidy.blocks) :]:
        axes.set_visible(False)
    handles = {
        text: handle
        for axes in panels.flat
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        names = [name for name in STAGES if name in handles]
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=4)
    return figure


def block_points(tidy: Tidy, block: Block, quantity: str) -> list[Point]:
    """Methods of a block that have both an accuracy and a cost, cheapest first."""
    costs = finished_costs(tidy, block.model, block.dataset).groupby("method", observed=True)
    means = costs[quantity].mean()
    column = block.columns[-1] if block.columns else ""
    points = []
    for method in block.methods:
        cell = block.cells.get((method, column))
        if cell and cell.interval and method in means.index and np.isfinite(means[method]):
            points.append(Point(method, float(means[method]), cell.interval))
    return sorted(points, key=lambda point: point.cost)


def pareto_front(points: list[Point]) -> list[Point]:
    """Points that no cheaper or equally cheap point beats or equals, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy.mean)):
        if not front or point.accuracy.mean > front[-1].accuracy.mean:
            front.append(point)
    return front


def finished_costs(tidy: Tidy, model: str, dataset: str) -> pd.DataFrame:
    """Costs of the finished runs of a block."""
    runs = block_of(tidy.runs, model, dataset)
    done = runs.loc[runs["status"] == DONE, list(KEY)]
    return done.merge(tidy.costs, on=list(KEY), how="inner")


def stage_seconds(tidy: Tidy, model: str, dataset: str) -> pd.DataFrame:
    """Mean seconds of training, method x stage; `other` is what no stage claims."""
    costs = finished_costs(tidy, model, dataset)
    named = [stage for stage in STAGES if f"seconds_{stage}" in costs]
    stages = costs[[f"seconds_{stage}" for stage in named]].astype(float).fillna(0.0)
    stages.columns = pd.Index(named)
    # The training time in the costs leaves the probes out.
    claimed = stages.drop(columns="probe", errors="ignore").sum(axis=1)
    stages["other"] = (costs["seconds_train"].astype(float) - claimed).clip(lower=0).fillna(0.0)
    means = stages.groupby(costs["method"].astype(str)).mean()
    methods = [m for m in tidy.methods(model, dataset) if m in means.index]
    return means.loc[[m for m in methods if means.loc[m].sum() > 0]]


def _scatter(
    axes: Axes, points: list[Point], name: str, unit_of: Callable[[float], tuple[float, str]]
) -> list[str]:
    """Draw one panel; returns the methods it shows."""
    paid = [point for point in points if point.cost > 0 and point.method != UNTRAINED]
    for point in (point for point in points if point not in paid):
        level = 100 * point.accuracy.mean
        axes.axhline(level, **line_keywords(style(point.method), 1.0), zorder=1.5)
    if not paid:
        say(axes, "no costs")
        return [point.method for point in points]
    scale, unit = unit_of(paid[-1].cost)
    axes.set_xlabel(f"{name} ({unit})")
    low, high = paid[0].cost / scale, paid[-1].cost / scale
    if high / low > WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 1.4, high * 1.4)
    else:
        axes.set_xlim(0, high * 1.1)
    front = pareto_front(paid)
    x = [*(point.cost / scale for point in front), axes.get_xlim()[1]]
    y = [*(100 * point.accuracy.mean for point in front), 100 * front[-1].accuracy.mean]
    axes.step(x, y, where="post", color=FRONT, linewidth=1.0, zorder=1.6)
    for point in paid:
        looks, found = style(point.method), point.accuracy
        mean, low, high = 100 * found.mean, 100 * found.low, 100 * found.high
        axes.errorbar(
            [point.cost / scale],
            [mean],
            yerr=[[mean - low], [high - mean]],
            fmt=looks.marker,
            color=looks.color,
            elinewidth=0.9,
            alpha=1.0 if point in front else 0.6,
            **marker_keywords(looks),
        )
    # The cheapest and the highest; names of all would overlap.
    for point in dict.fromkeys((front[0], front[-1])):
        place = point.cost / scale, 100 * point.accuracy.mean
        axes.annotate(
            printable(label(point.method)),
            place,
            (4, 4),
            textcoords="offset points",
            color=style(point.method).color,
            fontsize=6.5,
        )
    return [point.method for point in points]


def _add_legend(figure: Figure, methods: list[str]) -> None:
    """Markers of the methods, the front, and the line of the untrained model."""
    handles = legend_handles([m for m in methods if m != UNTRAINED], lined=False)
    handles.append(Line2D([], [], color=FRONT, linewidth=1.0, label="Pareto front"))
    if UNTRAINED in methods:
        (untrained,) = legend_handles([UNTRAINED], marked=False)
        untrained.set_label(f"{label(UNTRAINED)}, untrained")
        handles.append(untrained)
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _flops_unit(most: float) -> tuple[float, str]:
    """FLOPs per unit and its name: a power of a thousand."""
    power = 3 * int(math.log10(max(most, 1.0)) // 3)
    return 10.0**power, f"10{str(power).translate(RAISED)} FLOPs" if power else "FLOPs"


UNITS = {"flops_total": _flops_unit, "seconds_train": time_unit}


def _bars(axes: Axes, seconds: pd.DataFrame) -> None:
    if seconds.empty:
        say(axes, "no costs")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    scale, unit = time_unit(float(seconds.sum(axis=1).max()))
    rows = np.arange(len(seconds))
    left = np.zeros(len(seconds))
    for stage, color in STAGES.items():
        if stage in seconds and (width := seconds[stage].to_numpy() / scale).sum() > 0:
            axes.barh(rows, width, left=left, height=0.68, color=color, label=stage, linewidth=0)
            left = left + width
    for row, total in zip(rows.tolist(), left.tolist(), strict=True):
        axes.text(total, row, f" {total:,.3g}", va="center", fontsize=6, color=GREY)
    axes.set_yticks(rows, [printable(style(str(m)).label) for m in seconds.index])
    axes.set_ylim(len(seconds) - 0.5, -0.5)
    axes.set_xlim(0, left.max() * 1.14)
    axes.set_xlabel(f"time ({unit})")
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
