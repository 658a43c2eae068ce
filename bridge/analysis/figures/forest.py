"""Forest plot: every method minus each baseline, paired by question, with its interval."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    GREY,
    PAGE_IN,
    marker_keywords,
    new_figure,
    say,
    suptitle,
)
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.tables.differences import Contrast, block_differences
from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import ordered_methods, style
from bridge.analysis.tables.render import printable


def paired_differences(tidy: Tidy) -> Figure:
    """One row of panels per model and dataset, one panel per baseline, one line per method."""
    blocks = {
        (block.model, block.dataset): [
            item for item in block_differences(block) if item.column == block.overall
        ]
        for block in build_blocks(tidy)
    }
    baselines = ordered_methods(item.second.name for items in blocks.values() for item in items)
    rows = {
        key: ordered_methods(item.first.name for item in items) for key, items in blocks.items()
    }
    heights = [0.17 * max(len(methods), 2) + 0.75 for methods in rows.values()]
    figure = new_figure(PAGE_IN if len(baselines) > 1 else COLUMN_IN, sum(heights) + 0.1)
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)
    for part, ((model, dataset), items) in zip(parts[:, 0], blocks.items(), strict=True):
        suptitle(part, f"{model} · {dataset}")
        panels = part.subplots(1, max(len(baselines), 1), squeeze=False, sharex=True, sharey=True)
        if not items:
            say(panels[0, 0], "no baseline to compare with")
            panels[0, 0].set_xticks([])
            panels[0, 0].set_yticks([])
            continue
        for axes, baseline in zip(panels[0], baselines, strict=False):
            mine = [item for item in items if item.second.name == baseline]
            _panel(axes, mine, rows[model, dataset], baseline)
    return figure


def _panel(axes: Axes, items: list[Contrast], methods: list[str], baseline: str) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for item in items:
        row, looks = methods.index(item.first.name), style(item.first.name)
        found = item.difference
        if found is None:
            reason = printable(item.refused)
            axes.text(
                0.02,
                row,
                reason,
                transform=axes.get_yaxis_transform(),
                color=GREY,
                va="center",
                style="italic",
                fontsize=6,
            )
            continue
        hollow = {"markerfacecolor": "white", "markeredgecolor": looks.color}
        mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
        axes.errorbar(
            [mean],
            [row],
            xerr=[[mean - low], [high - mean]],
            fmt=looks.marker,
            color=looks.color,
            elinewidth=1.1,
            **marker_keywords(looks) | ({} if item.significant else hollow),
        )
    axes.set_title(printable(f"minus {style(baseline).label}"), fontweight="normal")
    axes.set_xlabel("difference (points)")
    axes.set_yticks(range(len(methods)), [printable(style(m).label) for m in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
