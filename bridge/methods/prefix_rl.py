"""``prefix_rl``: RL on answers that begin with a part of a demonstration (arXiv 2601.18795).

Prompts with a demonstration are asked either plainly or with a part of it given. Given tokens are
in no loss and in no count; a prompt asked both ways has two groups, each with its own mean. How
much is given:

    uniform    a share l ~ U(low, high) of the demonstration's tokens
    feedback   k / cuts of them; k goes up by one where at most a quarter of the group's answers
               earn the reward, and down by one where at least three quarters do

What is given ends before the final answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.own_demonstrations import PromptOptions
from bridge.methods.prefixes import PrefixMethod, tokens_before
from bridge.step.rows import Group, Phase, Request
from bridge.store.schema import Count
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class PrefixRL(PrefixMethod):
    """See ``docs/methods/prefix_rl.md``."""

    class Options(PromptOptions):
        """Options of ``prefix_rl``."""

        prefix_rule: Literal["uniform", "feedback"] = "uniform"
        low: float = Field(0.4, ge=0, le=1)
        high: float = Field(0.8, ge=0, le=1)
        plain_share: float = Field(0.25, ge=0, le=1)
        """Probability that a prompt with a demonstration is asked plainly."""
        cuts: Count = 8
        """Lengths of the rule ``feedback``; a prompt begins with half of its demonstration."""

    options: Options
    tuning: ClassVar = {"options.plain_share": (0.25, 0.5, 0.75)}

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.cuts: dict[str, int] = {}
        """k of each problem that the rule ``feedback`` has moved."""

    def check(self, where: str) -> None:
        if self.options.low > self.options.high:
            raise refuse(where, "options.low is above options.high; swap them.")

    def phase(self, step: int) -> Phase:
        return Phase("rl")

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        return [
            Request(problem, self.training.n, self._given(problem, step, place))
            for place, problem in enumerate(problems)
        ]

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        given = [g for g in batch.groups if g.rows[0].prefix_tokens]
        trainer.log(prefixed_group_share=len(given) / len(batch.groups))
        if self.options.prefix_rule == "feedback":
            for group in batch.groups:
                if group in given or self.cuts.get(group.problem.id) == 0:
                    self._steer(group)
        super().update(trainer, batch, step)

    def _given(self, problem: Problem, step: int, place: int) -> tuple[int, ...]:
        o, rng = self.options, self.draws(step, place)
        text = problem.demonstration
        if text is None or rng.random() < o.plain_share:
            return ()
        ids, share = self.demonstration_ids(problem), rng.uniform(o.low, o.high)
        if o.prefix_rule == "feedback":
            share = self.cuts.get(problem.id, o.cuts // 2) / o.cuts
        answer = text.rfind("\\boxed")
        (most,) = tokens_before(self.policy, text, [answer if answer >= 0 else len(text)])
        return ids[: min(math.floor(share * len(ids)), most)]

    def _steer(self, group: Group) -> None:
        right = self.n_right(group) / len(group.rewards)
        k = self.cuts.get(group.problem.id, self.options.cuts // 2)
        k += 1 if right <= 0.25 else -1 if right >= 0.75 else 0
        self.cuts[group.problem.id] = min(max(k, 0), self.options.cuts)

    def state_dict(self) -> dict[str, Any]:
        return {"cuts": dict(self.cuts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cuts = dict(state["cuts"])


METHOD = PrefixRL
