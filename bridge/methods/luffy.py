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

from bridge.methods.base import Method, StepStats
from bridge.methods.one_count import check_one_count, common_count
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Phase, Request, Row
from bridge.store.schema import Closed, Steps
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.trainer import Trainer


class Luffy(Method):
    """See ``docs/methods/luffy.md``."""

    class Options(Closed):
        """Options of ``luffy``."""

        steps: Steps
        n_demo: int = Field(1, ge=0, le=1)
        """Demonstrations per group, counted in n; a problem has at most one."""
        gamma: float = Field(0.1, gt=0)
        """Probability at which a demonstration token weighs most."""
        shape: bool = True
        """Policy shaping f; without it c_t = A p_t."""
        demonstrated_share: float = Field(0.0, ge=0, le=1)
        """Share of each step's prompts drawn from those with a demonstration."""

    options: Options
    tuning: ClassVar = {"options.gamma": (0.05, 0.1, 0.3)}

    def check(self, where: str) -> None:
        check_one_count(where, "luffy", self.training)

    @property
    def n_steps(self) -> int:
        return self.options.steps

    def phase(self, step: int) -> Phase:
        return Phase("joint")

    def demonstrated_prompts(self, step: int) -> int:
        return round(self.options.demonstrated_share * self.training.prompts_per_step)

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        n, n_demo = self.training.n, self.options.n_demo
        return [Request(p, n if p.demonstration is None else n - n_demo) for p in problems]

    def demonstrations_wanted(self, step: int) -> int:
        return 0

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        return super().rows([self._joined(group) for group in groups], (), step)

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

    def _joined(self, group: Group) -> Group:
        if group.demonstration is None or self.options.n_demo == 0:
            return group
        return replace(group, rows=(*group.rows, group.demonstration))


METHOD = Luffy
