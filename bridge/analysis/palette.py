"""How a method looks and reads: one colour, line style, marker and name, the same everywhere.

The eight methods of the main job use Okabe and Ito's colours (jfly.uni-koeln.de/color), which stay
apart for colour-blind readers; planned methods take darker ones. Markers and line styles repeat
the information, so that a figure also reads in grey. A method that is not listed gets a style
from its name alone, the same in every figure and on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

DashPattern = tuple[float, ...]

SOLID: DashPattern = ()
DASHED: DashPattern = (4.0, 1.6)
DOTTED: DashPattern = (1.0, 1.3)
DASH_DOT: DashPattern = (5.0, 1.4, 1.2, 1.4)


@dataclass(frozen=True, slots=True)
class Style:
    """Look of a method; `dashes` are on/off lengths in line widths, empty for a solid line.

    `scale` makes up for markers that look smaller than others of the same nominal size.
    """

    label: str
    color: str
    marker: str
    dashes: DashPattern = SOLID
    scale: float = 1.0


STYLES: dict[str, Style] = {
    "base": Style("Base", "#7A7A7A", "X", DOTTED),
    "sft": Style("SFT", "#E69F00", "s", DASHED),
    "rl_zero": Style("RL-zero", "#0072B2", "o"),
    "cold_start": Style("Cold-start", "#009E73", "^"),
    "alternating": Style("Alternating", "#56B4E9", "v", DASHED),
    "mixing": Style("Mixing", "#CC79A7", "D", DASH_DOT),
    "bridge": Style("BRIDGE", "#D55E00", "*", SOLID, 1.6),
    "bridge_no_gain": Style("BRIDGE, no gain", "#7B3F00", "p", DASHED, 1.1),
    "dr_grpo": Style("Dr. GRPO", "#332288", "<"),
    "dapo": Style("DAPO", "#44AA99", ">", DASHED),
    "sasr": Style("SASR", "#882255", "h"),
    "static_hybrid": Style("Static hybrid", "#999933", "H", DASHED),
    "luffy": Style("LUFFY", "#117733", "d"),
    "chord_mu": Style("CHORD-µ", "#000000", "P", SOLID, 1.15),
    "chord_phi": Style("CHORD-φ", "#505A74", "8", DASHED),
    "hpt": Style("HPT", "#AA4499", "X", DASH_DOT),
}

_SPARE_COLORS = ("#4B6A9B", "#A0522D", "#5F8A3C", "#8A4FA3", "#B0413E", "#2E7F86", "#6B5B2A")
_SPARE_MARKERS = ("o", "s", "^", "v", "D", "P", "d", "<", ">")
_SPARE_DASHES = (DASH_DOT, DOTTED, DASHED)


def style(method: str) -> Style:
    """Style of a method, known or not."""
    if method in STYLES:
        return STYLES[method]
    digest = hashlib.sha256(method.encode("utf-8", "surrogatepass")).digest()
    return Style(
        label(method),
        _SPARE_COLORS[digest[0] % len(_SPARE_COLORS)],
        _SPARE_MARKERS[digest[1] % len(_SPARE_MARKERS)],
        _SPARE_DASHES[digest[2] % len(_SPARE_DASHES)],
    )


def label(method: str) -> str:
    """Name of a method as readers know it; an unknown one keeps its own, spaces for underscores."""
    return STYLES[method].label if method in STYLES else method.replace("_", " ")


def benchmark_label(benchmark: str, dataset: str) -> str:
    """Name of a benchmark inside its dataset's block: `equations_rung2` reads `rung2`."""
    return benchmark.removeprefix(f"{dataset}_").replace("_", " ")


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Known methods in the order of this module, then the others in the order given."""
    given = list(dict.fromkeys(methods))
    known = [method for method in STYLES if method in given]
    return known + [method for method in given if method not in STYLES]
