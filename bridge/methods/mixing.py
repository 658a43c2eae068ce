"""``mixing``: one objective (1 - lambda) L_D + lambda L_RL with a fixed weight, one optimiser.

The paper's "SFT+RL" row is J_RL + mu J_SFT with an unknown mu; under Adam that is this rule with
mu = (1 - lambda) / lambda, up to epsilon and gradient clipping.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bridge.methods.base import Method, StepStats
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps, StepsOrZero


class Mixing(Method):
    """See ``docs/methods/mixing.md``."""

    class Options(Closed):
        """Options of ``mixing``."""

        steps: Steps
        """Joint steps; each sees one batch of rollouts and one of demonstrations."""
        sft_steps: StepsOrZero = 0
        """SFT steps before them, with an optimiser of their own."""
        rl_weight: float = Field(0.5, ge=0, le=1)
        """lambda: weight of the RL term; the demonstration term gets 1 - lambda."""

    options: Options
    tuning: ClassVar = {"options.rl_weight": (0.3, 0.5, 0.7)}

    @property
    def n_steps(self) -> int:
        return self.options.sft_steps + self.options.steps

    def phase(self, step: int) -> Phase:
        return Phase("sft", "sft") if step <= self.options.sft_steps else Phase("joint")

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        if self.phase(step).kind == "sft":
            return 0.0, 1.0
        return self.options.rl_weight, 1.0 - self.options.rl_weight


METHOD = Mixing
