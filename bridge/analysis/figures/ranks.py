"""How sure the order of methods is: the chance of each method to have each rank."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    PAGE_IN,
    grid,
    name_rows,
    new_figure,
    say,
)
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.tables.ranks import Ranks, block_ranks
from bridge.analysis.tables.render import printable

SHADES = "Blues"
WRITTEN = 0.05
"""Chances below this are a shade without a number."""
DARK = 0.6


def rank_probabilities(tidy: Tidy) -> Figure:
    """One panel per model and data set, methods by expected rank, one column per rank."""
    blocks = build_blocks(tidy)
    n_rows, n_columns = grid(len(blocks))
    found = [sorted(block_ranks(block), key=lambda row: row.expected) for block in blocks]
    height = (0.17 * max(2, *map(len, found)) + 0.65) * n_rows + 0.05
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, height)
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, block, rows in zip(panels.flat, blocks, found, strict=False):
        axes.set_title(printable(f"{block.model} · {block.dataset}"))
        _panel(axes, rows)
    for axes in panels.flat[len(blocks) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, rows: list[Ranks]) -> None:
    if not rows:
        say(axes, "fewer than two trained rows with two seeds")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    chances = np.stack([row.probabilities for row in rows])
    n = len(rows)
    # Centred on whole numbers, as the names of the rows are; vector graphics, unlike an image.
    edges = np.arange(n + 1) - 0.5
    axes.pcolormesh(edges + 1, edges, chances, cmap=SHADES, vmin=0, vmax=1, linewidth=0)
    for (row, rank), chance in np.ndenumerate(chances):
        if chance >= WRITTEN:
            color = "white" if chance > DARK else "#222222"
            text = f"{100 * chance:.0f}"
            axes.text(rank + 1, row, text, color=color, ha="center", va="center", fontsize=5.5)
    name_rows(axes, [label(row.method) for row in rows])
    axes.set_xlabel("rank (1: highest accuracy)")
    axes.set_xticks(range(1, n + 1, 1 if n < 10 else 2))
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False)
