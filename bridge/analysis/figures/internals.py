"""What goes on inside BRIDGE: the parts of the adapter's gradient, the gain, the distances."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    PAGE_IN,
    legend_handles,
    line_keywords,
    new_figure,
    say,
    suptitle,
)
from bridge.analysis.figures.curves import block_curves, with_status
from bridge.analysis.numbers.frames import Tidy, block_of
from bridge.analysis.numbers.palette import style

QUANTITIES = {
    "teacher_sft_norm": "gradient of w:\ndemonstrations",
    "teacher_rl_norm": "gradient of w:\nrewards",
    "teacher_shadow_norm": "gradient of w:\nrewards at the shadow",
    "gain_gradient_norm": "gradient of w:\nrewards minus shadow's",
    "cooperative_gain": "true gain in reward,\nsampled on held-out prompts",
    "shadow_distance": "distance of shadow\nand base weights",
    "adapter_norm": "norm of the adapter's\nupdate of the weights",
}
MARK = "teacher_sft_norm"
"""Only methods with an adapter that learns from demonstrations log this."""
PER_ROW = 4
# Values that differ by more than this factor are drawn on a logarithmic axis.
WIDE = 50.0
MOST_NAMES = 8
"""More methods than this do not fit the panel that is left over; their names stand below."""


def bridge_internals(tidy: Tidy) -> Figure:
    """Two rows of panels per model and dataset, one panel per quantity, one line per method."""
    rows = with_status(tidy)
    logged = rows[rows[MARK].notna()] if MARK in rows else rows.iloc[:0]
    blocks = [
        (pair, [m for m in tidy.methods(*pair) if m in set(block_of(logged, *pair)["method"])])
        for pair in tidy.blocks
    ]
    blocks = [(pair, methods) for pair, methods in blocks if methods]
    if not blocks:
        figure = new_figure(COLUMN_IN, 1.2)
        axes = figure.subplots()
        axes.set_axis_off()
        say(axes, "no bilevel method in this suite")
        return figure
    names = [name for name in QUANTITIES if name in rows]
    n_rows = -(-len(names) // PER_ROW)
    figure = new_figure(PAGE_IN, (1.7 * n_rows + 0.2) * len(blocks) + 0.5)
    parts = figure.subfigures(len(blocks), 1, squeeze=False)
    for part, ((model, dataset), methods) in zip(parts[:, 0], blocks, strict=True):
        suptitle(part, f"{model} · {dataset}")
        panels = part.subplots(n_rows, PER_ROW, squeeze=False, sharex=True)
        block = block_of(rows, model, dataset)
        for axes, name in zip(panels.flat, names, strict=False):
            _panel(axes, block, name, methods)
            axes.set_title(QUANTITIES[name], fontweight="normal", fontsize=6.5)
        spare = panels.flat[len(names) :]
        for axes in spare:
            axes.set_visible(False)
        if len(spare) and len(methods) <= MOST_NAMES:
            spare[-1].set_visible(True)
            spare[-1].set_axis_off()
            spare[-1].legend(handles=legend_handles(methods, marked=False), loc="center left")
        for axes in panels.flat[max(len(names) - PER_ROW, 0) : len(names)]:
            axes.tick_params(labelbottom=True)
        part.supxlabel("training progress", fontsize=7)
    many = {m: None for _, methods in blocks if len(methods) > MOST_NAMES for m in methods}
    if many:
        handles = legend_handles(many, marked=False)
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _panel(axes: Axes, block: pd.DataFrame, quantity: str, methods: list[str]) -> None:
    curves = block_curves(block, "progress", quantity, methods)
    if not curves:
        say(axes, "not logged")
        axes.set_yticks([])
        return
    lines = [curve.y.mean(0) for curve in curves]
    for curve, line in zip(curves, lines, strict=True):
        axes.plot(curve.x.mean(0), line, **line_keywords(style(curve.method), 0.9))
    values = np.concatenate(lines)
    positive = values[values > 0]
    if (values >= 0).all() and len(positive) and positive.max() / positive.min() > WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=6)
