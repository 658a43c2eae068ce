"""What `bridge compare` prints: text of at most 100 columns, or JSON with every number."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from math import isinf

from bridge.analysis.numbers.palette import benchmark_label
from bridge.analysis.numbers.sequential import Look
from bridge.analysis.numbers.uncertainty import MARGINS
from bridge.analysis.tables.differences import Contrast, contrast_numbers, p_text, signed
from bridge.analysis.tables.render import Sheet, Value, columns, printable

WIDTH = 100
SHOWN_CONFIG = 20
COSTS = {
    "seconds_train": "training s",
    "tokens_generated": "tokens generated",
    "tokens_trained": "tokens trained",
    "flops_total": "FLOPs",
    "memory_device_gib": "device memory GiB",
    "memory_host_gib": "host memory GiB",
}
NOTE = (
    "Points of 100, right minus left on the same questions, 95 % interval over seeds and questions "
    "(one seed a side: questions only; methods of a suite: seeds paired, their spread pooled over "
    "its methods); p adjusted by Holm over this table; won and lost count questions; gap: "
    "smallest difference found with 80 % power after the adjustment."
)
LOOK_NOTE = f"holds whenever one stops; equivalent: within {100 * max(MARGINS):.0f} points"
COST_NOTE = "Costs: means over finished runs; ratio right / left of geometric means, 95 % interval."


@dataclass(frozen=True)
class CostRatio:
    """A cost of both sides and right over left; the interval needs two seeds a side."""

    quantity: str
    left: float
    right: float
    ratio: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ComparedPair:
    """One place where both sides can be compared: accuracy per column, costs, configuration."""

    title: str
    contrasts: tuple[Contrast, ...]
    means: dict[str, tuple[float | None, float | None]]
    costs: tuple[CostRatio, ...]
    config: tuple[tuple[str, str, str], ...] = ()
    look: Look | None = None
    """What may be said after this many seeds, or worlds, however often one has looked before."""


@dataclass(frozen=True)
class ComparedMetric:
    """What `bridge compare` says."""

    kind: str
    left: str
    right: str
    pairs: tuple[ComparedPair, ...]
    cautions: tuple[str, ...] = field(default=())

    def text(self, width: int = WIDTH) -> str:
        """Tables of at most `width` characters a line."""
        parts = [f"{self.kind}: from {self.left} to {self.right}"]
        for pair in self.pairs:
            sheets = [_accuracy_sheet(pair), _cost_sheet(pair), _config_sheet(pair)]
            shown = [columns(sheet, width) for sheet in sheets if sheet.rows]
            shown[1:1] = _look_text(pair.look, width)
            parts += ["\n".join(textwrap.wrap(printable(pair.title), width)), *shown]
            hidden = len(pair.config) - SHOWN_CONFIG
            parts += [f"and {hidden} more settings differ (--json)"] if hidden > 0 else []
        said = [f"Caution: {text}." for text in self.cautions]
        said += dict.fromkeys(
            f"Refused: {item.column}: {item.refused}."
            for pair in self.pairs
            for item in pair.contrasts
            if item.refused
        )
        lines = [line for text in [*said, NOTE, COST_NOTE] for line in _wrap(text, width)]
        return "\n\n".join([*parts, "\n".join(lines)])

    def as_json(self) -> str:
        """The same as JSON, with every number that the text rounds or leaves out."""
        return json.dumps(
            {
                "kind": self.kind,
                "left": self.left,
                "right": self.right,
                "cautions": list(self.cautions),
                "pairs": [_pair_json(pair) for pair in self.pairs],
            },
            indent=2,
            ensure_ascii=True,
            allow_nan=False,
        )


def _accuracy_sheet(pair: ComparedPair) -> Sheet:
    names = ("accuracy", "left", "right", "difference", "interval", "p", "won", "lost", "gap")
    rows = []
    for item in pair.contrasts:
        left, right = (_number(value, 1) for value in pair.means[item.column])
        dataset = item.first.name.split("/")[1]
        row = [benchmark_label(item.column, dataset), left, right]
        found = item.difference
        if found is None:
            row += ["–"] * 6
        else:
            row += [
                signed(100 * found.mean),
                f"{signed(100 * found.low)}..{signed(100 * found.high)}",
                p_text(item.p_adjusted).removeprefix("p ").removeprefix("= "),
                str(item.won),
                str(item.lost),
                _number(None if item.detectable is None else 100 * item.detectable, 1),
            ]
        rows.append([Value(text) for text in row])
    return Sheet(pair.title, [Value(name) for name in names], rows)


def _look_text(look: Look | None, width: int) -> list[str]:
    if look is None:
        return []
    low, high = (f"{signed(look.mean + half)}" for half in (-look.half_width, look.half_width))
    where = "everything" if isinf(look.half_width) else f"{low}..{high}"
    text = f"Looked at after each of {look.n}: {where}; {look.decision} ({LOOK_NOTE})."
    return ["\n".join(_wrap(text, width))]


def _cost_sheet(pair: ComparedPair) -> Sheet:
    head = [Value(name) for name in ("cost", "left", "right", "ratio", "interval")]
    rows = []
    for cost in pair.costs:
        interval = "" if cost.low is None else f"{cost.low:.2f}..{cost.high:.2f}"
        row = [COSTS[cost.quantity], f"{cost.left:.4g}", f"{cost.right:.4g}"]
        rows.append([Value(text) for text in (*row, _number(cost.ratio, 2), interval)])
    return Sheet(pair.title, head, rows)


def _config_sheet(pair: ComparedPair) -> Sheet:
    head = [Value(name) for name in ("setting", "left", "right")]
    rows = [
        [Value(key), *[Value(textwrap.shorten(text, 28, placeholder="…")) for text in values]]
        for key, *values in pair.config[:SHOWN_CONFIG]
    ]
    return Sheet(pair.title, head, rows)


def _pair_json(pair: ComparedPair) -> dict[str, object]:
    return {
        "title": pair.title,
        "accuracy": [
            {
                "column": item.column,
                "left": pair.means[item.column][0],
                "right": pair.means[item.column][1],
                "refused": item.refused or None,
            }
            | {
                {"n_seeds_method": "n_seeds_right", "n_seeds_baseline": "n_seeds_left"}.get(
                    name, name
                ): value
                for name, value in contrast_numbers(item).items()
            }
            for item in pair.contrasts
        ],
        "look": _look_json(pair.look),
        "costs": [vars(cost) for cost in pair.costs],
        "config": [dict(zip(("key", "left", "right"), row, strict=True)) for row in pair.config],
    }


def _look_json(look: Look | None) -> dict[str, object] | None:
    """With None for a half-width without limit, which JSON has no number for."""
    if look is None:
        return None
    return asdict(look) | {"half_width": None if isinf(look.half_width) else look.half_width}


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), width)
