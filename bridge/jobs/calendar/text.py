"""The calendar in words: ``bridge plan``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from bridge.jobs.calendar.cells import Spread, cells_of
from bridge.jobs.calendar.ordering import UNTRAINED, Stage, stages
from bridge.jobs.calendar.schedule import Slot, end_h, ends_h, peaks, scheduled
from bridge.jobs.needs.devices import Device
from bridge.plan.grid import Plan

_WIDTH = 100


def calendar_text(
    plan: Plan,
    device: Device,
    count: int,
    claims: Mapping[str, Sequence[str]],
    first: tuple[str, str],
    interruptions_per_day: float,
) -> str:
    """A line for each stage, then when all ends, what it takes, and settings that it needs.

    Raises:
        ConfigError: a run does not fit, or no block has both of ``first``.
    """
    cells, spreads = cells_of(plan, device, count)
    order = stages(cells, claims, first)
    slots = scheduled([cell for stage in order for cell in stage.cells], count)
    host, disk = peaks(slots)
    whole = sum(stage.device_hours for stage in order)
    judged = sum(len(stage.claims) for stage in order)
    paid = sum(stage.device_hours for stage in order if stage.claims)
    lines = [
        f"suite {plan.name} on {count} x {device.name}, predicted: {len(cells)} runs, {whole:.0f} "
        "device-hours",
        "",
        f"{'begins':>7}{'ends':>8}{'runs':>6}{'hours':>7}  stage",
    ]
    for stage, own in zip(order, _shares(order, slots), strict=True):
        lines += _stage(stage, own)
    middle, late = ends_h([slot.cell for slot in slots], count, interruptions_per_day)
    if judged:
        lines += ["", f"{judged} claims in their blocks: {paid / judged:.0f} device-hours for each"]
    ends = (
        f"ends on day {_day(end_h(slots))} without interruptions; with {interruptions_per_day:g} "
        f"per card and day on day {_day(middle)} in half of the simulations, on day {_day(late)} "
        "in nine of ten"
    )
    lines += ["", *textwrap.wrap(ends, _WIDTH)]
    lines.append(
        f"host memory: {host:.0f} GiB at most; disk: {disk:.0f} GiB at most, checkpoints included"
    )
    return "\n".join([*lines, *_settings(spreads, plan)])


def _shares(order: Sequence[Stage], slots: Sequence[Slot]) -> list[Sequence[Slot]]:
    shares, start = [], 0
    for stage in order:
        shares.append(slots[start : start + len(stage.cells)])
        start += len(stage.cells)
    return shares


def _stage(stage: Stage, slots: Sequence[Slot]) -> list[str]:
    begin, end = min(slot.begin_h for slot in slots), end_h(slots)
    where = "" if stage.block is None else f", {' x '.join(stage.block)}"
    head = f"{_day(begin):>7}{_day(end):>8}{len(slots):>6}{stage.device_hours:>7.0f}  "
    lines = [f"{head}{stage.title}{where}"]
    others = [name for name in stage.claims if name != stage.title]
    if others:
        text = f"also: {', '.join(others)}"
        indent = " " * len(head)
        lines += textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines


def _day(hours: float) -> str:
    """Days since the start."""
    return f"{hours / 24:.1f}"


def _settings(spreads: Sequence[Spread], plan: Plan) -> list[str]:
    lines: list[str] = []
    for spread in spreads:
        trained = {
            run.label
            for run in plan.runs
            if (run.model, run.dataset) == spread.block and run.method != UNTRAINED
        }
        rows = "all trained rows" if {*spread.rows} >= trained else ", ".join(spread.rows)
        text = (
            f"{' x '.join(spread.block)} ({rows}): {spread.cards} of them a run, with "
            f"{spread.settings}"
        )
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
    return ["", *lines] if lines else []
