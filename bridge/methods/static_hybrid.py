"""``static_hybrid``: SASR's warm-up, then a fixed, evenly spread share of SFT steps.

Step i after the warm-up is an SFT step where floor(i s) > floor((i - 1) s) with s = ``sft_share``:
after any number of steps the count of SFT steps is within one of s times that number. A control for
``sasr`` (arXiv 2505.13026 names a static hybrid among its baselines): no norm is read, nothing is
drawn. At ``sft_share: 0.5`` RL and SFT steps take turns, RL first.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from bridge.methods.sasr import WarmUpOptions, WarmUpSwitch


class StaticHybrid(WarmUpSwitch):
    """See ``docs/methods/sasr.md``."""

    class Options(WarmUpOptions):
        """Options of ``static_hybrid``."""

        sft_share: float = Field(0.5, ge=0, le=1)
        """Share of SFT steps after the warm-up; a fair control takes what ``sasr`` realised."""

    options: Options
    tuning: ClassVar = {"options.sft_share": (0.3, 0.5, 0.7)}
    stream = "static_hybrid"

    def sft_probability(self, step: int) -> float:
        i = step - self.options.warmup_steps
        return float(self._sft_steps(i) > self._sft_steps(i - 1))

    def _sft_steps(self, i: int) -> int:
        # The small number lifts products such as 0.29 * 100 = 28.999999999999996.
        return math.floor(i * self.options.sft_share + 1e-9)


METHOD = StaticHybrid
