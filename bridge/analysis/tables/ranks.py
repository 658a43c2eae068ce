"""The table of ranks: how much of a block's order would survive new seeds and questions.

Rows are trained methods with two runs or more; a copy of another row and the untrained model are
left out. No row is compared with a favourite: improvement is that over a run of any other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bridge.analysis.numbers.cells import UNTRAINED, Block, run_means
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.numbers.ranks import (
    performance_profile,
    probability_of_improvement,
    rank_probabilities,
)
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.tables.render import Sheet, Value

THRESHOLDS = (0.25, 0.5, 0.75, 0.9)
HEAD = (
    "suite",
    "model",
    "dataset",
    "method",
    "n_seeds",
    "first",
    "expected_rank",
    "improvement",
    *(f"reach_{100 * threshold:.0f}" for threshold in THRESHOLDS),
)
NOTES = (
    "Trained rows with two seeds or more, in the last accuracy column. First: probability in "
    "percent of the highest mean in a repetition with new seeds and questions; rank: its "
    "expectation, 1 is best.",
    "Improvement: share in percent of pairs of runs in which the row's run beats that of another "
    "row, over all other rows (half for a tie). It speaks of these runs only.",
    "Profile: share in percent of runs x benchmarks that reach an accuracy.",
)


@dataclass(frozen=True)
class Ranks:
    """Of one method: probability of each rank, of improvement, and its performance profile."""

    method: str
    n_seeds: int
    probabilities: Array
    improvement: float
    profile: Array

    @property
    def expected(self) -> float:
        """Expected rank, 1 is best."""
        return float(self.probabilities @ np.arange(1, len(self.probabilities) + 1))


@lru_cache(maxsize=64)
def block_ranks(block: Block) -> tuple[Ranks, ...]:
    """Ranks of the methods of a block in its overall column; empty where there is no order."""
    column, spread = block.overall, block.spreads[block.overall]
    left_out = (UNTRAINED, *block.copies)
    tables = {
        method: block.answers[method, column]
        for method in block.methods
        if method not in left_out
        and block.answers[method, column]
        and len(block.answers[method, column][0]) > 1
    }
    if spread is None or len(tables) < 2:
        return ()
    arrays = [[table.to_numpy(float) for table in own] for own in tables.values()]
    runs = [run_means(own) for own in tables.values()]
    found = rank_probabilities(arrays, spread)
    return tuple(
        Ranks(
            method=method,
            n_seeds=len(runs[m]),
            probabilities=found[m],
            improvement=float(
                np.mean([probability_of_improvement(runs[m], r) for r in runs[:m] + runs[m + 1 :]])
            ),
            profile=performance_profile(
                np.concatenate([array.mean(1) for array in arrays[m]]), THRESHOLDS
            ),
        )
        for m, method in enumerate(tables)
    )


def rank_sheet(block: Block) -> Sheet:
    """Methods in the order they are shown everywhere, not by rank."""
    names = ["method", "first", "rank", "improvement", *(f"≥ {100 * t:.0f}" for t in THRESHOLDS)]
    rows = [
        [
            Value(label(found.method)),
            Value(f"{100 * found.probabilities[0]:.0f}"),
            Value(f"{found.expected:.1f}"),
            Value(f"{100 * found.improvement:.0f}"),
            *[Value(f"{100 * share:.0f}") for share in found.profile],
        ]
        for found in block_ranks(block)
    ]
    name = benchmark_label(block.overall, block.dataset)
    title = f"{block.model} trained on {block.dataset}: ranks, {name}"
    notes = NOTES if rows else ["No order: fewer than two trained rows have two seeds or more."]
    return Sheet(title, [Value(text) for text in names], rows, notes)


def rank_rows(suite: str, block: Block) -> list[dict[str, object]]:
    """One row per method; probabilities and shares are fractions."""
    return [
        {
            "suite": suite,
            "model": block.model,
            "dataset": block.dataset,
            "method": found.method,
            "n_seeds": found.n_seeds,
            "first": found.probabilities[0],
            "expected_rank": found.expected,
            "improvement": found.improvement,
        }
        | dict(zip(HEAD[-len(THRESHOLDS) :], found.profile, strict=True))
        for found in block_ranks(block)
    ]
