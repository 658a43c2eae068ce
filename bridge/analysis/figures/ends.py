"""Names at the right end of curves, in place of a legend: moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import ArrayLike

from bridge.analysis.numbers.palette import style
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.tables.render import printable

End = tuple[float, float]
SIZE_PT = 6.5
LINE_PT = 7.8
"""Height of a name with the room to the next one."""
ELBOW, NAME = 1.045, 1.06
"""Where the line to a name ends and where the name starts, in widths of the panel."""


def label_ends(figure: Figure, ends: Mapping[Axes, Mapping[str, End]]) -> None:
    """Write each method's name beside its panel, at the height at which its curve ends.

    `ends` has, per panel, the last point of each method's curve in data units. A faint line leads
    from there to the name. Call it when everything else is drawn: it lays the figure out.
    """
    names = {
        (axes, method): axes.text(
            NAME,
            0.5,
            printable(style(method).label),
            transform=axes.transAxes,
            color=style(method).color,
            fontsize=SIZE_PT,
            va="center",
            zorder=5,
        )
        for axes, own in ends.items()
        for method in own
    }
    engine = figure.get_layout_engine()
    assert engine is not None
    # The names take room at the right of each panel; their height does not change the layout.
    engine.execute(figure)
    for axes, own in ends.items():
        axes.get_ylim()  # Brings the limits up to date.
        place = axes.transData + axes.transAxes.inverted()
        starts = {method: np.clip(place.transform(end), 0, 1) for method, end in own.items()}
        height_pt = axes.get_window_extent().height / figure.dpi * 72
        ordered = sorted(own, key=lambda method: (own[method][1], method))
        wanted = [float(starts[method][1]) for method in ordered]
        for method, y in zip(ordered, spread(wanted, LINE_PT / height_pt), strict=True):
            names[axes, method].set_y(y)
            _lead(axes, method, starts[method], y)


def spread(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> Array:
    """Places as near as possible to those wanted (ascending) that are at least `gap` apart.

    Least squares within [low, high]: neighbours that are too close share the mean of what they want
    (isotonic regression). A gap for which there is no room is made smaller.
    """
    n = len(wanted)
    gap = min(gap, (high - low) / max(n - 1, 1))
    steps = gap * np.arange(n)
    # In these coordinates "at least a gap apart" reads "not descending".
    free = _isotonic(np.asarray(wanted, float) - steps)
    return np.clip(free, low, high - gap * max(n - 1, 0)) + steps


def _isotonic(values: ArrayLike) -> Array:
    """The nearest not descending sequence, by pooling adjacent violators."""
    groups: list[tuple[float, int]] = []
    for value in np.asarray(values, float).tolist():
        groups.append((value, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (b, n), (a, m) = groups.pop(), groups.pop()
            groups.append(((a * m + b * n) / (m + n), m + n))
    return np.array([mean for mean, size in groups for _ in range(size)])


def _lead(axes: Axes, method: str, start: ArrayLike, y: float) -> None:
    """From the end of a curve level to the edge of the panel, and from there to its name."""
    x, level = np.asarray(start, float).tolist()
    # A patch, so that the lines of a panel are its curves.
    path = Path([(x, level), (1.0, level), (ELBOW, y)])
    lead = PathPatch(path, fill=False, color=style(method).color, linewidth=0.5, alpha=0.55)
    lead.set(transform=axes.transAxes, clip_on=False, zorder=1.4)
    axes.add_patch(lead)
