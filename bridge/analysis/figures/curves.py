"""Training curves: accuracy and demonstration loss on probes, reward and length against RL step.

Lines are means over finished seeds, bands their 95 % t interval (three seeds or more; fewer are
drawn one by one). Only reward and length are smoothed, and their panels say over how many steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    PAGE_IN,
    grid,
    line_keywords,
    marker_keywords,
    new_figure,
    say,
)
from bridge.analysis.figures.ends import End, label_ends
from bridge.analysis.numbers.cells import UNTRAINED
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.store.columns import KEY
from bridge.analysis.numbers.palette import style
from bridge.analysis.tables.render import between, printable
from bridge.analysis.numbers.statistics import Array, t_limits

RL_FIGURE_METHODS = ("rl_zero", "cold_start", "bridge")
SEEDS_FOR_BAND = 3
MOST_LINES = 9
"""More methods than this are shared out over several panels."""
LINES_PER_PANEL = 5
NAMED_PANELS = 2
"""Panels side by side where the names of the curves stand at their ends."""
REFERENCES = (UNTRAINED, "rl_zero", "cold_start")
"""Drawn thin in each panel where methods are shared out."""
TIME_UNITS = ((2 * 3600.0, 3600.0, "h"), (600.0, 60.0, "min"), (0.0, 1.0, "s"))


@dataclass(frozen=True)
class Curve:
    """One method in one panel: x and y per seed as `[seeds, points]`, shared points only."""

    method: str
    x: Array
    y: Array

    @property
    def n_seeds(self) -> int:
        """Finished seeds behind the curve."""
        return len(self.y)


@dataclass(frozen=True)
class Probe:
    """A quantity that runs measure on a fixed probe; it is shown multiplied by `scale`."""

    column: str
    label: str
    limits: tuple[float, float]
    """No band goes beyond them."""
    scale: float = 1.0
    log: bool = False


ACCURACY = Probe("heldout_accuracy", "held-out accuracy (points)", (0.0, 100.0), 100.0)
LOSS = Probe("demo_loss_heldout", "held-out demonstration loss\n(nats per token)", (0.0, np.inf), log=True)


def accuracy_progress(tidy: Tidy) -> Figure:
    """Held-out accuracy against the share of training done, one panel per model and dataset."""
    return _probed(tidy, ACCURACY, "progress", "training progress")


def demonstration_loss(tidy: Tidy) -> Figure:
    """Loss on held-out demonstrations against the share of training done: what is forgotten."""
    return _probed(tidy, LOSS, "progress", "training progress")


def accuracy_wallclock(tidy: Tidy) -> Figure:
    """Held-out accuracy against training time, one panel per model and dataset."""
    return _probed(tidy, ACCURACY, "elapsed_s", "training time")


def reward_length(tidy: Tidy, methods: Sequence[str] = RL_FIGURE_METHODS) -> Figure:
    """Training reward and response length against RL step; thin raw means, thick running means."""
    rows = with_status(tidy)
    rows = rows[(rows["rl_step"] > 0) & rows["method"].isin(methods)]
    n_rows, n_columns = grid(len(tidy.blocks))
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, 3.0 * n_rows + 0.6)
    panels = figure.subplots(2 * n_rows, n_columns, squeeze=False)
    ends: dict[Axes, dict[str, End]] = {}
    for index, (model, dataset) in enumerate(tidy.blocks):
        upper, lower = panels[2 * (index // n_columns) :, index % n_columns][:2]
        block = block_of(rows, model, dataset)
        span = window(int(block["rl_step"].max()) if len(block) else 0)
        for axes, quantity in ((upper, "reward_mean"), (lower, "response_length_mean")):
            curves = block_curves(block, "rl_step", quantity, methods)
            limits = (0, 1) if axes is upper else (0, np.inf)
            ends[axes] = {curve.method: _draw(axes, curve, span, limits) for curve in curves}
            if not curves:
                say(axes, "no RL steps")
            _few_ticks(axes)
        upper.sharex(lower)
        upper.tick_params(labelbottom=False)
        upper.sharey(panels[0, 0])
        upper.set_title(_title(tidy, model, dataset, methods))
        lower.set_xlabel(f"RL step (thick: mean over {span} steps)" if span > 1 else "RL step")
    for row, axes in enumerate(panels[:, 0]):
        axes.set_ylabel("response length (tokens)" if row % 2 else "training reward")
    for index in range(len(tidy.blocks), n_rows * n_columns):
        for axes in panels[2 * (index // n_columns) :, index % n_columns][:2]:
            axes.set_visible(False)
    label_ends(figure, ends)
    return figure


def block_curves(
    rows: pd.DataFrame, x: str, y: str, methods: Sequence[str], status: str = DONE
) -> list[Curve]:
    """Curves of the runs with `status` in one block, at the points all its seeds share."""
    curves = []
    for method in methods:
        part = rows[(rows["method"] == method) & (rows["status"] == status)].dropna(subset=[x, y])
        if part.empty:
            continue
        values = part.pivot_table(index="seed", columns="step", values=[x, y]).dropna(axis=1)
        values = values.loc[:, values.columns.get_level_values("step").duplicated(keep=False)]
        if values.shape[1]:
            curves.append(Curve(method, values[x].to_numpy(float), values[y].to_numpy(float)))
    return curves


def shared_out(methods: Sequence[str]) -> list[list[str]]:
    """Methods of each panel: all in one, or some in each beside the references."""
    if len(methods) <= MOST_LINES:
        return [list(methods)]
    references = [method for method in methods if method in REFERENCES]
    others = [method for method in methods if method not in REFERENCES]
    n_panels = -(-len(others) // LINES_PER_PANEL)
    size = -(-len(others) // n_panels)
    return [[*references, *others[at : at + size]] for at in range(0, len(others), size)]


def window(n_steps: int) -> int:
    """Width of the running mean for a curve of `n_steps` points: a twentieth, made odd."""
    return n_steps // 20 // 2 * 2 + 1


def running_mean(values: Array, span: int) -> Array:
    """Centred mean over `span` points (odd) along the last axis; shorter windows at the ends."""
    if span == 1:
        return values
    ones = np.ones(span)
    count = np.convolve(np.ones(values.shape[-1]), ones, mode="same")
    return np.stack([np.convolve(row, ones, mode="same") / count for row in values])


def with_status(tidy: Tidy) -> pd.DataFrame:
    """Dynamics rows with the status of their run."""
    key = list(KEY)
    return tidy.dynamics.merge(tidy.runs[[*key, "status"]], on=key, how="inner")


def _probed(tidy: Tidy, probe: Probe, x: str, x_label: str) -> Figure:
    rows = with_status(tidy)
    parts = block_parts(tidy)
    n_rows, n_columns = grid(len(parts), NAMED_PANELS)
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, 2.3 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    ends: dict[Axes, dict[str, End]] = {}
    for index, (model, dataset, methods, plain) in enumerate(parts):
        axes = panels[index // n_columns, index % n_columns]
        block = block_of(rows, model, dataset)
        scale, unit = time_unit(block[x].max()) if x == "elapsed_s" else (1.0, "")
        ends[axes] = _probe_panel(axes, probe, block, x, methods, scale, plain)
        axes.set_title(_title(tidy, model, dataset, methods))
        axes.set_xlabel(f"{x_label} ({unit})" if unit else x_label)
        _few_ticks(axes)
    _set_scale(panels[0, 0], probe)
    for axes in panels.flat[len(parts) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(probe.label)
    label_ends(figure, ends)
    return figure


def block_parts(tidy: Tidy) -> list[tuple[str, str, list[str], tuple[str, ...]]]:
    """Panels of a figure of curves: model, data set, methods, and which of them are thin."""
    parts: list[tuple[str, str, list[str], tuple[str, ...]]] = []
    for model, dataset in tidy.blocks:
        shares = shared_out(tidy.methods(model, dataset))
        plain = REFERENCES if len(shares) > 1 else ()
        parts += [(model, dataset, share, plain) for share in shares]
    return parts


def _set_scale(axes: Axes, probe: Probe) -> None:
    """The y axis that all panels share."""
    if probe.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def _probe_panel(
    axes: Axes,
    probe: Probe,
    block: pd.DataFrame,
    x: str,
    methods: list[str],
    scale: float,
    plain: tuple[str, ...],
) -> dict[str, End]:
    """Draw one panel; returns where the curve of each method ends."""
    trained = [method for method in methods if method != UNTRAINED]
    ends: dict[str, End] = {}
    untouched = probe.scale * block.loc[block["method"] == UNTRAINED, probe.column].dropna()
    if len(untouched):
        axes.axhline(untouched.mean(), **line_keywords(style(UNTRAINED), 1.0), zorder=1.5)
    for curve in block_curves(block, x, probe.column, trained):
        scaled = Curve(curve.method, curve.x / scale, probe.scale * curve.y)
        ends[curve.method] = _draw(
            axes, scaled, 1, probe.limits, end_marker=True, band=curve.method not in plain
        )
    for method in trained:
        stopped = block[(block["method"] == method) & (block["status"] == "diverged")]
        for _, run in stopped.dropna(subset=[probe.column]).groupby("seed"):
            looks = style(method)
            times, values = run[x] / scale, probe.scale * run[probe.column]
            axes.plot(times, values, color=looks.color, linewidth=0.6, alpha=0.8)
            axes.plot(times.iloc[-1:], values.iloc[-1:], "x", color=looks.color, markersize=4.5)
            ends.setdefault(method, (float(times.iloc[-1]), float(values.iloc[-1])))
    if len(untouched):
        ends[UNTRAINED] = (axes.get_xlim()[1], float(untouched.mean()))
    if not ends:
        say(axes, "no held-out probes")
    return ends


def _draw(
    axes: Axes,
    curve: Curve,
    span: int,
    limits: tuple[float, float],
    end_marker: bool = False,
    band: bool = True,
) -> End:
    """Draw a curve; returns its last point."""
    looks = style(curve.method)
    x, mean = curve.x.mean(0), curve.y.mean(0)
    smooth = running_mean(curve.y, span)
    line = smooth.mean(0)
    if not band:
        pass  # A reference line: the panel is about other methods.
    elif curve.n_seeds >= SEEDS_FOR_BAND:
        low, high = (np.clip(edge, *limits) for edge in t_limits(smooth))
        axes.fill_between(x, low, high, color=looks.color, alpha=0.13, linewidth=0)
    elif curve.n_seeds > 1:
        for times, values in zip(curve.x, smooth, strict=True):
            axes.plot(times, values, color=looks.color, linewidth=0.5, alpha=0.6)
    if span > 1:
        axes.plot(x, mean, color=looks.color, linewidth=0.5, alpha=0.35)
    axes.plot(x, line, **line_keywords(looks, 1.3 if band else 0.8))
    if end_marker:
        axes.plot(
            x[-1:],
            line[-1:],
            looks.marker,
            color=looks.color,
            **marker_keywords(looks),
            clip_on=False,
            zorder=4,
        )
    return float(x[-1]), float(line[-1])


def _title(tidy: Tidy, model: str, dataset: str, methods: Sequence[str]) -> str:
    runs = block_of(tidy.runs, model, dataset)
    runs = runs[runs["method"].isin(methods) & (runs["status"] == DONE)]
    counts = Counter(runs["method"].astype(str)).values()
    return printable(f"{model} · {dataset} (n = {between(counts)})")


def time_unit(longest_s: float) -> tuple[float, str]:
    """Seconds per unit and its name for an axis that ends at `longest_s`."""
    return next((size, unit) for least, size, unit in TIME_UNITS if not longest_s < least)


def _few_ticks(axes: Axes) -> None:
    axes.locator_params(axis="both", nbins=5)
