"""``relift``: RL, and now and then an SFT step on the demonstrations of prompts that failed
(arXiv 2506.07527).

RL step:  GRPO; the demonstration of each prompt without a right rollout enters a buffer
SFT step: as soon as the buffer holds ``buffer_size``, one step on the newest, which leave it

Both kinds of step count, and each has its own optimiser. What is in the buffer at the end is not
learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bridge.methods.base import refuse
from bridge.methods.own_demonstrations import PromptMethod, PromptOptions
from bridge.step.rows import Group, Phase, Row
from bridge.store.schema import Count, Steps
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class ReLIFT(PromptMethod):
    """See ``docs/methods/relift.md``."""

    class Options(PromptOptions):
        """Options of ``relift``."""

        steps: Steps
        """Optimiser steps, RL and SFT together."""
        buffer_size: Count | None = None
        """Demonstrations of an SFT step; None takes ``sft_batch_size``."""
        buffer_max: Count | None = None
        """Demonstrations kept; beyond it the oldest are forgotten. None: all."""
        order: Literal["newest", "oldest"] = "newest"
        """Which leave first."""

    options: Options
    tuning: ClassVar = {"options.buffer_size": (8, 16, 32)}

    def __init__(self, options: Any, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.size: int = options.buffer_size or training.sft_batch_size
        self.buffer: list[tuple[int, Row]] = []
        """The step in which each demonstration entered, and the demonstration; oldest first."""

    def check(self, where: str) -> None:
        most = self.options.buffer_max
        if most is not None and most < self.size:
            raise refuse(
                where,
                f"options.buffer_max is {most}, but an SFT step takes {self.size} demonstrations, "
                "so none would ever be made; raise it.",
            )

    def phase(self, step: int) -> Phase:
        # What enters in a step counts from the next one on: a step stays of one kind.
        waiting = sum(entered < step for entered, _ in self.buffer)
        return Phase("sft" if waiting >= self.size else "rl")

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        if self.phase(step).kind == "sft":
            return [row for _, row in self.buffer[self._leaving]]
        for group in groups:
            if group.demonstration is not None and self._fails(group):
                self.buffer.append((step, group.demonstration))
        self.buffer = self.buffer[-(self.options.buffer_max or len(self.buffer) or 1) :]
        return super().rows(groups, (), step)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        super().update(trainer, batch, step)
        if self.phase(step).kind == "sft":
            del self.buffer[self._leaving]

    def _fails(self, group: Group) -> bool:
        return self.n_right(group) == 0

    @property
    def _leaving(self) -> slice:
        return slice(-self.size, None) if self.options.order == "newest" else slice(self.size)

    def state_dict(self) -> dict[str, Any]:
        rows = [
            (n, asdict(row.problem), row.prompt_ids, row.response_ids) for n, row in self.buffer
        ]
        return {"buffer": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffer = [
            (n, Row("demonstration", _problem(problem), tuple(prompt), tuple(response)))
            for n, problem, prompt, response in state["buffer"]
        ]

    def scalars(self) -> dict[str, float]:
        return {"buffered": len(self.buffer)}


def _problem(fields: dict[str, Any]) -> Problem:
    return Problem(**{**fields, "more_demonstrations": tuple(fields["more_demonstrations"])})


METHOD = ReLIFT
