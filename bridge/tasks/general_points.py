r"""``general_points``: make a target out of the values of the cards, each used once.

    J Q K are 10 10 10 : make 24 from 3 J 8 9
    3 10 8 9 : 10 - 9 = 1 , 3 8 1 : 3 * 8 = 24 , 1 24 : 1 * 24 = 24 ; \boxed{ make 24 : ... }

The game of "SFT memorizes, RL generalizes" (arXiv:2501.17161), which "RL fine-tuning heals OOD
forgetting in SFT" (arXiv:2509.12235) takes up, in text. What is trained on counts J, Q and K as 10
and so does the benchmark ``points``; ``points_faces`` counts them as 11, 12 and 13, and each of its
hands has one. The question states the rule. Every expression that uses the cards and has the value
is right (:mod:`bridge.grading.points`).

The expert's solutions use whole numbers from 0 to 99; hands that need others
(``8 / ( 3 - 8 / 3 )``) are not dealt. The values of a hand and its target decide the split, so
neither the order of the cards nor a 10 in place of a jack makes another problem. Difficulty is the
number of operations.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from bridge.store.schema import Count, CountOrZero
from bridge.tasks.base import Dataset, Problem
from bridge.tasks.synthetic.family import Synthetic
from bridge.tasks.synthetic.habits import Writer, exact
from bridge.tasks.synthetic.splits import Rung, SyntheticOptions, build_benchmark, build_dataset

_LARGEST: Final = 99
_RANKS: Final = ("A", *map(str, range(2, 11)), "J", "Q", "K")
_TARGETS: Final = (10, 40)
"""Lowest and highest target that the base models' corpus shows."""
Rule = Literal["ten", "rank"]
"""What J, Q and K count as: 10, or 11, 12 and 13."""
_FACES: Final[dict[Rule, str]] = {"ten": "10 10 10", "rank": "11 12 13"}
_OPERATIONS: Final = "+-*/"


class GeneralPointsOptions(SyntheticOptions):
    """Options of the ``general_points`` family."""

    cards: int = Field(4, ge=3, le=4)
    lowest_target: int = Field(24, ge=_TARGETS[0], le=_TARGETS[1])
    highest_target: int = Field(24, ge=_TARGETS[0], le=_TARGETS[1])
    """Each problem has a target of its own from this range; 24 alone leaves few problems."""
    train_size: Count = 96
    validation_size: Count = 24
    demonstrations: CountOrZero = 96
    demonstration_max_steps: int = Field(3, ge=2, le=3)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest_target > self.highest_target:
            raise ValueError(
                f"lowest_target ({self.lowest_target}) exceeds highest_target "
                f"({self.highest_target}); swap them"
            )
        return self


@functools.cache
def reachable(values: tuple[int, ...]) -> frozenset[int]:
    """All numbers from 0 to 99 that sorted values make, each used once, through such numbers."""
    if len(values) == 1:
        return frozenset(values)
    return frozenset().union(*(reachable(rest) for *_, rest in _moves(values)))


def _moves(values: tuple[int, ...]) -> Iterator[tuple[int, str, int, int, tuple[int, ...]]]:
    """(left, operation, right, result, the values after it, sorted), larger numbers on the left."""
    tried = set()
    for i in range(len(values)):
        for j in range(i):
            left, right = values[i], values[j]
            if (left, right) in tried:
                continue
            tried.add((left, right))
            rest = values[:j] + values[j + 1 : i] + values[i + 1 :]
            for operation in _OPERATIONS:
                result = _apply(operation, left, right)
                if result is not None:
                    yield left, operation, right, result, tuple(sorted((*rest, result)))


def _apply(operation: str, left: int, right: int) -> int | None:
    """The result if it is a number from 0 to 99."""
    if operation == "/":
        return left // right if right and left % right == 0 else None
    result = left + right if operation == "+" else left - right
    if operation == "*":
        result = left * right
    return result if 0 <= result <= _LARGEST else None


def _next_move(values: tuple[int, ...], target: int) -> tuple[int, str, int, int]:
    """The first move after which the target can be reached; out of reach, a difference."""
    for left, operation, right, result, rest in _moves(values):
        if target in reachable(rest):
            return left, operation, right, result
    return values[-1], "-", values[0], values[-1] - values[0]


@dataclass(frozen=True)
class _Hand:
    ranks: tuple[str, ...]
    rule: Rule
    target: int

    @property
    def values(self) -> tuple[int, ...]:
        """In the order of the cards."""
        highest = 10 if self.rule == "ten" else 13
        return tuple(min(_RANKS.index(rank) + 1, highest) for rank in self.ranks)

    @property
    def steps(self) -> int:
        return len(self.ranks) - 1

    @property
    def answer(self) -> str:
        return self.solved(exact)[1]

    def canonical(self) -> str:
        return f"{self.target} from {' '.join(map(str, sorted(self.values)))}"

    def question(self, *, worded: bool) -> str:
        return f"J Q K are {_FACES[self.rule]} : make {self.target} from {' '.join(self.ranks)}"

    def reasoning(self, write: Writer = exact) -> str:
        lines, answer = self.solved(write)
        return f"{' , '.join(lines)} ; \\boxed{{ {answer} }}"

    def solved(self, write: Writer) -> tuple[list[str], str]:
        """A line per step, and the answer; after a wrong number of the writer the rest makes the
        target of what that number leaves."""
        have = [(value, str(value)) for value in self.values]
        lines = []
        while len(have) > 1:
            numbers = [value for value, _ in have]
            left, sign, right, result = _next_move(tuple(sorted(numbers)), self.target)
            written = write(sign, left, right, result)
            lines.append(f"{' '.join(map(str, numbers))} : {left} {sign} {right} = {written}")
            first = have.pop(numbers.index(left))[1]
            second = have.pop([value for value, _ in have].index(right))[1]
            have.append((written, f"( {first} {sign} {second} )"))
        expression = have[0][1].removeprefix("( ").removesuffix(" )")
        return lines, f"make {self.target} : {expression}"


def _deal(
    rng: random.Random, cards: int, rule: Rule, targets: tuple[int, int], *, face: bool = False
) -> _Hand:
    """A hand that can be solved; with ``face`` one of its cards at least is J, Q or K."""
    while True:
        ranks = tuple(rng.choice(_RANKS) for _ in range(cards))
        hand = _Hand(ranks, rule, rng.randint(*targets))
        if face and not set(ranks) & set("JQK"):
            continue
        if hand.target in reachable(tuple(sorted(hand.values))):
            return hand


class GeneralPoints(Synthetic[_Hand]):
    """The ``general_points`` family, see the module docstring."""

    name = "general_points"
    Options = GeneralPointsOptions
    rungs: ClassVar = {
        "points": Rung((3,), worded=False, questions=60),
        "points_faces": Rung((3,), worded=False, questions=100),
    }
    trained_steps = (3,)
    reasoning_share: ClassVar = {2: 0.6, 3: 0.4}
    guess_right = 0.2
    misconceived_share = 0.12

    def draw(self, rng: random.Random, steps: int) -> _Hand:
        """Of the corpus, which knows both rules and all targets."""
        return _deal(rng, steps + 1, rng.choice(("ten", "rank")), _TARGETS)

    def alter(self, result: int, choice: int) -> int:
        """Off by one or by ten, from 0 to 99."""
        altered = result + (1, -1, 10, -10)[choice % 4]
        return altered if 0 <= altered <= _LARGEST else result + (1 if result == 0 else -1)

    def blind_guess(self, rng: random.Random, drawn: _Hand) -> str:
        """The cards in their order with signs between them."""
        first, *others = map(str, drawn.values)
        signed = "".join(f" {rng.choice(_OPERATIONS)} {value}" for value in others)
        return f"make {drawn.target} : {first}{signed}"

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, GeneralPointsOptions)
        steps = (options.cards - 1,)
        return build_dataset(
            self.name,
            options,
            lambda rng, steps: _deal(rng, steps + 1, "ten", _targets(options)),
            steps=steps,
            alter=self.alter,
        )

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, GeneralPointsOptions)
        faces = name == "points_faces"
        rule: Rule = "rank" if faces else "ten"
        rung = Rung((options.cards - 1,), worded=False, questions=self.rungs[name].questions)
        return build_benchmark(
            self.name,
            name,
            options,
            lambda rng, steps: _deal(rng, steps + 1, rule, _targets(options), face=faces),
            rung,
        )

    def vocabulary(self) -> tuple[str, ...]:
        numbers = tuple(map(str, range(_LARGEST + 1)))
        words = ("are", ":", "make", "from", "=", ",", ";", "(", ")", "\\boxed{", "}")
        return numbers + words + tuple(_OPERATIONS) + ("A", "J", "Q", "K")


def _targets(options: GeneralPointsOptions) -> tuple[int, int]:
    return options.lowest_target, options.highest_target


FAMILY = GeneralPoints()
