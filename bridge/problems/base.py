"""What a dataset is: problems with a gold answer, demonstrations, benchmarks.

A family is one file in this folder that defines ``FAMILY``, an object with the methods of
:class:`Family`. Synthetic families also yield a pre-training corpus for the tiny base models; real
datasets do not.

Splits never share a question. Synthetic families get that by construction: the canonical text of a
question decides its split (:func:`split_of`). :func:`check_disjoint` checks it for every family.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel

from bridge.seeds import bucket

Split = Literal["pretrain", "train", "validation", "test"]

# Shares of the question space in percent, in this order. Pre-training sees most of it: what is
# under study is what fine-tuning adds, on questions that no earlier stage has shown.
_SPLIT_SHARES: tuple[tuple[Split, int], ...] = (
    ("pretrain", 60),
    ("train", 20),
    ("validation", 5),
    ("test", 15),
)


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
class Dataset:
    """The training side of a family: prompts for RL, demonstrations for SFT, validation prompts."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]

    @property
    def demonstrations(self) -> tuple[Problem, ...]:
        """Training problems that carry a demonstration."""
        return tuple(p for p in self.train if p.demonstration is not None)


class Family(Protocol):
    """One dataset family, see the module docstring."""

    name: str
    Options: type[BaseModel]

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


def split_of(canonical: str) -> Split:
    """Return the split a question belongs to, from its canonical text alone."""
    position = bucket(canonical, n_buckets=100)
    for split, share in _SPLIT_SHARES:
        if position < share:
            return split
        position -= share
    raise AssertionError("the split shares add up to 100")


MAX_DRAWS = 100_000
"""Draws in search of one new question; more means that there is none left."""


def exhausted(family: str, split: Split, steps: int) -> ProblemError:
    """Return the error of a synthetic family that is asked for more questions than there are."""
    return ProblemError(
        f"{family}: there are no more different {split} questions of {steps} steps; lower the "
        f"size of the {split} set."
    )


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
                f"{train_name}; remove one of them."
            )


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())
