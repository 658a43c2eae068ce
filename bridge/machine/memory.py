"""Peak memory of a GPU, by stage of a run.

*Allocated* and *reserved* are PyTorch's counts of this process; *device* is what is in use on the
whole device, other processes and vLLM's cache included: what the driver says at the end of a stage,
and what PyTorch had reserved beyond its present share at the stage's peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

GIB = 2**30
KINDS = ("allocated", "reserved", "device")


class Reading(NamedTuple):
    """Most bytes since the counters were reset."""

    allocated: int
    reserved: int
    device: int


def read_cuda() -> Reading:
    """Read the counters of the process's GPU and reset them."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    given_back = reserved - torch.cuda.memory_reserved()
    reading = Reading(torch.cuda.max_memory_allocated(), reserved, total - free + given_back)
    torch.cuda.reset_peak_memory_stats()
    return reading


class MemoryMeter:
    """Peaks by stage, in GiB. Stages may lie inside each other: what an inner one takes, the outer
    one holds too.

    Args:
        read: returns the peaks since it was last called; None where there is no GPU, and nothing
            is measured then.
    """

    def __init__(self, read: Callable[[], Reading] | None) -> None:
        self._read = read
        self._open: list[str] = []
        self.stages: dict[str, dict[str, float]] = {}

    def begin(self, stage: str) -> None:
        """Enter a stage."""
        self._note()
        self._open.append(stage)

    def end(self) -> None:
        """Leave the innermost stage."""
        self._note()
        self._open.pop()

    def _note(self) -> None:
        """Give the peaks since the last call to every stage that is open."""
        if self._read is None:
            return
        reading = self._read()
        for stage in self._open:
            peaks = self.stages.setdefault(stage, dict.fromkeys(KINDS, 0.0))
            for kind, value in zip(KINDS, reading, strict=True):
                peaks[kind] = max(peaks[kind], value / GIB)

    def peaks(self) -> dict[str, float | None]:
        """The highest of all stages; None where nothing was measured."""
        return {
            kind: max((peaks[kind] for peaks in self.stages.values()), default=None)
            for kind in KINDS
        }


def device_meter() -> MemoryMeter:
    """The meter of the process's GPU, or one that measures nothing."""
    return MemoryMeter(read_cuda if torch.cuda.is_available() else None)
