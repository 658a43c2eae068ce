"""What a dataset is: problems with a gold answer, demonstrations, benchmarks.

A family is one file in this folder that defines ``FAMILY``, an object with the methods of
:class:`Family`. Synthetic families also yield a pre-training corpus for the tiny base models; real
datasets do not.

Splits never share a question. Synthetic families get that by construction
(:mod:`bridge.tasks.synthetic.splits`); :func:`check_disjoint` checks it for every family.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel


class ProblemError(ValueError):
    """A problem that cannot be used; the message names the set, the id and the remedy."""


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer."""

    id: str
    question: str
    """What the user turn of the chat template holds."""
    answer: str
    """Gold final answer, what ``\\boxed{}`` should contain."""
    difficulty: int
    """Number of reasoning steps (synthetic families) or the level of the origin (real ones)."""
    demonstration: str | None = None
    """Expert completion (assistant turn), or None where no expert wrote one."""


@dataclass(frozen=True)
class Coverage:
    """What became of the training problems; the four counts below ``prompts`` are disjoint."""

    prompts: int
    demonstrated: int
    unmatched: int
    """No source has this problem."""
    wrong: int
    """Completions exist and are short enough, but none of them earns the reward."""
    too_long: int
    """Completions exist, but all exceed the token limit."""
    by_source: Mapping[str, int]

    def __str__(self) -> str:
        sources = ", ".join(f"{n} from {name}" for name, n in self.by_source.items()) or "none"
        return (
            f"{self.demonstrated} of {self.prompts} prompts have a demonstration ({sources}); "
            f"{self.unmatched} unmatched, {self.wrong} wrong, {self.too_long} too long"
        )


@dataclass(frozen=True)
class Dataset:
    """The training side of a family: prompts for RL, demonstrations for SFT, validation prompts."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    coverage: Coverage | None = None
    """Where demonstrations were matched to prompts: how many were found, and why not the others."""

    @property
    def demonstrations(self) -> tuple[Problem, ...]:
        """Training problems that carry a demonstration."""
        return tuple(p for p in self.train if p.demonstration is not None)


class Family(Protocol):
    """One dataset family, see the module docstring."""

    name: str
    Options: type[BaseModel]
    answer_tokens: int
    """Longest answer, and number of sampled answers, where lm-eval's own command line asks the
    questions; a suite says both by itself."""
    n_samples: int

    def check(self, options: BaseModel, where: str) -> None:
        """Refuse, when a suite is planned, what cannot be read later: a file that is not there.

        Raises:
            ConfigError: one sentence that begins with ``where``.
        """
        ...

    def benchmark_names(self) -> tuple[str, ...]:
        """Names of the five benchmarks, from the easiest to the hardest."""
        ...

    def dataset(self, options: BaseModel) -> Dataset:
        """Training and validation problems."""
        ...

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        """The questions of one benchmark."""
        ...


class SyntheticFamily(Family, Protocol):
    """A family that can also teach a base model from nothing."""

    def vocabulary(self) -> tuple[str, ...]:
        """All words that a question or a completion of this family can hold."""
        ...

    def pretraining(self, rng: random.Random, *, habit: bool) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, completion); with ``habit`` mostly immediate guesses."""
        ...


def check_problems(name: str, problems: Sequence[Problem]) -> None:
    """Refuse empty questions, empty golds and duplicate ids.

    Raises:
        ProblemError: naming the set, the id and what is wrong.
    """
    seen: set[str] = set()
    for problem in problems:
        if not problem.question.strip():
            raise ProblemError(f"{name}: problem '{problem.id}' has an empty question; remove it.")
        if not problem.answer.strip():
            raise ProblemError(
                f"{name}: problem '{problem.id}' has an empty gold answer, which no grader can "
                "verify; give it an answer or remove it."
            )
        if problem.id in seen:
            raise ProblemError(f"{name}: the id '{problem.id}' occurs twice; ids must be unique.")
        seen.add(problem.id)


def check_disjoint(
    train_name: str, train: Iterable[Problem], test_name: str, test: Iterable[Problem]
) -> None:
    """Refuse a test question that a training set holds (same text up to case and white space).

    Raises:
        ProblemError: naming both sets and both ids.
    """
    known = {_normalised(p.question): p.id for p in train}
    for problem in test:
        if (twin := known.get(_normalised(problem.question))) is not None:
            raise ProblemError(
                f"{test_name}: question '{problem.id}' is also training question '{twin}' of "
                f"{train_name}; remove one of them, or name the benchmark in the suite's "
                "train_on_benchmarks."
            )


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())
