"""What a claim is, and how each kind of claim is measured in one (model, dataset) block.

    accuracy       methods [A, B]: A minus B in the block's overall column, paired by question
    equivalence    methods [A, B, ...]: the others minus A, all inside the margin
    training_time  methods [A, B]: seconds of A over seconds of B, training seeds unpaired
    peak_memory    the same for the peak, of the device where it was measured
    course         methods [A]: how a logged quantity changes around a change of phase

Two training seeds a side are the least that can decide anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.analysis.numbers.paired import (
    Estimate,
    Refused,
    log_ratio,
    minimum_detectable_effect,
    seed_mean,
)
from bridge.analysis.numbers.palette import label
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.tables.differences import arm, contrast, signed
from bridge.store.columns import KEY
from bridge.store.schema import Closed, Name

ClaimMetric = Literal["accuracy", "equivalence", "training_time", "peak_memory", "course"]
Moment = Literal["switch", "early", "end"]
Direction = Literal["higher", "lower"]
ReadIn = Literal["paper", "summary", "note"]
FAMILIES = {
    "accuracy": "accuracy",
    "equivalence": "accuracy",
    "training_time": "cost",
    "peak_memory": "cost",
    "course": "course",
}
SIGN = {"higher": 1, "lower": -1}
QUANTITIES = {
    "heldout_accuracy": ("held-out accuracy", "points", 100.0),
    "reward_mean": ("reward", "points", 100.0),
    "demo_loss_heldout": ("held-out demonstration loss", "nats per token", 1.0),
}
SMALL_PARAMETERS = 100_000_000


class NotRun(Exception):
    """The block lacks what a claim needs; the message says what is missing."""


class Leg(Closed):
    """A change between two moments of a run.

    `switch`: the last measurement of the first phase. `early`: the mean over the first third of
    the measurements in the second phase (a fixed window; the lowest point would be low by chance).
    `end`: the last measurement.
    """

    start: Moment
    end: Moment
    direction: Direction


class PublishedEffect(Closed):
    """What the paper prints for the same comparison."""

    effect: float
    unit: Literal["points", "percent"]
    model: str


class Claim(Closed):
    """One claim, in our own words."""

    id: Name
    paper: Name
    sentence: str
    where: str
    """Place in the paper."""
    read_in: ReadIn
    """Where claim and effect were read: in the paper, or in a summary of it or note on it."""
    metric: ClaimMetric
    methods: tuple[Name, ...] = Field(min_length=1)
    """Rows of a suite; which side is which depends on the metric, see the module."""
    direction: Direction | None = None
    margin: float | None = Field(None, gt=0)
    """Points within which methods count as equal (`equivalence`)."""
    quantity: Literal["heldout_accuracy", "reward_mean", "demo_loss_heldout"] | None = None
    phases: tuple[Literal["sft", "rl"], Literal["sft", "rl"]] | None = None
    legs: tuple[Leg, ...] = ()
    published: PublishedEffect | None = None
    remark: str = ""
    """What a reader must know to judge the measurement."""

    @property
    def family(self) -> str:
        """Claims that share one Holm adjustment."""
        return FAMILIES[self.metric]

    @property
    def published_text(self) -> str:
        """The published effect with its unit and model (`no number`: none is known), and where it
        was read unless that is the paper; every place that shows the effect takes this text."""
        text = "no number"
        if self.published is not None:
            unit = "%" if self.published.unit == "percent" else "points"
            text = f"{self.published.effect:+g} {unit} ({self.published.model})"
        return text if self.read_in == "paper" else f"{text}, read in a {self.read_in}"

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        needs = {
            "equivalence": {"margin"},
            "course": {"quantity", "phases", "legs"},
        }.get(self.metric, {"direction"})
        optional = ("direction", "margin", "quantity", "phases", "legs")
        for name in optional:
            given = getattr(self, name) not in (None, ())
            if given != (name in needs):
                word = "needs" if name in needs else "takes no"
                raise ValueError(f"claim '{self.id}' of metric '{self.metric}' {word} '{name}'")
        n = len(self.methods)
        wrong = n != 1 if self.metric == "course" else n < 2 if "margin" in needs else n != 2
        if wrong:
            raise ValueError(f"claim '{self.id}' of metric '{self.metric}' has {n} methods")
        return self


@dataclass(frozen=True)
class Evidence:
    """One measurement: effect with its 95 % interval in `unit`, and which sign the claim wants.

    `can_decide` is false where one seed a side leaves the spread of training unknown.
    """

    what: str
    effect: float
    low: float
    high: float
    unit: str
    p_value: float
    detectable: float
    direction: int
    margin: float | None = None
    can_decide: bool = True
    remark: str = ""
    p_adjusted: float | None = None

    @property
    def effect_text(self) -> str:
        """Effect, interval and unit."""
        effect, low, high = map(self._number, (self.effect, self.low, self.high))
        return f"{effect} [{low}, {high}] {self.unit}"

    @property
    def detectable_text(self) -> str:
        """The smallest effect this comparison could have seen."""
        return f"{self._number(self.detectable).lstrip('+')} {self.unit}"

    @property
    def numbers(self) -> dict[str, object]:
        """Columns of the claims table."""
        wanted = {1: "higher", -1: "lower", 0: "same"}[self.direction]
        return {
            "measured": self.what,
            "direction": wanted,
            "effect": self.effect,
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "minimum_detectable_effect": self.detectable,
        }

    def _number(self, value: float) -> str:
        return f"{value:+.3f}" if self.unit.startswith("nats") else signed(value)


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
    if claim.metric == "accuracy":
        pairs = [(claim.methods[0], claim.methods[1])]
    else:
        pairs = [(method, claim.methods[0]) for method in claim.methods[1:]]
    return [_accuracy_pair(block, claim, *pair) for pair in pairs]


def _accuracy_pair(block: Block, claim: Claim, first: str, second: str) -> Evidence:
    column = block.overall
    found = contrast(arm(block, first, column), arm(block, second, column), column)
    if found.difference is None:
        raise NotRun(found.refused)
    gap = found.difference
    one = min(gap.n_seeds) < 2
    remarks = [claim.remark, "one seed a side: the spread of training is unknown" if one else ""]
    return Evidence(
        what=f"{label(first)} minus {label(second)}, {column}",
        effect=100 * gap.mean,
        low=100 * gap.low,
        high=100 * gap.high,
        unit="points",
        p_value=gap.p_value,
        detectable=100 * minimum_detectable_effect(gap.standard_error),
        direction=SIGN[claim.direction] if claim.direction else 0,
        margin=claim.margin,
        can_decide=not one,
        remark=_join(remarks),
    )


def _time(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    return [_ratio(tidy, block, claim, "seconds_train", "training seconds", [_size(tidy, block)])]


def _memory(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    device = [_costs(tidy, block, method, "memory_device_gib") for method in claim.methods]
    if all(len(values) for values in device):
        return [_ratio(tidy, block, claim, "memory_device_gib", "peak device memory", [])]
    said = "memory of the whole process on the host; device memory was not measured"
    remarks = [said, _size(tidy, block, "most of it is libraries")]
    return [_ratio(tidy, block, claim, "memory_host_gib", "peak host memory", remarks)]


def _ratio(
    tidy: Tidy, block: Block, claim: Claim, column: str, name: str, remarks: list[str]
) -> Evidence:
    """First over second as a change in percent, from the logs of the seeds' numbers."""
    first, second = (_costs(tidy, block, method, column) for method in claim.methods)
    try:
        found = log_ratio(first, second)
    except Refused as reason:
        raise NotRun(f"{name}: {reason}") from None
    detectable = expm1(minimum_detectable_effect(found.standard_error))
    what = f"{name} of {label(claim.methods[0])} against {label(claim.methods[1])}"
    return _evidence(
        what, found, lambda value: 100 * expm1(value), "%", 100 * detectable, claim, remarks
    )


def _course(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence]:
    assert claim.quantity and claim.phases
    name, unit, factor = QUANTITIES[claim.quantity]
    moments = _moments(tidy, block, claim.methods[0], claim.quantity, claim.phases)
    evidence = []
    for leg in claim.legs:
        change = np.array([run[leg.end] - run[leg.start] for run in moments])
        try:
            found = seed_mean(change)
        except Refused as reason:
            raise NotRun(f"{label(claim.methods[0])}: {reason}") from None
        what = f"{name} of {label(claim.methods[0])}, {leg.start} to {leg.end}"
        detectable = factor * minimum_detectable_effect(found.standard_error)
        direction = SIGN[leg.direction]
        scaled = _evidence(
            what, found, lambda value: factor * value, unit, detectable, claim, [], direction
        )
        evidence.append(scaled)
    return evidence


def _evidence(
    what: str,
    found: Estimate,
    shown: Callable[[float], float],
    unit: str,
    detectable: float,
    claim: Claim,
    remarks: list[str],
    direction: int | None = None,
) -> Evidence:
    if direction is None:
        direction = SIGN[claim.direction] if claim.direction else 0
    return Evidence(
        what=what,
        effect=shown(found.mean),
        low=shown(found.low),
        high=shown(found.high),
        unit=unit,
        p_value=found.p_value,
        detectable=detectable,
        direction=direction,
        remark=_join([claim.remark, *remarks]),
    )


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


def _size(tidy: Tidy, block: Block, consequence: str = "fixed overheads weigh much") -> str:
    """A remark on models so small that their costs say little about large ones."""
    sizes = block_of(tidy.runs, block.model, block.dataset)["n_parameters"].dropna()
    if sizes.empty or sizes.max() >= SMALL_PARAMETERS:
        return ""
    return f"model of {sizes.max() / 1e6:.1f} M parameters: {consequence}"


def _join(remarks: list[str]) -> str:
    return "; ".join(remark for remark in remarks if remark)
