"""``chains``: short chains of modular arithmetic, written in symbols or in words.

    mod 10 : a = 3 + 4 ; b = a * 2 ; c = b - 5 ; find c
    a = 3 + 4 = 7 ; b = 7 * 2 = 4 ; c = 4 - 5 = 9 ; \\boxed{ 9 }

Difficulty is the number of statements. The world is made so that a base model can be improved by RL
and taught by SFT, and neither is the whole answer; how it was calibrated is in
``docs/calibration.md``. Three properties matter:

- Pre-training (:meth:`Synthetic.pretraining`) shows every length and both wordings, but bad habits
  dominate: an immediate guess is likelier than reasoning, the more so the longer the chain, and a
  share of the facts is misconceived (:mod:`bridge.tasks.synthetic.habits`).
- Demonstrations are scarce, stop at ``demonstration_max_steps``, and slip now and then: each
  computed value is off with probability ``slip``, and the rest follows from the wrong value, so the
  reward of the demonstrations themselves, J(D), is below one.
- ``rung3`` is worded differently and ``rung4`` and ``rung5`` are longer than anything trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from bridge.tasks.synthetic.family import Synthetic
from bridge.tasks.synthetic.habits import Writer, exact
from bridge.tasks.synthetic.splits import Rung, SyntheticOptions

MODULUS = 10
_NAMES = tuple("abcdefg")
_OPERATIONS = {"+": "plus", "-": "minus", "*": "times"}


class ChainsOptions(SyntheticOptions):
    """Options of the ``chains`` family."""

    demonstration_max_steps: int = Field(4, ge=2, le=5)


@dataclass(frozen=True)
class _Chain:
    first: int
    operations: tuple[tuple[str, int], ...]

    @property
    def steps(self) -> int:
        return len(self.operations)

    def values(self) -> list[int]:
        value, out = self.first, []
        for operation, operand in self.operations:
            value = _apply(operation, value, operand)
            out.append(value)
        return out

    @property
    def answer(self) -> int:
        return self.values()[-1]

    def canonical(self) -> str:
        """Symbol form: a chain and its worded twin fall into the same split."""
        return self.question(worded=False)

    def question(self, *, worded: bool) -> str:
        be, sep = ("is", ",") if worded else ("=", ";")
        parts = []
        previous = str(self.first)
        for name, (operation, operand) in zip(_NAMES, self.operations, strict=False):
            sign = _OPERATIONS[operation] if worded else operation
            parts.append(f"{name} {be} {previous} {sign} {operand}")
            previous = name
        return f"mod {MODULUS} : " + f" {sep} ".join(parts) + f" {sep} find {previous}"

    def reasoning(self, write: Writer = exact) -> str:
        """Step by step text; a wrong value of the writer is carried on."""
        value, parts = self.first, []
        for name, (operation, operand) in zip(_NAMES, self.operations, strict=False):
            result = write(operation, value, operand, _apply(operation, value, operand))
            parts.append(f"{name} = {value} {operation} {operand} = {result}")
            value = result
        return " ; ".join(parts) + f" ; \\boxed{{ {value} }}"


def _apply(operation: str, left: int, right: int) -> int:
    if operation == "+":
        return (left + right) % MODULUS
    if operation == "-":
        return (left - right) % MODULUS
    return (left * right) % MODULUS


class Chains(Synthetic[_Chain]):
    """The ``chains`` family, see the module docstring."""

    name = "chains"
    Options = ChainsOptions
    # Sizes of MATH500, Minerva, OlympiadBench, AIME24 and AMC23.
    rungs: ClassVar = {
        "rung1": Rung((2, 3), False, 500),
        "rung2": Rung((4, 5), False, 272),
        "rung3": Rung((3, 4, 5), True, 675),
        "rung4": Rung((6,), False, 30),
        "rung5": Rung((7,), False, 40),
    }
    trained_steps = (2, 3, 4, 5)
    reasoning_share: ClassVar = {1: 0.70, 2: 0.62, 3: 0.34, 4: 0.26, 5: 0.20, 6: 0.15, 7: 0.12}
    guess_right = 0.2
    misconceived_share = 0.30

    def draw(self, rng: random.Random, steps: int) -> _Chain:
        operations = tuple((rng.choice("+-*"), rng.randint(1, 9)) for _ in range(steps))
        return _Chain(rng.randint(0, 9), operations)

    def alter(self, result: int, choice: int) -> int:
        return (result + 1 + choice % (MODULUS - 1)) % MODULUS

    def blind_guess(self, rng: random.Random, drawn: _Chain) -> int:
        return rng.randrange(MODULUS)

    def vocabulary(self) -> tuple[str, ...]:
        digits = tuple(str(d) for d in range(MODULUS))
        words = ("mod", "10", ":", ";", ",", "=", "is", "find", "\\boxed{", "}")
        return digits + words + tuple(_OPERATIONS) + tuple(_OPERATIONS.values()) + _NAMES


FAMILY = Chains()
