"""Who leads a block: the row with the highest mean, if it is told apart from every other one.

The leader is chosen by the same data that test it. That is safe because it has to beat every other
row: where it is not the best, the smallest of its differences has to be found by chance, which
happens no more often than one two-sided test errs (Gutmann & Maymin, Ann. Statist. 15, 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from bridge.analysis.numbers.cells import Block
from bridge.analysis.tables.differences import Contrast, differences_to


@dataclass(frozen=True)
class Lead:
    """The row with the highest mean of a block in its overall column.

    `rivals` are all other rows with a number minus this one, highest first; `absent` are the rows
    without a number.
    """

    method: str
    mean: float
    rivals: tuple[Contrast, ...]
    absent: tuple[str, ...]
    copies: tuple[str, ...]
    """Rows whose answers are the leader's, one by one."""

    @property
    def open(self) -> tuple[Contrast, ...]:
        """Rivals that are not told apart from the leader; a row with its answers is no rival."""
        return tuple(
            item
            for item in self.rivals
            if item.first.name not in self.copies and item.verdict != "below"
        )

    @property
    def nearest(self) -> Contrast | None:
        """The highest of the rivals that are not told apart, else of all."""
        others = [item for item in self.rivals if item.first.name not in self.copies]
        return next(iter([*self.open, *others]), None)

    @property
    def decided(self) -> bool:
        """Whether there are rivals, and all of them are lower."""
        return self.nearest is not None and not self.open


@lru_cache(maxsize=64)
def block_lead(block: Block) -> Lead | None:
    """The leader of a block; None where no row has a number."""
    means = {
        method: cell.interval.mean
        for method in block.methods
        if (cell := block.cells[method, block.overall]).interval is not None
    }
    if not means:
        return None
    # A row and a copy of it have the same mean; the row itself comes first.
    leader = max(means, key=lambda method: means[method])
    rivals = [item for item in differences_to(block, leader) if item.first.name in means]
    return Lead(
        method=leader,
        mean=means[leader],
        rivals=tuple(sorted(rivals, key=lambda item: -means[item.first.name])),
        absent=tuple(method for method in block.methods if method not in means),
        copies=tuple(name for name, first in block.copies.items() if first == leader),
    )
