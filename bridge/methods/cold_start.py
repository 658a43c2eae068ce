"""``cold_start``: SFT, then RL from the SFT model with a fresh optimiser.

Two budgets answer two questions. ``equal_rl_steps`` gives the RL stage as many steps as ``rl_zero``
has, so the whole run costs more. ``equal_time`` takes the cost of the SFT stage off the RL stage:
one SFT step counts as ``sft_step_cost`` RL steps, a ratio measured by
``benchmarks/step_cost.py`` and fixed in the suite, because a clock inside the run would make its
result depend on the machine's load.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bridge.methods.base import Method, Times, refuse
from bridge.step.rows import Phase
from bridge.store.schema import Closed, StepsOrZero


class ColdStart(Method):
    """See ``docs/methods/cold_start.md``."""

    class Options(Closed):
        """Options of ``cold_start``."""

        sft_steps: StepsOrZero
        """Optimiser steps of the first stage."""
        rl_steps: StepsOrZero
        """RL steps that ``rl_zero`` gets; see ``budget``."""
        budget: Literal["equal_rl_steps", "equal_time"] = "equal_rl_steps"
        sft_step_cost: float = Field(0.25, gt=0)
        """Seconds of an SFT step divided by seconds of an RL step."""
        reference: Literal["base", "sft"] = "sft"
        """KL reference of the RL stage (used when ``kl_coef`` > 0)."""

    options: Options
    tuning: ClassVar = {"options.sft_steps": Times((0.5, 1, 2))}

    def check(self, where: str) -> None:
        if self.rl_steps < min(1, self.options.rl_steps) or self.n_steps == 0:
            raise refuse(
                where,
                f"no time is left for RL after {self.options.sft_steps} SFT steps; lower "
                "options.sft_steps.",
            )

    @property
    def rl_steps(self) -> int:
        """Steps of the RL stage under the chosen budget."""
        spent = 0.0
        if self.options.budget == "equal_time":
            spent = self.options.sft_steps * self.options.sft_step_cost
        return self.options.rl_steps - round(spent)

    @property
    def n_steps(self) -> int:
        return self.options.sft_steps + self.rl_steps

    def phase(self, step: int) -> Phase:
        if step <= self.options.sft_steps:
            return Phase("sft", stage="sft")
        return Phase("rl", stage="rl")

    def reanchor_reference(self, step: int) -> bool:
        return self.options.reference == "sft" and step == self.options.sft_steps + 1


METHOD = ColdStart
