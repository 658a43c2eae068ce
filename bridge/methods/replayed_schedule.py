"""``replayed_schedule``: SASR's warm-up and random switch, with p read from a list.

p is piecewise linear over the progress of the steps after the warm-up, through the values of
``profile`` at equal distances. No norm is looked at, and the draws are its own: where this does as
well as ``sasr`` with the profile that ``sasr`` had, the gradient signal is not what helps.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from bridge.methods.sasr import WarmUpOptions, WarmUpSwitch


class ReplayedSchedule(WarmUpSwitch):
    """See ``docs/methods/sasr.md``."""

    class Options(WarmUpOptions):
        """Options of ``replayed_schedule``."""

        # Not strict: a tuple comes back from a run's JSON as a list.
        profile: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
            min_length=2, max_length=100_000, strict=False
        )
        """p at equally spaced points from the first to the last step after the warm-up."""

    options: Options
    tuning: ClassVar = {}
    stream = "replayed_schedule"

    def sft_probability(self, step: int) -> float:
        profile = self.options.profile
        progress = (step - self.options.warmup_steps - 1) / max(1, self.options.steps - 1)
        left = min(int(progress * (len(profile) - 1)), len(profile) - 2)
        part = progress * (len(profile) - 1) - left
        return (1.0 - part) * profile[left] + part * profile[left + 1]


METHOD = ReplayedSchedule
