r"""``arithmetic``: sums and differences of two-digit numbers, asked as people ask.

    What is 28 + 19 - 12?
    28 + 19 = 47
    47 - 12 = 35
    \boxed{35}

Difficulty is the number of operations. No file is read: questions are drawn, and a question's text
decides its split (:mod:`bridge.tasks.synthetic.splits`); the order in which numbers are added makes
no other question. Nothing is pre-trained here, so the split for that holds the problems of a
warm-up (``part: warm_up``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, Field

from bridge.tasks.base import Dataset, Problem
from bridge.tasks.real.prompts import EQUATIONS
from bridge.tasks.synthetic.habits import Writer, exact
from bridge.tasks.synthetic.splits import Rung, SyntheticOptions, build_benchmark, build_dataset

_RUNGS: Final[Mapping[str, Rung]] = {
    "arithmetic_two": Rung(steps=(1,), worded=True, questions=200),
    "arithmetic_three": Rung(steps=(2,), worded=True, questions=200),
}


class ArithmeticOptions(SyntheticOptions):
    """Options of the ``arithmetic`` family."""

    part: Literal["train", "warm_up"] = "train"
    slip: float = Field(0.0, ge=0.0, le=1.0)
    demonstrations: int = Field(1024, ge=0, le=1_000_000)
    demonstration_max_steps: int = Field(2, ge=1, le=2)


@dataclass(frozen=True)
class _Sum:
    """``first`` and then terms with their signs; no intermediate result is below zero."""

    first: int
    terms: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.terms)

    @property
    def answer(self) -> int:
        return self.first + sum(self.terms)

    def canonical(self) -> str:
        return " ".join(map(str, sorted((self.first, *self.terms))))

    def question(self, *, worded: bool) -> str:
        rest = "".join(f" {_sign(term)} {abs(term)}" for term in self.terms)
        return f"What is {self.first}{rest}?{EQUATIONS}"

    def reasoning(self, write: Writer = exact) -> str:
        lines, total = [], self.first
        for term in self.terms:
            left, sign = total, _sign(term)
            total = write(sign, left, abs(term), left + term)
            lines.append(f"{left} {sign} {abs(term)} = {total}")
        return "\n".join([*lines, f"\\boxed{{{total}}}"])


def _sign(term: int) -> str:
    return "+" if term > 0 else "-"


def _draw(rng: random.Random, steps: int) -> _Sum:
    first = rng.randint(10, 99)
    terms: list[int] = []
    for _ in range(steps):
        so_far, term = first + sum(terms), rng.randint(10, 99)
        terms.append(-term if term <= so_far and rng.random() < 0.5 else term)
    return _Sum(first, tuple(terms))


def _alter(result: int, choice: int) -> int:
    """A carry forgotten, or one too many."""
    return max(0, result + (-10, 10, -1, 1)[choice % 4])


class Arithmetic:
    """The ``arithmetic`` family, see the module docstring."""

    name = "arithmetic"
    Options = ArithmeticOptions
    answer_tokens = 64
    n_samples = 8

    def check(self, options: BaseModel, where: str) -> None:
        """Nothing is read that could be missing."""

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return tuple(_RUNGS)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, ArithmeticOptions)
        split: Literal["train", "pretrain"] = "train" if options.part == "train" else "pretrain"
        return build_dataset(self.name, options, _draw, steps=(1, 2), alter=_alter, split=split)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, ArithmeticOptions)
        return build_benchmark(self.name, name, options, _draw, _RUNGS[name])


FAMILY = Arithmetic()
