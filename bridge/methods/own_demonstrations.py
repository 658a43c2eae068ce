"""Methods that learn from the demonstrations of the step's own prompts: what they share.

No stream of demonstrations is drawn; what a step shows comes with the prompts it samples.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bridge.methods.base import Method
from bridge.step.rows import Group, Phase, Request, Row
from bridge.store.schema import Closed, Steps
from bridge.tasks.base import Problem


class PromptOptions(Closed):
    """Options of every method of the family."""

    steps: Steps
    demonstrated_share: float = Field(0.0, ge=0, le=1)
    """Share of each step's prompts drawn from those with a demonstration."""


class PromptMethod(Method):
    """Joint steps on prompts, some of which carry a demonstration."""

    options: PromptOptions

    def phase(self, step: int) -> Phase:
        return Phase("joint")

    def demonstrated_prompts(self, step: int) -> int:
        return round(self.options.demonstrated_share * self.training.prompts_per_step)

    def demonstrations_wanted(self, step: int) -> int:
        return 0

    def n_right(self, group: Group) -> int:
        """How many of a prompt's answers earn the full reward."""
        return sum(reward == self.training.reward_correct for reward in group.rewards)


class MemberOptions(PromptOptions):
    """Options of :class:`MemberMethod`."""

    n_demo: int = Field(1, ge=0, le=1)
    """Demonstrations per group, counted in n; 0 leaves them out."""


class MemberMethod(PromptMethod):
    """The demonstration takes the place of one of its prompt's rollouts."""

    options: MemberOptions

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        n, n_demo = self.training.n, self.options.n_demo
        return [Request(p, n if p.demonstration is None else n - n_demo) for p in problems]

    def shown(self, group: Group) -> tuple[Row, ...]:
        """The demonstration that joins a group, if there is one."""
        if group.demonstration is None or self.options.n_demo == 0:
            return ()
        return (group.demonstration,)
