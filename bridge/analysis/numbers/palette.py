"""How a method looks and reads: one colour, line style, marker and name, the same everywhere.

The eight methods of the main job use Okabe and Ito's colours (jfly.uni-koeln.de/color), which stay
apart for colour-blind readers; other methods and the variants of BRIDGE take darker ones. Markers
and line styles repeat the information, so that a figure also reads in grey. A method that is not
listed gets a style from its name alone, the same in every figure and on every machine.
"""

from __future__ import annotations

import hashlib
import re
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
    "bridge_no_gain_sft_only": Style("BRIDGE, no gain, SFT only", "#A63446", "p", DOTTED, 1.1),
    "bridge_no_gain_fixed": Style("BRIDGE, no gain, fixed", "#5E548E", "p", SOLID, 1.1),
    "bridge_beta_10": Style("BRIDGE, β × 10", "#2A6F97", "o", DASHED),
    "bridge_beta_50": Style("BRIDGE, β × 50", "#8E5BBF", "s"),
    "bridge_beta_200": Style("BRIDGE, β × 200", "#1B1B3A", "D"),
    "bridge_lookahead": Style("BRIDGE, lookahead", "#B5179E", "^", DASHED),
    "bridge_m_step": Style("BRIDGE, m steps", "#7CB518", "v", DASH_DOT),
    "bridge_gauss_seidel": Style("BRIDGE, Gauss-Seidel", "#9C6644", "<", DASHED),
    "bridge_own_rollouts": Style("BRIDGE, own rollouts", "#3D5A80", ">"),
    "bridge_lambda_0.3": Style("BRIDGE, λ = 0.3", "#A37B00", "d", DASHED),
    "bridge_lambda_0.7": Style("BRIDGE, λ = 0.7", "#6B705C", "d", DASH_DOT),
    "bridge_annealed": Style("BRIDGE, annealed λ", "#006D77", "h", DASHED),
    "bridge_upper_full": Style("BRIDGE, upper: full", "#386641", "8"),
    "bridge_upper_base": Style("BRIDGE, upper: base", "#BC4749", "8", DOTTED),
    "bridge_flip_0.2": Style("BRIDGE, 20 % flipped", "#C8553D", "*", DASHED, 1.6),
    "rl_zero_flip_0.2": Style("RL-zero, 20 % flipped", "#4A8FC2", "o", DOTTED),
    "dr_grpo": Style("Dr. GRPO", "#332288", "<"),
    "dapo": Style("DAPO", "#44AA99", ">", DASHED),
    "sasr": Style("SASR", "#882255", "h"),
    "static_hybrid": Style("Static hybrid", "#999933", "H", DASHED),
    "replayed_schedule": Style("Replayed schedule", "#66664D", "H", DOTTED),
    "luffy": Style("LUFFY", "#117733", "d"),
    "chord_mu": Style("CHORD-µ", "#000000", "P", SOLID, 1.15),
    "chord_phi": Style("CHORD-φ", "#505A74", "8", DASHED),
    "hpt": Style("HPT", "#AA4499", "X", DASH_DOT),
    "dft": Style("DFT", "#B8860B", "s", DOTTED),
    "idft": Style("IDFT", "#8B6508", "D", DOTTED),
    "psft": Style("PSFT", "#CD6839", "v", DOTTED),
    "eaft": Style("EAFT", "#7A6A00", "^", DOTTED),
    "asft": Style("ASFT", "#9E4A06", "h", DASH_DOT),
    "sed_sft": Style("SED-SFT", "#D2853B", "p", DASH_DOT, 1.1),
    "pear": Style("PEAR", "#6E8B3D", "d", DOTTED),
    "hinted_decoding": Style("Hinted decoding", "#A65E2E", "H", DASH_DOT),
    "hinted_none": Style("Hinted decoding, no hint", "#6E7F80", "H", SOLID),
    "srft": Style("SRFT", "#4B0082", "P", DASHED, 1.15),
    "relift": Style("ReLIFT", "#2F6B5E", "<", DASH_DOT),
    "uft": Style("UFT", "#4F7942", "o", DASH_DOT),
    "prefix_rft": Style("Prefix-RFT", "#1F6F8B", "s", DASH_DOT),
    "trapo": Style("TRAPO", "#9B2335", "^", DASH_DOT),
    "prefix_rl": Style("PrefixRL", "#6D5ACF", "8", DASH_DOT),
    "sdft": Style("SDFT", "#C06C00", "P", DOTTED, 1.15),
    "sdft_other": Style("SDFT, other's text", "#C49A6C", "D", DASHED),
    "sdft_none": Style("SDFT, no text", "#8C6D46", "<", DOTTED),
    "opsd": Style("OPSD", "#00798C", "P", DASH_DOT),
    "gac": Style("GAC", "#2F2F5F", "h", DOTTED),
    "srl": Style("SRL", "#7A9E00", ">", DASH_DOT),
    "mifo": Style("MIFO", "#B07AA1", ">", DOTTED),
}

# Settings in the names of variants, as the papers write them.
_SETTINGS = ((r"^beta (\S+)$", r"β × \1"), (r"^lambda (\S+)$", r"λ = \1"))
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
    """Name of a method as readers know it.

    `bridge_beta_20` is a variant of a known method; any other name keeps its own, with spaces.
    """
    if method in STYLES:
        return STYLES[method].label
    parents = [name for name in STYLES if method.startswith(f"{name}_")]
    if not parents:
        return method.replace("_", " ")
    parent = max(parents, key=len)
    rest = method.removeprefix(f"{parent}_").replace("_", " ")
    for pattern, text in _SETTINGS:
        rest = re.sub(pattern, text, rest)
    return f"{STYLES[parent].label}, {rest}"


def benchmark_label(benchmark: str, dataset: str) -> str:
    """Name of a benchmark inside its dataset's block: `equations_rung2` reads `rung2`."""
    return benchmark.removeprefix(f"{dataset}_").replace("_", " ")


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Known methods in the order of this module, then the others in the order given."""
    given = list(dict.fromkeys(methods))
    known = [method for method in STYLES if method in given]
    return known + [method for method in given if method not in STYLES]
