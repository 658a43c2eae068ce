"""The processes that train one run together, and the few things they have to tell each other.

A method, the trainer and the records see a run as one: vectors are each rank's part of a longer
one, rows are each rank's share, and every number that is logged or decided upon is the same on all
ranks. :class:`Ranks` is the run of one process, where all of this is the identity; what talks to
other processes is :class:`bridge.engines.sharding.several.Several`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Ranks:
    """One process alone."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every ``size``-th one, so that sorted rows are shared evenly."""
        return list(items[self.rank :: self.size])

    def join(self, own: Sequence[T]) -> list[T]:
        """Put the shares of all ranks together again, in the order they had before ``share``."""
        return list(own)

    def total(self, *values: float) -> tuple[float, ...]:
        """Sum of each value over the ranks."""
        return values

    def most(self, value: int) -> int:
        """Largest of the ranks' values."""
        return value

    def norm(self, part: Tensor) -> float:
        """Euclidean norm of the vector whose parts the ranks hold."""
        return float(part.norm())

    def dot(self, left: Tensor, right: Tensor) -> float:
        """Inner product of two vectors whose parts the ranks hold."""
        return float(left @ right)

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on the first rank; it is not called on the others."""
        return make()


ALONE = Ranks()
