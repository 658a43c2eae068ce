"""When runs begin and end on a number of cards, and what interruptions do to that.

Runs begin in their order, each as soon as as many cards as it needs are free; none overtakes
another, for the order is that of what is learnt. An interrupted run loses what it did since its
last checkpoint, waits, and starts again on its cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge.jobs.calendar.cells import Cell

REQUEUED_H = 0.1
"""From an interruption until the next attempt begins: a guess, six minutes in a queue."""
DRAWS = 200


@dataclass(frozen=True)
class Slot:
    """A run in its time, hours since the start."""

    cell: Cell
    begin_h: float
    end_h: float


def scheduled(
    cells: Sequence[Cell],
    count: int,
    interruptions_per_day: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[Slot]:
    """Each run in its time.

    Args:
        count: cards; no run needs more.
        interruptions_per_day: of one card, on average, at any time alike; a run on several ends
            with any of them. Needs ``rng``.
    """
    free = [0.0] * count
    slots: list[Slot] = []
    begin = 0.0
    for cell in cells:
        free.sort()
        begin = max(begin, free[cell.cards - 1])
        taken = cell.hours
        if interruptions_per_day and rng is not None:
            taken = _with_interruptions(cell, cell.cards * interruptions_per_day / 24, rng)
        free[: cell.cards] = [begin + taken] * cell.cards
        slots.append(Slot(cell, begin, begin + taken))
    return slots


def _with_interruptions(cell: Cell, per_hour: float, rng: np.random.Generator) -> float:
    """Hours by the clock until a run has ended."""
    kept, clock = 0.0, 0.0
    while True:
        undisturbed = rng.exponential(1 / per_hour)
        if cell.hours - kept <= undisturbed:
            return clock + cell.hours - kept
        reached = kept + undisturbed
        # Never before what was kept: an attempt may end before it has done anything.
        kept = max(kept, reached // cell.between_h * cell.between_h if cell.between_h else 0.0)
        clock += undisturbed + REQUEUED_H + cell.start_h


def end_h(slots: Sequence[Slot]) -> float:
    """When the last run has ended."""
    return max((slot.end_h for slot in slots), default=0.0)


def ends_h(cells: Sequence[Cell], count: int, interruptions_per_day: float) -> tuple[float, float]:
    """Hours after which all has ended in half of the simulated schedules, and in nine of ten."""
    rng = np.random.default_rng(0)
    ends = [end_h(scheduled(cells, count, interruptions_per_day, rng)) for _ in range(DRAWS)]
    middle, late = np.quantile(ends, [0.5, 0.9])
    return float(middle), float(late)


def peaks(slots: Sequence[Slot]) -> tuple[float, float]:
    """Largest host memory of runs at one time, and largest disk space with all policies, GiB."""
    host = disk = most_host = most_disk = 0.0
    begins = [(slot.begin_h, 1, slot.cell) for slot in slots]
    ends = [(slot.end_h, 0, slot.cell) for slot in slots]
    for _, starts, cell in sorted(begins + ends, key=lambda event: event[:2]):
        host += cell.host_gib if starts else -cell.host_gib
        disk += cell.disk_gib if starts else cell.policy_gib - cell.disk_gib
        most_host, most_disk = max(most_host, host), max(most_disk, disk)
    return most_host, most_disk
