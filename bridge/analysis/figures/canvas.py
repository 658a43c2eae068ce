"""The paper both kinds of figure are drawn on: sizes, fonts, legend, and reproducible files.

Figures are 3.5 or 7.0 inches wide, a column or a page of a two-column paper, with text of 6.5 to
8 points at that size. Fonts are embedded in the PDF and turned into paths in the SVG; the same
tables give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from bridge.analysis.numbers.palette import Style, style
from bridge.analysis.tables.render import printable
from bridge.store.columns import FIGURE_FORMATS

COLUMN_IN, PAGE_IN = 3.5, 7.0
GREY = "#5B5B5B"
Limits = tuple[float, float, float]
# A file's date would make every build differ.
UNDATED: dict[str, dict[str, None]] = {
    "png": {},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
LOOK: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9A9A9A",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "bridge",
    # Names come from data: a pair of dollar signs is not a formula.
    "text.parse_math": False,
    "xtick.color": "#444444",
    "xtick.labelsize": 6.5,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": "#444444",
    "ytick.labelsize": 6.5,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}


@contextmanager
def look() -> Iterator[None]:
    """Draw and save inside this, and a user's own matplotlibrc changes nothing."""
    # Asking for the backend would start one; no figure here uses it.
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    settings: Any = defaults | LOOK
    with matplotlib.rc_context(settings):
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that no global state knows of."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `figure` as png, pdf and svg."""
    folder.mkdir(parents=True, exist_ok=True)
    # Lay out once; each format would otherwise do it again.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _settle(figure)
    for extension in FIGURE_FORMATS:
        figure.savefig(folder / f"{name}.{extension}", metadata=UNDATED[extension])


def _settle(figure: Figure) -> None:
    """Round the places that the layout found: its solver's last digits differ between processes."""
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(5))
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position().get_points().round(5)))


def line_keywords(looks: Style, width: float = 1.3) -> dict[str, Any]:
    """Colour and dashes of a method for `Axes.plot`."""
    return {"color": looks.color, "dashes": looks.dashes or (None, None), "linewidth": width}


def marker_keywords(looks: Style) -> dict[str, Any]:
    """Size of a method's marker, with a white rim that keeps overlapping ones apart."""
    return {
        "markersize": 4.2 * looks.scale,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


def legend_handles(
    methods: Iterable[str], marked: bool = True, lined: bool = True
) -> list[Line2D]:
    """What a legend shows of each method: its marker, its line or both."""
    handles = []
    for method in methods:
        looks = style(method)
        handle = Line2D(
            [],
            [],
            color=looks.color,
            marker=looks.marker if marked else "",
            **marker_keywords(looks),
            linewidth=1.3 if lined else 0.0,
            label=printable(looks.label),
        )
        if looks.dashes and lined:
            handle.set_dashes(looks.dashes)
        handles.append(handle)
    return handles


def suptitle(part: SubFigure, text: str) -> None:
    """Name a row of panels, at its left."""
    part.suptitle(printable(text), x=0.006, ha="left", fontweight="bold")


def grid(n_panels: int, widest: int = 3) -> tuple[int, int]:
    """Rows and columns of panels: up to `widest` side by side, four as two by two."""
    n_columns = min(2 if n_panels == 4 else n_panels, widest)
    return -(-n_panels // n_columns), n_columns


def say(axes: Axes, text: str) -> None:
    """Write why a panel is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of the rows of a panel of dots, the first on top; only vertical grid lines."""
    axes.set_yticks(range(len(names)), [printable(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def in_row(axes: Axes, row: int, x: float, text: str, **look: Any) -> None:
    """Small text in a row of dots; `x` is a share of the panel's width."""
    keywords: dict[str, Any] = {"color": GREY, "va": "center", "fontsize": 6} | look
    axes.text(x, row, printable(text), transform=axes.get_yaxis_transform(), **keywords)


def dot(axes: Axes, method: str, row: int, number: Limits, filled: bool = True) -> None:
    """A method's number, (mean, low, high), as its marker with a bar."""
    looks, (mean, low, high) = style(method), number
    hollow = {"markerfacecolor": "white", "markeredgecolor": looks.color, "markeredgewidth": 0.8}
    axes.errorbar(
        [mean],
        [row],
        xerr=[[mean - low], [high - mean]],
        fmt=looks.marker,
        color=looks.color,
        elinewidth=1.1,
        **marker_keywords(looks) | ({} if filled else hollow),
    )
