"""``alternating``: one RL step, then one SFT step on the same weights (Algorithm 1 of the BRIDGE
paper, May-2025 text), each kind with its own optimiser state and rate."""

from __future__ import annotations

from typing import ClassVar

from bridge.methods.base import Method
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps


class Alternating(Method):
    """See ``docs/methods/alternating.md``."""

    class Options(Closed):
        """Options of ``alternating``."""

        steps: Steps
        """Pairs of one RL and one SFT step."""

    options: Options
    tuning: ClassVar = {}

    @property
    def n_steps(self) -> int:
        return 2 * self.options.steps

    def phase(self, step: int) -> Phase:
        # Algorithm 1: the RL update comes first in each iteration.
        return Phase("rl") if step % 2 == 1 else Phase("sft")


METHOD = Alternating
