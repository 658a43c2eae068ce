"""``pear``: SFT that prepares for RL by weighing a token with what its continuation is worth to the
policy (arXiv 2602.01058).

d_t = clip(log p_t - log q_t, d_low, d_high)     q: the teacher that wrote the demonstration

token:     log G_t = (T - t) log gamma + sum of d_j over j > t
block:     the same over blocks of ``block_size`` tokens, one weight for all tokens of a block
sequence:  log G   = sum of all d

c_t = exp(clip(log G_t, log_low, log_high))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.weighted import WeightedOptions, WeightedSFT
from bridge.step.rows import Group, Row, demonstration_row

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.trainer import Trainer
    from bridge.store.records import RunFolder
    from bridge.tasks.base import Dataset

TEACHER = "teacher"
"""Column with the teacher's log-probs."""


class PEAR(WeightedSFT):
    """See ``docs/methods/pear.md``."""

    class Options(WeightedOptions):
        """Options of ``pear``."""

        teacher: str | None = Field(None, min_length=1, max_length=4096)
        """Folder of the teacher's checkpoint; None: the base model stands in for it."""
        teacher_hash: str | None = Field(None, pattern="^[0-9a-f]{16}$")
        """Of that folder's files, so that another teacher is another run."""
        form: Literal["token", "block", "sequence"] = "token"
        block_size: int = Field(4, ge=1, le=1_000_000)
        """Tokens of a block."""
        gamma: float = Field(0.999, gt=0, le=1)
        """Discount per token (or block) to the end."""
        d_low: float = -0.08
        d_high: float = 0.3
        """Bounds of one token's log-ratio."""
        log_low: float = -10.0
        log_high: float = 5.0
        """Bounds of log G."""

    options: Options
    tuning: ClassVar = {"options.gamma": (0.99, 0.999, 1.0)}

    def check(self, where: str) -> None:
        o = self.options
        if (o.teacher is None) != (o.teacher_hash is None):
            raise refuse(
                where, "options.teacher and options.teacher_hash go together; give both or neither."
            )
        for low, high in (("d_low", "d_high"), ("log_low", "log_high")):
            if getattr(o, low) > getattr(o, high):
                raise refuse(where, f"options.{low} is above options.{high}; lower it.")
        if o.form != "block" and o.block_size != 4:
            raise refuse(where, "options.block_size belongs to form: block; leave it out.")

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        super().before_run(trainer, dataset, folder)
        from bridge.methods.precomputed import identity_of, precomputed, teacher_logprobs

        policy, o = trainer.policy.sampler, self.options
        problems = dataset.demonstrations
        rows = [demonstration_row(policy, p) for p in problems]
        rule = f"log-probs under teacher {o.teacher_hash or 'base'}"
        source = None if o.teacher is None else Path(o.teacher)
        self.teacher = precomputed(
            folder.columns(),
            identity_of(policy, problems, rule),
            trainer.ranks,
            lambda: teacher_logprobs(trainer, rows, source, o.teacher_hash),
        )

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        taught = [
            replace(row, columns={TEACHER: tuple(self.teacher[row.problem.id].tolist())})
            for row in demonstrations
        ]
        return super().rows(groups, taught, step)

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        import torch

        o = self.options
        d = (logprob - columns[TEACHER]).clamp(o.d_low, o.d_high)
        if o.form == "sequence":
            return d.sum().clamp(o.log_low, o.log_high).exp().expand(d.shape)
        size = o.block_size if o.form == "block" else 1
        block = torch.arange(len(d), device=d.device) // size
        sums = d.new_zeros(int(block[-1]) + 1).index_add_(0, block, d)
        after = sums.flip(0).cumsum(0).flip(0).roll(-1)  # of all later blocks
        after[-1] = 0.0
        log_g = math.log(o.gamma) * (block[-1] - block) + after[block]
        return log_g.clamp(o.log_low, o.log_high).exp()


METHOD = PEAR
