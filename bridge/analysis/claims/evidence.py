"""How each kind of claim is measured in one (model, dataset) block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import expm1

import numpy as np
import pandas as pd

from bridge.analysis.claims.stating import Claim
from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.analysis.numbers.paired import Estimate, Refused, log_ratio, seed_mean
from bridge.analysis.numbers.palette import label
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.numbers.uncertainty import (
    LEAST_SEEDS,
    MARGINS,
    SIGNIFICANT,
    beyond_p,
    detectable_effect,
    equivalence_p,
    more_seeds,
)
from bridge.analysis.tables.differences import arm, contrast, signed
from bridge.store.columns import KEY

SIGN = {"higher": 1, "lower": -1}
POINTS = "points"
QUANTITIES = {
    "heldout_accuracy": ("held-out accuracy", POINTS),
    "reward_mean": ("reward", POINTS),
    "demo_loss_heldout": ("held-out demonstration loss", "nats per token"),
}
SHOWN: dict[str, Callable[[float], float]] = {
    POINTS: lambda value: 100 * value,
    "nats per token": lambda value: value,
    "%": lambda value: 100 * expm1(value),
}
"""From an estimate's own scale to each unit; percent are of the log of a ratio."""


class NotRun(Exception):
    """The block lacks what a claim needs; the message says what is missing."""


@dataclass(frozen=True)
class Evidence:
    """One measurement, and which sign the claim wants (0: no difference).

    `margin` belongs to a claim of equality and is on the estimate's own scale. `with_failures` is
    the difference when failed runs count by intention to treat; None where all runs count.
    `p_adjusted` and those below are set once the family is known.
    """

    what: str
    estimate: Estimate
    unit: str
    direction: int
    margin: float | None = None
    remark: str = ""
    missing: str = ""
    with_failures: float | None = None
    p_adjusted: float | None = None
    equal_p_adjusted: Mapping[float, float] = field(default_factory=dict)
    """Of TOST, per margin."""
    beyond_p_adjusted: float | None = None
    """That the difference lies outside the margin of a claim of equality."""
    level: float = SIGNIFICANT

    @property
    def can_decide(self) -> bool:
        """Whether there are seeds enough for a verdict."""
        return self.estimate.n_seeds >= LEAST_SEEDS

    @property
    def margins(self) -> tuple[float, ...]:
        """Margins of equivalence that make sense for the measurement."""
        if self.margin is not None:
            return (self.margin,)
        return MARGINS if self.unit == POINTS else ()

    @property
    def p_value(self) -> float:
        """Two-sided, before any adjustment."""
        return self.estimate.p_value

    def equal_p(self, margin: float) -> float:
        """TOST's p before any adjustment."""
        return float(equivalence_p(self.estimate.spread, self.estimate.mean, margin))

    @property
    def beyond_p(self) -> float:
        """p that the difference lies outside the margin of a claim of equality."""
        return float(beyond_p(self.estimate.spread, self.estimate.mean, self.margin or 0.0))

    @property
    def inside(self) -> float | None:
        """The smallest margin within which the two are equivalent, if any."""
        return next((m for m, p in self.equal_p_adjusted.items() if p < SIGNIFICANT), None)

    @cached_property
    def more_seeds(self) -> int | None:
        """How many more seeds a side would decide, were the effect what was measured."""
        found = self.estimate
        if found.n_seeds < 2:
            return None
        margin = self.margins[-1] if self.margins else None
        return more_seeds(found.spread, found.n_seeds, found.mean, self.level, margin)

    @property
    def effect_text(self) -> str:
        """Effect, interval and unit."""
        found = self.estimate
        effect, low, high = (self.text(value) for value in (found.mean, found.low, found.high))
        return f"{effect} [{low}, {high}] {self.unit}"

    @property
    def numbers(self) -> dict[str, object]:
        """Columns of the claims table."""
        found, shown = self.estimate, SHOWN[self.unit]
        return {
            "measured": self.what,
            "direction": {1: "higher", -1: "lower", 0: "same"}[self.direction],
            "effect": shown(found.mean),
            "low": shown(found.low),
            "high": shown(found.high),
            "unit": self.unit,
            "p_value": found.p_value,
            "p_adjusted": self.p_adjusted,
            "equivalence_margin": None if self.inside is None else shown(self.inside),
            "minimum_detectable_effect": shown(detectable_effect(found.spread, self.level)),
            "more_seeds": self.more_seeds,
            "n_seeds": found.n_seeds,
            "with_failures": None if self.with_failures is None else shown(self.with_failures),
        }

    def text(self, value: float) -> str:
        """A number of the estimate's scale as it is shown."""
        shown = SHOWN[self.unit](value)
        return f"{shown:+.3f}" if self.unit.startswith("nats") else signed(shown)


def measure(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    """The evidence on a claim in a block; raises NotRun with what is missing."""
    absent = [method for method in claim.methods if method not in block.methods]
    if absent:
        raise NotRun(f"needs the row {' and '.join(absent)}")
    measures: dict[str, Callable[[Tidy, Block, Claim], list[Evidence]]] = {
        "accuracy": _accuracy,
        "equivalence": _accuracy,
        "training_time": _time,
        "peak_memory": _memory,
        "course": _course,
    }
    return measures[claim.metric](tidy, block, claim)


def _accuracy(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    first, second = claim.methods if claim.metric == "accuracy" else claim.methods[::-1]
    column = claim.benchmark or block.overall
    if (first, column) not in block.cells:
        raise NotRun(f"needs the benchmark {column}")
    sides = arm(block, first, column), arm(block, second, column)
    found = contrast(*sides, column, block.spreads[column])
    if found.difference is None:
        raise NotRun(found.refused)
    cells = block.cells[first, column], block.cells[second, column]
    left, right = (cell.intention(block.failed_accuracy(column)) for cell in cells)
    with_failures = None
    if any(cell.n_failed for cell in cells) and left is not None and right is not None:
        with_failures = left - right
    return [
        Evidence(
            what=f"{label(first)} minus {label(second)}, {column}",
            estimate=found.difference,
            unit=POINTS,
            direction=SIGN[claim.direction] if claim.direction else 0,
            margin=claim.margin and claim.margin / 100,
            remark=claim.remark,
            missing=_missing(block, claim),
            with_failures=with_failures,
        )
    ]


def _missing(block: Block, claim: Claim) -> str:
    """Runs of a claim's rows that have no number."""
    cells = ((method, block.cells[method, block.overall]) for method in claim.methods)
    return ", ".join(f"{label(method)}: {', '.join(c.words)}" for method, c in cells if c.words)


def _time(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    return [_ratio(tidy, block, claim, "seconds_train", "training seconds")]


def _memory(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    if not all(len(_costs(tidy, block, m, "memory_device_gib")) for m in claim.methods):
        raise NotRun("device memory was not measured")
    return [_ratio(tidy, block, claim, "memory_device_gib", "peak device memory")]


def _ratio(tidy: Tidy, block: Block, claim: Claim, column: str, name: str) -> Evidence:
    """First over second as a change in percent, from the logs of the seeds' numbers."""
    first, second = (_costs(tidy, block, method, column) for method in claim.methods)
    try:
        found = log_ratio(first, second)
    except Refused as reason:
        raise NotRun(f"{name}: {reason}") from None
    what = f"{name} of {label(claim.methods[0])} against {label(claim.methods[1])}"
    assert claim.direction
    missing = _missing(block, claim)
    direction = SIGN[claim.direction]
    return Evidence(what, found, "%", direction, remark=claim.remark, missing=missing)


def _course(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    assert claim.quantity and claim.phases
    name, unit = QUANTITIES[claim.quantity]
    moments = _moments(tidy, block, claim.methods[0], claim.quantity, claim.phases)
    evidence = []
    for leg in claim.legs:
        change = np.array([run[leg.end] - run[leg.start] for run in moments])
        try:
            found = seed_mean(change)
        except Refused as reason:
            raise NotRun(f"{label(claim.methods[0])}: {reason}") from None
        what = f"{name} of {label(claim.methods[0])}, {leg.start} to {leg.end}"
        missing, direction = _missing(block, claim), SIGN[leg.direction]
        evidence.append(
            Evidence(what, found, unit, direction, remark=claim.remark, missing=missing)
        )
    return evidence


def _moments(
    tidy: Tidy, block: Block, method: str, quantity: str, phases: tuple[str, str]
) -> list[dict[str, float]]:
    """Per finished run: the quantity at the moments that legs name."""
    runs = _finished(tidy, block, method)
    if "kind" not in tidy.dynamics or quantity not in tidy.dynamics:
        raise NotRun(f"{quantity} was not logged")
    table = tidy.dynamics.merge(runs[list(KEY)], on=list(KEY), how="inner")
    found = []
    for _, run in table.sort_values("step").groupby("seed"):
        second = run.loc[run["kind"] == phases[1], "step"]
        first = run.loc[run["kind"] == phases[0], "step"]
        if first.empty or second.empty or first.min() > second.min():
            raise NotRun(f"{label(method)} has no change from {phases[0]} to {phases[1]}")
        measured = run.dropna(subset=[quantity])
        before = measured[(measured["step"] < second.min()) & (measured["kind"] == phases[0])]
        after = measured[measured["step"] >= second.min()]
        if before.empty or len(after) < 2:
            raise NotRun(f"{label(method)} has too few measurements of {quantity}")
        window = after[quantity].iloc[: -(-len(after) // 3)]
        found.append(
            {
                "switch": float(before[quantity].iloc[-1]),
                "early": float(window.mean()),
                "end": float(after[quantity].iloc[-1]),
            }
        )
    if not found:
        raise NotRun(f"{label(method)} has no log of a finished run")
    return found


def _finished(tidy: Tidy, block: Block, method: str) -> pd.DataFrame:
    runs = block_of(tidy.runs, block.model, block.dataset)
    runs = runs[(runs["method"] == method) & (runs["status"] == DONE)]
    if runs.empty:
        raise NotRun(f"{label(method)} has no finished run")
    return runs


def _costs(tidy: Tidy, block: Block, method: str, column: str) -> Array:
    runs = _finished(tidy, block, method)
    costs = tidy.costs.merge(runs[list(KEY)], on=list(KEY), how="inner")
    return costs[column].dropna().to_numpy(float)
