"""``hpt``: per prompt, the demonstration where the rollouts fail, else RL (arXiv 2509.04419).

With k of a prompt's n rollouts right:

    k <= gate: its rollouts are dropped and its demonstration is learnt with weight beta
    k > gate:  its rollouts are learnt from by RL

    L = (1 - f) L_RL + beta f L_D,    f = share of the prompts that learn their demonstration

so that every prompt weighs the same, as in the paper's mean over prompts. ``weigh: terms`` leaves f
out: each term then has weight 1 over its own count, and one failing prompt of eight can outweigh
the other seven. A prompt that fails the gate and has no demonstration keeps its rollouts, and is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import StepStats, refuse
from bridge.methods.own_demonstrations import PromptMethod, PromptOptions
from bridge.step.rows import Group, Row

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class HPT(PromptMethod):
    """See ``docs/methods/hpt.md``."""

    class Options(PromptOptions):
        """Options of ``hpt``."""

        gate: int = Field(0, ge=-1, le=10_000)
        """A prompt with at most so many right rollouts fails; -1 is RL alone."""
        beta: float = Field(1.0, ge=0)
        """Weight of the demonstration term."""
        weigh: Literal["prompts", "terms"] = "prompts"
        """What weighs the same: every prompt, or both terms."""

    options: Options
    tuning: ClassVar = {"options.beta": (0.3, 1.0, 3.0)}

    def check(self, where: str) -> None:
        if self.options.gate > self.training.n:
            raise refuse(
                where,
                f"options.gate is {self.options.gate}, but a prompt has {self.training.n} "
                "rollouts (training.n); lower it.",
            )

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        kept, taught = [], []
        for group in groups:
            if group.demonstration is not None and self._is_taught(group):
                taught.append(group.demonstration)
            else:
                kept.append(group)
        return super().rows(kept, taught, step)

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        if self.options.weigh == "terms":
            return 1.0, self.options.beta
        share = sum(map(self._is_taught, stats.groups)) / len(stats.groups)
        return 1.0 - share, share * self.options.beta

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        failed = [group for group in batch.groups if self._fails(group)]
        trainer.log(
            gate_failed_share=len(failed) / len(batch.groups),
            gate_without_demonstration=sum(group.demonstration is None for group in failed),
        )
        super().update(trainer, batch, step)

    def _is_taught(self, group: Group) -> bool:
        return self._fails(group) and group.demonstration is not None

    def _fails(self, group: Group) -> bool:
        return self.n_right(group) <= self.options.gate


METHOD = HPT
