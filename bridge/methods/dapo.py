"""``dapo``: GRPO with a group filter, refill, overlong mask and length penalty (arXiv 2503.14476).

    filter_groups            groups whose rewards are all equal are dropped, and other prompts drawn
    mask_truncated           a truncated answer counts in its group's mean and leaves the loss, its
                             token count included
    overlong_buffer_tokens   r' = r - clip((length - (L_max - buffer)) / buffer, 0, 1)

The paper's clip-higher and token mean are keys of the shared training configuration, which the
suite's row sets: ``clip_ratio_high: 0.28`` and ``loss_agg_mode: token-mean``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import Method, refuse
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import Group, Request, Row
from bridge.store.schema import Closed, CountOrZero, Steps
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class Dapo(Method):
    """See ``docs/methods/dapo.md``."""

    class Options(Closed):
        """Options of ``dapo``."""

        steps: Steps
        filter_groups: bool = True
        max_refill_rounds: int = Field(3, ge=0, le=3)
        """Rounds of further prompts in the place of dropped ones."""
        mask_truncated: bool = True
        overlong_buffer_tokens: CountOrZero = 0
        """Last tokens before ``max_response_tokens`` over which the penalty falls from 0 to -1."""

    options: Options
    tuning: ClassVar = {"training.clip_ratio_high": (0.2, 0.28, 0.4)}

    def check(self, where: str) -> None:
        training, buffer = self.training, self.options.overlong_buffer_tokens
        if training.loss_agg_mode != "token-mean":
            raise refuse(
                where,
                f"dapo is a token mean, but loss_agg_mode is {training.loss_agg_mode}; set "
                "training.loss_agg_mode: token-mean, or take rl_zero.",
            )
        if buffer > training.max_response_tokens:
            raise refuse(
                where,
                f"options.overlong_buffer_tokens is {buffer}, but answers end after "
                f"{training.max_response_tokens} tokens (max_response_tokens); lower it.",
            )

    def followup(
        self, groups: Sequence[Group], round_: int, draw: Callable[[int], list[Problem]]
    ) -> list[Request]:
        missing = self.training.prompts_per_step - sum(map(self._teaches, groups))
        if missing == 0 or round_ >= self.options.max_refill_rounds:
            return []
        return [Request(problem, self.training.n) for problem in draw(missing)]

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        rows = super().rows([group for group in groups if self._teaches(group)], (), step)
        return [row for row in rows if not (self.options.mask_truncated and row.truncated)]

    def advantage(self, group: Group) -> list[float]:
        rewards = [
            reward + self._length_penalty(row)
            for reward, row in zip(group.rewards, group.rows, strict=True)
        ]
        return group_advantages(rewards, norm_by_std=self.training.norm_adv_by_std_in_grpo)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        dropped = sum(not self._teaches(group) for group in batch.groups)
        trainer.log(groups_dropped=dropped, groups_kept=len(batch.groups) - dropped)
        super().update(trainer, batch, step)

    def _teaches(self, group: Group) -> bool:
        """Whether a group survives the filter, which looks at the verdicts, not at the penalty."""
        return not self.options.filter_groups or len(set(group.rewards)) > 1

    def _length_penalty(self, row: Row) -> float:
        """Soft overlong punishment (equation 13): 0 down to -1 over the buffer."""
        buffer = self.options.overlong_buffer_tokens
        if buffer == 0:
            return 0.0
        beyond = len(row.response_ids) - (self.training.max_response_tokens - buffer)
        return -min(1.0, max(0.0, beyond / buffer))


METHOD = Dapo
