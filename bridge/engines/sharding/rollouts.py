"""Rollouts and verdicts of a run on several ranks.

Prompts are shared out and the completions put together again, so that every rank has all of a
step's rollouts. A sample's random stream is named by the run, the step, the question and the
sample, so it does not depend on who draws it. Grading is the first rank's: its pool of workers is
made for the whole machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bridge.grading import GradeItem
from bridge.grading.verdicts import Graded
from bridge.machine.ranks import Ranks
from bridge.step.protocols import Engine, Grader, Weights
from bridge.step.rollouts import Completion, Prompt


class SharedEngine:
    """The :class:`~bridge.step.rollouts.Engine` of all ranks: each draws its share.

    Args:
        engine: this rank's own. A rank whose share is empty asks it all the same, for weights are
            gathered by all ranks together.
    """

    def __init__(self, engine: Engine, ranks: Ranks) -> None:
        self.engine = engine
        self.ranks = ranks

    def sync(self) -> None:
        self.engine.sync()

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        drawn = self.engine.generate(
            self.ranks.share(prompts), max_new_tokens=max_new_tokens, temperature=temperature
        )
        return self.ranks.join(drawn)


class GatheringEngine:
    """An engine in plain PyTorch that is lent the whole model while it draws.

    Args:
        engine: draws from ``policy.sampler``, of whose model it needs all weights.
        room_tokens: tokens of all rows that are drawn at once, prompts included; a prompt alone
            may take more.
    """

    def __init__(self, engine: Engine, policy: Weights, room_tokens: int) -> None:
        self.engine = engine
        self.policy = policy
        self.room_tokens = room_tokens

    def sync(self) -> None:
        self.policy.refresh()

    def sleep(self) -> None:
        """Between generations there is nothing to give back."""

    def wake(self) -> None:
        """It never sleeps."""

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        drawn: list[list[Completion]] = []
        with self.policy.whole_model():
            for wave in self._waves(prompts, max_new_tokens):
                drawn += self.engine.generate(
                    wave, max_new_tokens=max_new_tokens, temperature=temperature
                )
        return drawn

    def _waves(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Iterator[list[Prompt]]:
        """The prompts in groups that have room."""
        wave: list[Prompt] = []
        rows, longest = 0, 0
        for prompt in prompts:
            rows, longest = rows + len(prompt.seeds), max(longest, len(prompt.ids))
            if wave and rows * (longest + max_new_tokens) > self.room_tokens:
                yield wave
                wave, rows, longest = [], len(prompt.seeds), len(prompt.ids)
            wave.append(prompt)
        if wave:
            yield wave


class SharedGrader:
    """The first rank's grader for all."""

    def __init__(self, grader: Grader, ranks: Ranks) -> None:
        self.grader = grader
        self.ranks = ranks

    def grade(self, items: Sequence[GradeItem]) -> list[Graded]:
        """A verdict for each item, the same on all ranks."""
        return self.ranks.from_first(lambda: self.grader.grade(items))
