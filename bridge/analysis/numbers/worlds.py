"""Where a difference's spread comes from when worlds are drawn anew: worlds, or their seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bridge.analysis.numbers.cells import Block


def world_and_seed_sd(differences: ArrayLike) -> tuple[float, float]:
    """Standard deviations of a difference between worlds and between the seeds of a world.

    Nested analysis of variance of `[worlds, seeds]`, each at least two; the noise of single answers
    is in the latter.
    """
    table = np.asarray(differences, float)
    within = float(table.var(1, ddof=1).mean())
    between = float(table.mean(1).var(ddof=1)) - within / table.shape[1]
    return max(between, 0.0) ** 0.5, within**0.5


def spread_of_difference(block: Block, first: str, second: str) -> tuple[float, float] | None:
    """`world_and_seed_sd` of two methods' accuracies, fractions; None where they share fewer than
    two seeds in a world, fewer than two worlds, or other numbers of seeds in different worlds."""
    if first not in block.by_run or second not in block.by_run:
        return None
    gaps = (block.by_run[first] - block.by_run[second]).dropna()
    table = gaps.groupby(level="world").agg(list)
    sizes = {len(values) for values in table}
    if len(table) < 2 or len(sizes) != 1 or sizes == {1}:
        return None
    return world_and_seed_sd(np.array(list(table)))


def spread_note(block: Block, methods: list[str], baseline: str) -> list[str]:
    """What a table of differences says about it, in points; empty without several seeds a world."""
    said = [
        f"{method} {100 * spread[0]:.1f} and {100 * spread[1]:.1f}"
        for method in methods
        if (spread := spread_of_difference(block, method, baseline)) is not None
    ]
    if not said:
        return []
    return [
        "Standard deviations of a run's difference in the last column, between worlds and between "
        f"the seeds of a world: {'; '.join(said)}. The interval is over worlds and questions."
    ]
