"""What a drill is and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.workshop import Workshop


@dataclass(frozen=True)
class Found:
    """One row of the table, besides whether the final tables were the undisturbed ones."""

    survived: str
    redone: str
    said: str = ""
    """The sentence that the user sees, where there is one."""


@dataclass(frozen=True)
class Drill:
    """A fault, and the function that brings it about and then finishes the suite."""

    fault: str
    bring: Callable[[Workshop], Found]
    fast: bool = False
    """Whether it also runs with the other tests."""
    mounts: bool = False
    """Whether it needs the right to mount file systems."""
