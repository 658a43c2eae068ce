"""``prefix_rft``: one answer of a group continues a demonstration's beginning (arXiv 2507.01679).

A prompt with a demonstration y gets n - 1 rollouts, and one that begins with y's first
floor(l len(y)) tokens, l ~ U(low, high), low from ``high`` to 0 by a cosine. All n answers are one
group, and all tokens share the clipped policy loss and its one count; of the given tokens only the
share ``top_entropy`` of the highest entropy keeps the advantage. At the ratio 1 of a single update
that is a likelihood term on the prefix with

    c_t = A 1[H_t among the top_entropy share of the row's prefix]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.own_demonstrations import PromptOptions
from bridge.methods.prefixes import OneCountPrefixes, joined
from bridge.step.rows import Group, Request
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.trainer import Trainer


class PrefixRFT(OneCountPrefixes):
    """See ``docs/methods/prefix_rft.md``."""

    class Options(PromptOptions):
        """Options of ``prefix_rft``."""

        high: float = Field(0.95, ge=0, lt=1)
        """Longest prefix, as a share of the demonstration."""
        top_entropy: float = Field(0.2, ge=0, le=1)
        """Share of a prefix's tokens that are learnt from, rounded up."""

    options: Options
    tuning: ClassVar = {"options.high": (0.5, 0.8, 0.95)}

    def check(self, where: str) -> None:
        super().check(where)
        if self.training.several_updates:
            raise refuse(
                where,
                "prefix_rft makes one update per batch of rollouts, where the ratio of given "
                "tokens is 1; remove ppo_mini_batch_size and ppo_epochs.",
            )

    def low(self, step: int) -> float:
        """Shortest prefix of a step, as a share of the demonstration."""
        progress = (step - 1) / max(1, self.n_steps - 1)
        return self.options.high * (1.0 + math.cos(math.pi * progress)) / 2.0

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        out = []
        for place, problem in enumerate(problems):
            ids = self.demonstration_ids(problem)
            share = self.draws(step, place).uniform(self.low(step), self.options.high)
            given = ids[: math.floor(share * len(ids))]
            out.append(Request(problem, self.training.n - (1 if given else 0)))
            if given:
                out.append(Request(problem, 1, given))
        return out

    def regroup(self, groups: list[Group]) -> list[Group]:
        out: list[Group] = []
        for group in groups:
            continues = group.rows[0].kind == "hybrid"  # its prompt's rollouts come before it
            out.append(joined([out.pop(), group]) if continues else group)
        return out

    def token_weight(self, batch: MicroBatch) -> Tensor:
        from bridge.methods.entropy_mask import entropy_mask  # torch

        kept = entropy_mask(batch, self.options.top_entropy)
        return batch.advantage.to(kept.dtype) * kept

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        from bridge.methods.columns import with_columns  # torch

        super().update(trainer, with_columns(trainer, batch, ("entropy",)), step)


METHOD = PrefixRFT
