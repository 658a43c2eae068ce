"""What a mean hides: questions gained and lost between two methods, and accuracy by difficulty."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    GREY,
    PAGE_IN,
    grid,
    line_keywords,
    marker_keywords,
    new_figure,
    say,
    suptitle,
)
from bridge.analysis.numbers.cells import Block, build_blocks, greedy
from bridge.analysis.figures.curves import NAMED_PANELS, SEEDS_FOR_BAND, block_parts
from bridge.analysis.figures.ends import End, label_ends
from bridge.analysis.tables.differences import arm, shared_answers
from bridge.analysis.numbers.frames import Tidy, block_of, in_order
from bridge.analysis.numbers.palette import benchmark_label, label, style
from bridge.analysis.tables.render import printable
from bridge.analysis.numbers.statistics import t_limits

PAIRS = (("bridge", "cold_start"), ("bridge", "rl_zero"))
GAINED, LOST = "#0072B2", "#D55E00"

Gain = tuple[str, np.ndarray]


def question_changes(tidy: Tidy) -> Figure:
    """One row of panels per block and pair of methods, one panel per benchmark."""
    rows = [
        (f"{block.model} · {block.dataset}: {label(a)} minus {label(b)}", block.dataset, gains)
        for block in build_blocks(tidy)
        for a, b in PAIRS
        if {a, b} <= {*block.methods} and (gains := _gains(block, a, b))
    ]
    if not rows:
        figure = new_figure(COLUMN_IN, 1.2)
        axes = figure.subplots()
        axes.set_axis_off()
        say(axes, "no two of BRIDGE, Cold-start and RL-zero to compare")
        return figure
    figure = new_figure(PAGE_IN, 1.45 * len(rows) + 0.1)
    parts = figure.subfigures(len(rows), 1, squeeze=False)
    for part, (title, dataset, gains) in zip(parts[:, 0], rows, strict=True):
        suptitle(part, title)
        panels = part.subplots(1, len(gains), squeeze=False, sharey=True)[0]
        for axes, (benchmark, values) in zip(panels, gains, strict=True):
            _changes(axes, values)
            axes.set_title(printable(benchmark_label(benchmark, dataset)), fontweight="normal")
        panels[0].set_ylabel("points")
    return figure


def difficulty(tidy: Tidy) -> Figure:
    """Accuracy of each method by the difficulty of the question, one panel per block."""
    blocks = block_parts(tidy)
    n_rows, n_columns = grid(len(blocks), NAMED_PANELS)
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, 2.2 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    ends: dict[Axes, dict[str, End]] = {}
    for axes, (model, dataset, methods, plain) in zip(panels.flat, blocks, strict=False):
        scores = block_of(tidy.scores, model, dataset)
        axes.set_title(printable(f"{model} · {dataset}"))
        axes.set_xlabel("difficulty")
        axes.set_ylim(0, 100)
        if "difficulty" not in scores or scores["difficulty"].isna().all():
            say(axes, "no difficulty noted")
            continue
        ends[axes] = _by_difficulty(axes, scores, methods, plain)
    for axes in panels.flat[len(blocks) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("greedy accuracy (points)")
    label_ends(figure, ends)
    return figure


def _gains(block: Block, first: str, second: str) -> list[Gain]:
    """Per benchmark: difference of two methods on each question, mean over seeds, sorted."""
    changes = []
    for name in block.n_questions:
        sides = arm(block, first, name), arm(block, second, name)
        if all(side.answers for side in sides):
            (mine,), (other,) = shared_answers(*sides)
            changes.append((name, np.sort((mine.mean(0) - other.mean(0)).round(9))[::-1]))
    return changes


def _changes(axes: Axes, gains: np.ndarray) -> None:
    # Few values occur (thirds with three seeds): one stair for all questions that share one.
    starts = np.flatnonzero(np.diff(gains, prepend=np.inf))
    edges, stairs = np.append(starts, len(gains)) / len(gains), gains[starts]
    for part, color in ((stairs.clip(min=0), GAINED), (stairs.clip(max=0), LOST)):
        axes.stairs(part, edges, fill=True, color=color, linewidth=0)
    axes.axhline(0, color=GREY, linewidth=0.6)
    more, less = (100 * float(share) for share in ((gains > 0).mean(), (gains < 0).mean()))
    for x, y, text, color, ha in (
        (0.97, 0.93, f"{more:.0f} % gained", GAINED, "right"),
        (0.03, 0.07, f"{less:.0f} % lost", LOST, "left"),
    ):
        va = "top" if y > 0.5 else "bottom"
        axes.text(x, y, text, transform=axes.transAxes, color=color, ha=ha, va=va, fontsize=6.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xticks([])
    axes.set_yticks([-1, 0, 1], ["−100", "0", "100"])
    axes.set_xlabel(f"{len(gains)} questions", fontsize=6, color=GREY)


def _by_difficulty(
    axes: Axes, scores: pd.DataFrame, methods: list[str], plain: tuple[str, ...]
) -> dict[str, End]:
    """Draw one panel; returns where the curve of each method ends."""
    levels = in_order(scores["difficulty"].dropna().sort_values())
    place = {level: index for index, level in enumerate(levels)}
    rows = scores.assign(correct=greedy(scores), level=scores["difficulty"].astype(str).map(place))
    means = rows.groupby(["method", "seed", "level"], observed=True)["correct"].mean()
    ends = {}
    for method in methods:
        if method not in means.index.get_level_values("method"):
            continue
        values, looks = means.loc[method].unstack("level").dropna(axis=1), style(method)
        seeds, x = 100 * values.to_numpy(float), values.columns.to_numpy()
        if len(seeds) >= SEEDS_FOR_BAND and method not in plain:
            low, high = (np.clip(edge, 0, 100) for edge in t_limits(seeds))
            axes.fill_between(x, low, high, color=looks.color, alpha=0.1, linewidth=0)
        axes.plot(
            x,
            seeds.mean(0),
            marker=looks.marker,
            **line_keywords(looks, 0.7 if method in plain else 1.1),
            **marker_keywords(looks),
        )
        ends[method] = (float(x[-1]), float(seeds.mean(0)[-1]))
    axes.set_xticks(range(len(levels)), [printable(level) for level in levels])
    return ends
