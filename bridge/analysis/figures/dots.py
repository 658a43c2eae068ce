"""The main table as a picture: each method's accuracy with its interval, benchmark by benchmark."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from bridge.analysis.figures.canvas import GREY, PAGE_IN, marker_keywords, new_figure, suptitle
from bridge.analysis.numbers.cells import AVERAGE, Block
from bridge.analysis.numbers.palette import benchmark_label, style
from bridge.analysis.tables.render import printable

# Above this accuracy a panel shows all of [0, 1].
WIDE = 0.55


def main_scores(blocks: list[Block]) -> Figure:
    """Dots are means over seeds, bars their 95 % intervals, words stand where no run finished."""
    heights = [0.165 * len(block.methods) + 0.62 for block in blocks]
    figure = new_figure(PAGE_IN, sum(heights) + 0.1)
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)
    for part, block in zip(parts[:, 0], blocks, strict=True):
        suptitle(part, f"{block.model} · {block.dataset}")
        panels = part.subplots(1, len(block.columns), squeeze=False, sharey=True)[0]
        highest = max(
            (cell.interval.high for cell in block.cells.values() if cell.interval), default=1.0
        )
        for axes, column in zip(panels, block.columns, strict=True):
            _panel(axes, block, column, 1.03 if highest > WIDE else 1.08 * highest)
    return figure


def _panel(axes: Axes, block: Block, column: str, right: float) -> None:
    for row, method in enumerate(block.methods):
        cell, looks = block.cells[method, column], style(method)
        if cell.interval is None:
            axes.text(
                0.03 * right, row, cell.word, color=GREY, va="center", style="italic", fontsize=6
            )
            continue
        spread = [
            [cell.interval.mean - cell.interval.low],
            [cell.interval.high - cell.interval.mean],
        ]
        axes.errorbar(
            [cell.interval.mean],
            [row],
            xerr=spread,
            fmt=looks.marker,
            color=looks.color,
            elinewidth=1.1,
            **marker_keywords(looks),
        )
    questions = block.n_questions.get(column)
    title = printable(benchmark_label(column, block.dataset))
    axes.set_title(title, fontweight="bold" if column == AVERAGE else "normal", fontsize=7)
    axes.set_xlabel(f"{questions} questions" if questions else "unweighted", fontsize=6, color=GREY)
    axes.set_yticks(range(len(block.methods)), [printable(style(m).label) for m in block.methods])
    axes.set_ylim(len(block.methods) - 0.5, -0.5)
    axes.set_xlim(0, right)
    step = 0.5 if right > WIDE else 0.2
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_minor_locator(MultipleLocator(step / 2))
    axes.grid(True, axis="x", which="both")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    if column == AVERAGE:
        axes.set_facecolor("#F7F7F7")
