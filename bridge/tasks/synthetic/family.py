"""The plan that the synthetic families share: training set, benchmarks, corpus of bad habits.

A family fills in what it asks and how (:class:`Synthetic`'s attributes and three methods); where a
question belongs and who slips is decided in :mod:`bridge.tasks.synthetic.splits` and
:mod:`bridge.tasks.synthetic.habits`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Generic

from pydantic import BaseModel

from bridge.tasks.base import Dataset, Problem
from bridge.tasks.synthetic.habits import misconceived
from bridge.tasks.synthetic.splits import (
    Q,
    Rung,
    SyntheticOptions,
    build_benchmark,
    build_dataset,
    split_of,
)

_WORDED_SHARE = 0.3
"""Share of the corpus in words."""


class Synthetic(ABC, Generic[Q]):
    """A family whose questions are drawn."""

    name: str
    Options: type[SyntheticOptions]
    answer_tokens: int = 128
    n_samples: int = 8
    rungs: ClassVar[Mapping[str, Rung]]
    """Benchmarks, from the easiest to the hardest."""
    trained_steps: tuple[int, ...]
    """Numbers of steps of training and validation questions, which take turns."""
    reasoning_share: ClassVar[Mapping[int, float]]
    """P(the base model's text reasons) per number of steps; the rest is an immediate guess."""
    guess_right: float
    """P(such a guess is right by knowledge)."""
    misconceived_share: float
    """Share of the facts that the base model's corpus gets wrong more often than not."""

    @abstractmethod
    def draw(self, rng: random.Random, steps: int) -> Q:
        """A question of that many steps, of any split."""

    @abstractmethod
    def alter(self, result: int, choice: int) -> int:
        """Another value than the right one, decided by ``choice``."""

    @abstractmethod
    def blind_guess(self, rng: random.Random, drawn: Q) -> int | str:
        """An answer out of the blue to the question drawn."""

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """All words that a question or a completion of this family can hold."""

    def check(self, options: BaseModel, where: str) -> None:
        """Nothing is read that could be missing."""

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        """Names of the benchmarks, from the easiest to the hardest."""
        return tuple(self.rungs)

    def dataset(self, options: BaseModel) -> Dataset:
        """Training and validation problems."""
        assert isinstance(options, SyntheticOptions)
        return build_dataset(
            self.name, options, self.draw, steps=self.trained_steps, alter=self.alter
        )

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        """The questions of one benchmark."""
        assert isinstance(options, SyntheticOptions)
        return build_benchmark(self.name, name, options, self.draw, self.rungs[name])

    def pretraining(
        self, rng: random.Random, *, habit: bool, world: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, completion); with ``habit`` mostly immediate guesses."""
        write = misconceived(rng, self.alter, share=self.misconceived_share, world=world)
        fewest, most = min(self.reasoning_share), max(self.reasoning_share)
        while True:
            steps = rng.randint(fewest, most)
            drawn = self.draw(rng, steps)
            if split_of(drawn.canonical()) != "pretrain":
                continue
            question = drawn.question(worded=rng.random() < _WORDED_SHARE)
            if not habit or rng.random() < self.reasoning_share[steps]:
                yield question, drawn.reasoning(write)
            else:
                right = rng.random() < self.guess_right
                answer = drawn.answer if right else self.blind_guess(rng, drawn)
                yield question, f"\\boxed{{ {answer} }}"
