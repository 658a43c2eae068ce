"""``srft``: SFT and RL in one step, weighted by entropy (arXiv 2506.19767).

With rewards s = +1 (right) and -1, H_D and H_+ the mean entropies of demonstrations and of right
rollouts, and A the advantage of a demonstration among its prompt's rollouts and itself, the sum of

    demonstrations   (a)  - w_demo e^(-H_D) log p_t       (b)  - A p_t
    right rollouts   (c)  - w_pos e^(+H_+) log p_t
    wrong rollouts   (d)  + log p_t

(a) and (b) are one likelihood term with c_t = w_demo e^(-H_D) + A p_t; (c) and (d) are policy
gradients with fixed advantages. Demonstrations and rollouts each stand over their own count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import StepStats
from bridge.methods.own_demonstrations import MemberMethod, MemberOptions
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Row

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.trainer import Trainer


LIKELIHOOD = "likelihood"
"""Column with the coefficient of (a)."""


class SRFT(MemberMethod):
    """See ``docs/methods/srft.md``."""

    class Options(MemberOptions):
        """Options of ``srft``."""

        w_demo: float = Field(0.5, ge=0)
        """Weight of (a) where the entropy is 0."""
        w_pos: float = Field(0.1, ge=0)
        """Weight of (c) where the entropy is 0."""
        entropy_sign: Literal[-1, 1] = -1
        """Sign of H in (a): -1 is the paper's."""
        entropy_scope: Literal["batch", "row"] = "batch"
        """Whose tokens H is the mean over: all rows of the term, or each row's own."""

    options: Options
    tuning: ClassVar = {"options.w_demo": (0.1, 0.5, 1.0)}

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        rows = [replace(r, advantage=self._sign(r)) for group in groups for r in group.rows]
        for group in groups:
            for shown in self.shown(group):
                joined = [self._sign(row) for row in (*group.rows, shown)]
                norm = self.training.norm_adv_by_std_in_grpo
                own = group_advantages(joined, norm_by_std=norm)[-1]
                rows.append(replace(shown, advantage=own))
        return rows

    def token_weight(self, batch: MicroBatch) -> Tensor:
        from bridge.step.rl_loss import spread  # torch

        assert batch.logprob is not None
        p = batch.logprob.exp()
        likelihood = [p.new_tensor(row.columns[LIKELIHOOD]) for row in batch.rows]  # (a)
        return spread(likelihood, batch, p.new_zeros(p.shape)) + batch.advantage.to(p.dtype) * p

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return float(stats.rows["rl"] > 0), float(stats.rows["demonstration"] > 0)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        from bridge.methods.columns import with_columns  # torch

        batch = with_columns(trainer, batch, ("entropy",))
        batch = with_columns(trainer, batch, ("entropy",), term="rl")
        shown = [row for row in batch.rows if row.kind == "demonstration"]
        right = [row for row in batch.rows if row.kind == "rollout" and row.advantage > 0]
        trainer.log(entropy_demonstrations=_mean(shown), entropy_right_rollouts=_mean(right))
        o, sets = self.options, {"demonstration": shown, "rollout": right}

        def weighed(row: Row) -> Row:
            entropy = _mean([row] if o.entropy_scope == "row" else sets[row.kind]) or 0.0
            if row.kind == "demonstration":
                likelihood = o.w_demo * exp(o.entropy_sign * entropy)
                return replace(row, columns={LIKELIHOOD: (likelihood,) * len(row.response_ids)})
            return replace(row, advantage=o.w_pos * exp(entropy) if row.advantage > 0 else -1.0)

        super().update(trainer, replace(batch, rows=tuple(map(weighed, batch.rows))), step)

    def _sign(self, row: Row) -> float:
        return 1.0 if row.reward == self.training.reward_correct else -1.0


def _mean(rows: Sequence[Row]) -> float | None:
    """Mean entropy over the tokens of some rows, in nats."""
    found = [entropy for row in rows for entropy in row.columns["entropy"]]
    return sum(found) / len(found) if found else None


METHOD = SRFT
