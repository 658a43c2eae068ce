"""Forest plots: every method minus the leading row, and minus each baseline, with its interval."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import (
    COLUMN_IN,
    GREY,
    PAGE_IN,
    Limits,
    dot,
    grid,
    in_row,
    name_rows,
    new_figure,
    say,
    suptitle,
)
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import label, ordered_methods, style
from bridge.analysis.tables.differences import Contrast, block_differences, signed
from bridge.analysis.tables.leading import Lead, block_lead
from bridge.analysis.tables.render import printable

ROW_IN = 0.17
MARGIN = 0.06
ARROW = 0.2
"""Room beside the longest intervals and for an arrow with its number, as shares of the axis."""
FAR = 2.0
"""An interval that starts this many times farther from zero than the median one ends is no more
than an arrow with its number, so that the others can be told apart."""


def leading_row(tidy: Tidy) -> Figure:
    """One panel per model and data set: every row minus the one with the highest mean, sorted."""
    blocks = build_blocks(tidy)
    n_rows, n_columns = grid(len(blocks))
    most = max(len(block.methods) for block in blocks)
    figure = new_figure(
        COLUMN_IN if n_columns == 1 else PAGE_IN, (ROW_IN * most + 0.7) * n_rows + 0.05
    )
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes, block in zip(panels.flat, blocks, strict=False):
        axes.set_title(printable(f"{block.model} · {block.dataset}"))
        if (lead := block_lead(block)) is None:
            say(axes, "no run has a number")
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        _lead_panel(axes, lead)
    for axes in panels.flat[len(blocks) :]:
        axes.set_visible(False)
    return figure


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
    heights = [ROW_IN * max(len(methods), 2) + 0.75 for methods in rows.values()]
    figure = new_figure(PAGE_IN if len(baselines) > 1 else COLUMN_IN, sum(heights) + 0.1)
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)
    for part, ((model, dataset), items) in zip(parts[:, 0], blocks.items(), strict=True):
        suptitle(part, f"{model} · {dataset}")
        panels = part.subplots(1, max(len(baselines), 1), squeeze=False, sharey=True)
        if not items:
            say(panels[0, 0], "no baseline to compare with")
            panels[0, 0].set_xticks([])
            panels[0, 0].set_yticks([])
            continue
        for axes, baseline in zip(panels[0], baselines, strict=False):
            mine = [item for item in items if item.second.name == baseline]
            _panel(axes, mine, rows[model, dataset])
            axes.set_title(printable(f"minus {label(baseline)}"), fontweight="normal")
            axes.set_xlabel("difference (points)")
    return figure


def _lead_panel(axes: Axes, lead: Lead) -> None:
    """The leader on top at zero; beside each row its difference and interval."""
    names = [lead.method, *[item.first.name for item in lead.rivals]]
    _panel(axes, lead.rivals, names)
    looks = style(lead.method)
    axes.plot([0], [0], looks.marker, color=looks.color, markersize=4.2 * looks.scale)
    in_row(axes, 0, 1.03, f"{100 * lead.mean:.1f}", fontweight="bold")
    for row, item in enumerate(lead.rivals, start=1):
        if item.difference:
            in_row(axes, row, 1.03, signed(_points(item)[0]))
    axes.set_xlabel(printable(f"minus {label(lead.method)} (points)"))


def _panel(axes: Axes, items: Sequence[Contrast], methods: Sequence[str]) -> None:
    """One baseline: dots with intervals, filled where the difference is significant."""
    axes.axvline(0, color=GREY, linewidth=0.8)
    found = {item.first.name: _points(item) for item in items if item.difference}
    reach = FAR * median([max(-low, high) for _, low, high in found.values()] or [0.0])
    _set_limits(axes, found.values(), reach)
    for item in items:
        name = item.first.name
        row = methods.index(name)
        if name not in found:
            in_row(axes, row, 0.02, item.refused, style="italic")
        elif _beyond(found[name], reach):
            number, color = signed(found[name][0]), style(name).color
            if found[name][0] < 0:
                in_row(axes, row, 0.01, f"◂ {number}", color=color)
            else:
                in_row(axes, row, 0.99, f"{number} ▸", color=color, ha="right")
        else:
            dot(axes, name, row, found[name], filled=item.significant)
    name_rows(axes, [label(name) for name in methods])


def _beyond(limits: Limits, reach: float) -> bool:
    _, low, high = limits
    return 0 < reach < max(low, -high)


def _set_limits(axes: Axes, found: Collection[Limits], reach: float) -> None:
    """From the lowest to the highest near interval, zero included, with room for the arrows."""
    near = [limits for limits in found if not _beyond(limits, reach)]
    far = [limits[0] for limits in found if _beyond(limits, reach)]
    edges = [0.0, *(edge for _, low, high in near for edge in (low, high))]
    width = max(edges) - min(edges) or 1.0
    left = ARROW if any(mean < 0 for mean in far) else MARGIN
    right = ARROW if any(mean > 0 for mean in far) else MARGIN
    axes.set_xlim(min(edges) - left * width, max(edges) + right * width)


def _points(item: Contrast) -> Limits:
    assert item.difference
    found = item.difference
    return 100 * found.mean, 100 * found.low, 100 * found.high
