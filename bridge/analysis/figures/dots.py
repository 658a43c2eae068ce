"""The main table as a picture: one panel per block, methods sorted by their mean accuracy."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    GREY,
    PAGE_IN,
    dot,
    grid,
    in_row,
    line_keywords,
    name_rows,
    new_figure,
)
from bridge.analysis.numbers.cells import UNTRAINED, Block, Cell
from bridge.analysis.numbers.palette import label, style
from bridge.analysis.tables.render import printable

ROW_IN = 0.165


def main_scores(blocks: list[Block]) -> Figure:
    """Dots are means over seeds in the overall column, bars their 95 % intervals."""
    n_rows, n_columns = grid(len(blocks))
    most = max(len(block.methods) for block in blocks)
    height = (ROW_IN * most + 0.65) * n_rows + 0.05
    figure = new_figure(COLUMN_IN if n_columns == 1 else PAGE_IN, height)
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, block in zip(panels.flat, blocks, strict=False):
        _panel(axes, block)
    for axes in panels.flat[len(blocks) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, block: Block) -> None:
    column = block.overall
    cells = {method: block.cells[method, column] for method in block.methods}
    base = cells.pop(UNTRAINED, None)
    # With nothing trained the untrained row is all there is.
    cells = cells or {UNTRAINED: block.cells[UNTRAINED, column]}
    rows = sorted(cells, key=lambda method: -_mean(cells[method]))
    for row, method in enumerate(rows):
        found = cells[method].interval
        if found is None:
            in_row(axes, row, 0.03, cells[method].word, style="italic")
            continue
        mean, low, high = 100 * found.mean, 100 * found.low, 100 * found.high
        dot(axes, method, row, (mean, low, high))
        in_row(axes, row, 1.02, f"{mean:.1f}")
    axes.set_title(printable(f"{block.model} · {block.dataset}"))
    axes.set_xlabel("greedy accuracy (points)")
    name_rows(axes, [label(method) for method in rows])
    _mark_base(axes, base)


def _mean(cell: Cell) -> float:
    return cell.interval.mean if cell.interval else -1.0


def _mark_base(axes: Axes, base: Cell | None) -> None:
    """The untrained model is a line with its number and no row."""
    if base is None or base.interval is None:
        return
    mean = 100 * base.interval.mean
    axes.axvline(mean, **line_keywords(style(UNTRAINED), 1.0), zorder=1.5)
    text = f" {label(UNTRAINED)} {mean:.1f}"
    axes.text(mean, -0.45, text, color=GREY, fontsize=6, va="top")
