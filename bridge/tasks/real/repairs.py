r"""Recorded rules for gold answers that no grader can use as the origin wrote them.

Each rule has a name and a reason (docs/data.md); the loader counts what it did. A rule rewrites
notation, never a value, and a gold that is empty is dropped with its question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from bridge.grading.quantities import scientific

_PYTHON_FRACTION: Final = re.compile(r"(-?)([0-9]+)\./([0-9]+)")
_NUMPY: Final = re.compile(r"\bnp\.(arcsin|arccos|arctan|sin|cos|tan|log|exp|sqrt)")
_THOUSANDS: Final = re.compile(r"(?<=[0-9]),\\!(?=[0-9]{3})")
_OUTER_DOLLARS: Final = re.compile(r"\$([^$]+)\$")
_STRAY_END: Final = re.compile(r"(?<!\\)[.,]$")
_BRACED: Final = re.compile(r"\{([^{}]*)\}")
# OlympiadBench 2045: a letter stuck to an interval at the origin.
_CORRUPT: Final = {"t(0,4]": "(0,4]"}


def _dollars(gold: str) -> str:
    match = _OUTER_DOLLARS.fullmatch(gold)
    return match[1].strip() if match else gold


def _python_fraction(gold: str) -> str:
    match = _PYTHON_FRACTION.fullmatch(gold)
    return rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}" if match else gold


def _stray_end(gold: str) -> str:
    cut = _STRAY_END.sub("", gold)
    braced = _BRACED.fullmatch(cut)
    return braced[1] if cut != gold and braced else cut


RULES: Final[dict[str, Callable[[str], str]]] = {
    "outer dollars": _dollars,
    "e-notation": scientific,
    "python fraction": _python_fraction,
    "numpy function": lambda gold: _NUMPY.sub(r"\\\1", gold),
    "thousands comma": lambda gold: _THOUSANDS.sub("", gold),
    "stray end": _stray_end,
    "corrupt": lambda gold: _CORRUPT.get(gold, gold),
}
"""Name of the rule -> rewriting; applied in this order."""


def repaired(gold: str) -> tuple[str, tuple[str, ...]]:
    """Return the gold answer as it is used, and the names of the rules that changed it."""
    gold, applied = gold.strip(), []
    for name, rule in RULES.items():
        new = rule(gold)
        if new != gold:
            applied.append(name)
        gold = new
    return gold, tuple(applied)
