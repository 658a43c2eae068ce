"""``trapo``: micro-groups whose prefixes grow while a prompt fails (arXiv 2512.17636).

A prompt's n answers are drawn in rounds. Those of round j begin with the share ``ratios[j]`` of its
demonstration if the mean reward of the prompt's earlier answers is below ``thresholds[j]``. Given
tokens are learnt whatever the reward, with the weight of the trust region (TrSFT)

    c_t = min(1, p_t / alpha)

and sampled ones by the Dr.GRPO term, A = r - mean over all n answers. Both stand over one count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.own_demonstrations import PromptOptions
from bridge.methods.prefixes import OneCountPrefixes, joined
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Request
from bridge.store.schema import Count
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch


class Trapo(OneCountPrefixes):
    """See ``docs/methods/trapo.md``."""

    class Options(PromptOptions):
        """Options of ``trapo``."""

        micro_groups: tuple[Count, ...] = Field(
            (4, 2, 1, 1), min_length=1, max_length=4, strict=False
        )
        """Answers of each round; together ``training.n``."""
        ratios: tuple[float, ...] = Field((0.0, 0.2, 0.5, 1.0), strict=False)
        """Share of the demonstration that a round's answers begin with; 1 is all of it."""
        thresholds: tuple[float, ...] = Field((-1.0, 0.5, 0.7, 0.9), strict=False)
        """Mean reward below which they do; there is none before the first round."""
        alpha: float = Field(0.1, gt=0, le=1)
        """Probability from which on a given token has the full weight."""

    options: Options
    tuning: ClassVar = {"options.alpha": (0.05, 0.1, 0.3)}

    def check(self, where: str) -> None:
        o, n = self.options, self.training.n
        super().check(where)
        if sum(o.micro_groups) != n:
            raise refuse(
                where,
                f"options.micro_groups has {sum(o.micro_groups)} answers, but training.n is {n}; "
                "make them equal.",
            )
        if not len(o.ratios) == len(o.thresholds) == len(o.micro_groups):
            raise refuse(
                where, "options.micro_groups, ratios and thresholds must have one entry a round."
            )
        if o.ratios[0] != 0.0 or not all(0.0 <= ratio <= 1.0 for ratio in o.ratios):
            raise refuse(where, "options.ratios must begin with 0 and be shares from 0 to 1.")

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        return [Request(problem, self.options.micro_groups[0]) for problem in problems]

    def followup(
        self, groups: Sequence[Group], round_: int, draw: Callable[[int], list[Problem]]
    ) -> list[Request]:
        next_ = round_ + 1
        if next_ == len(self.options.micro_groups):
            return []
        n, threshold = self.options.micro_groups[next_], self.options.thresholds[next_]
        return [
            Request(g.problem, n, self._given(g.problem, next_) if _mean(g) < threshold else ())
            for g in self._by_prompt(groups, n_rounds=next_)
        ]

    def regroup(self, groups: list[Group]) -> list[Group]:
        return self._by_prompt(groups, n_rounds=len(self.options.micro_groups))

    def advantage(self, group: Group) -> list[float]:
        return group_advantages(group.rewards, norm_by_std=False)

    def token_weight(self, batch: MicroBatch) -> Tensor:
        assert batch.logprob is not None
        return (batch.logprob.exp() / self.options.alpha).clamp(max=1.0)

    def _given(self, problem: Problem, round_: int) -> tuple[int, ...]:
        ids = self.demonstration_ids(problem)
        return ids[: math.floor(self.options.ratios[round_] * len(ids))]

    def _by_prompt(self, groups: Sequence[Group], *, n_rounds: int) -> list[Group]:
        """One group a prompt: each round has asked for all prompts, in the same order."""
        n_prompts = len(groups) // n_rounds
        return [joined(groups[place::n_prompts]) for place in range(n_prompts)]


def _mean(group: Group) -> float:
    return sum(group.rewards) / len(group.rewards)


METHOD = Trapo
