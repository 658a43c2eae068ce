"""``luffy``: the demonstration is one more answer of its prompt's RL group (arXiv 2504.14945).

A prompt with a demonstration gets n - 1 rollouts and that demonstration, and A = r - mean over all
n rewards, without the standard deviation. With f(p) = p / (p + gamma), Z the one count of all loss
tokens (or rows) of the step:

    L = (1 / Z) [sum over rollout tokens of the clipped policy loss
                 - sum over demonstration tokens of A f(p_t)]

Since grad f(p) = f'(p) p grad log p = gamma p / (p + gamma)^2 grad log p, the demonstration part is
a likelihood term with the detached coefficient c_t = A gamma p_t / (p_t + gamma)^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import StepStats
from bridge.methods.one_count import check_one_count, common_count
from bridge.methods.own_demonstrations import MemberMethod, MemberOptions
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Row

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.trainer import Trainer


class Luffy(MemberMethod):
    """See ``docs/methods/luffy.md``."""

    class Options(MemberOptions):
        """Options of ``luffy``."""

        gamma: float = Field(0.1, gt=0)
        """Probability at which a demonstration token weighs most."""
        shape: bool = True
        """Policy shaping f; without it c_t = A p_t."""

    options: Options
    tuning: ClassVar = {"options.gamma": (0.05, 0.1, 0.3)}

    def check(self, where: str) -> None:
        check_one_count(where, self.training)

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        joined = [replace(group, rows=(*group.rows, *self.shown(group))) for group in groups]
        return super().rows(joined, (), step)

    def advantage(self, group: Group) -> list[float]:
        return group_advantages(group.rewards, norm_by_std=False)

    def token_weight(self, batch: MicroBatch) -> Tensor:
        assert batch.logprob is not None
        p, gamma = batch.logprob.exp(), self.options.gamma
        slope = gamma * p / (p + gamma) ** 2 if self.options.shape else p
        return batch.advantage.to(p.dtype) * slope

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return common_count(self.training, stats, rows=sum(stats.rows.values()))

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        share = batch.n_rows("demonstration") / len(batch.groups)
        trainer.log(demonstrated_group_share=share)
        super().update(trainer, batch, step)


METHOD = Luffy
