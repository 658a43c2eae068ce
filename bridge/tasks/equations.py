"""``equations``: linear equations with integer solutions, solved step by step.

    5 x + 3 = 2 x + 9
    3 x + 3 = 9 ; 3 x = 6 ; x = 2 ; \\boxed{ 2 }

Difficulty is the number of lines that an expert writes: 3 for ``a x + b = c x + d``, one more for
each further term that has to be gathered first (and 2 without an unknown on the right, which only
pre-training shows: there are too few such equations to keep splits of them apart). Neither the
letter of the unknown nor the order of the terms makes another equation. Habits of the base model,
scarcity and slips of the demonstrations follow the same plan as ``chains``;
``equations_rung3`` is worded, ``equations_rung4`` and ``equations_rung5`` are longer than anything
trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from bridge.tasks.synthetic.family import Synthetic
from bridge.tasks.synthetic.habits import Writer, exact
from bridge.tasks.synthetic.splits import Rung, SyntheticOptions

_UNKNOWNS = tuple("xyznt")
_LARGEST = 60


class EquationsOptions(SyntheticOptions):
    """Options of the ``equations`` family."""

    demonstration_max_steps: int = Field(3, ge=3, le=4)


@dataclass(frozen=True)
class _Equation:
    """``sum(left_x) u + sum(left_c) = sum(right_x) u + sum(right_c)`` with unknown ``u``."""

    unknown: str
    solution: int
    left_x: tuple[int, ...]
    left_c: tuple[int, ...]
    right_x: int
    right_c: tuple[int, ...]

    @property
    def answer(self) -> int:
        return self.solution

    @property
    def steps(self) -> int:
        gathered = len(self.left_x) + len(self.left_c) + len(self.right_c) - 3
        return 2 + (self.right_x > 0) + gathered

    def canonical(self) -> str:
        """Symbol form with a fixed letter and sorted terms: twins fall into the same split."""
        left_x, left_c, right_c = map(sorted, (self.left_x, self.left_c, self.right_c))
        return self._line(tuple(left_x), tuple(left_c), self.right_x, tuple(right_c), letter="x")

    def question(self, *, worded: bool) -> str:
        return "solve : " + self._line(
            self.left_x, self.left_c, self.right_x, self.right_c, worded=worded
        )

    def _line(
        self,
        left_x: tuple[int, ...],
        left_c: tuple[int, ...],
        right_x: int,
        right_c: tuple[int, ...],
        *,
        worded: bool = False,
        letter: str | None = None,
    ) -> str:
        times, plus, minus, equals = (
            (" times ", "plus", "minus", "is") if worded else (" ", "+", "-", "=")
        )

        def total(unknowns: tuple[int, ...], constants: tuple[int, ...]) -> str:
            text = f" {plus} ".join(f"{k}{times}{letter or self.unknown}" for k in unknowns)
            for c in constants:
                sign = (plus if c >= 0 else minus) if text else ""
                text += f" {sign} {abs(c)}"
            return text.strip()

        return f"{total(left_x, left_c)} {equals} {total((right_x,) if right_x else (), right_c)}"

    def reasoning(self, write: Writer = exact) -> str:
        """One line per step; a wrong number of the writer is carried on."""
        left_x, left_c, right_x, right_c = self.left_x, self.left_c, self.right_x, self.right_c
        lines = []

        def gather(terms: tuple[int, ...]) -> tuple[int, ...]:
            return (write("+", terms[0], terms[1], terms[0] + terms[1]), *terms[2:])

        while len(left_x) > 1:
            left_x = gather(left_x)
            lines.append(self._line(left_x, left_c, right_x, right_c))
        while len(left_c) > 1:
            left_c = gather(left_c)
            lines.append(self._line(left_x, left_c, right_x, right_c))
        while len(right_c) > 1:
            right_c = gather(right_c)
            lines.append(self._line(left_x, left_c, right_x, right_c))
        if right_x:
            # A wrong writer's numbers can run below one; it then goes on with one.
            left_x = (write("-", left_x[0], right_x, max(1, left_x[0] - right_x)),)
            lines.append(self._line(left_x, left_c, 0, right_c))
        total = write("-", right_c[0], left_c[0], max(1, right_c[0] - left_c[0]))
        lines.append(self._line(left_x, (), 0, (total,)))
        share = max(1, round(total / left_x[0]))
        answer = write("/", total, left_x[0], share)
        lines.append(f"{self.unknown} = {answer}")
        return " ; ".join(lines) + f" ; \\boxed{{ {answer} }}"


def _draw(rng: random.Random, steps: int) -> _Equation:
    """Draw an equation of the wanted number of steps whose numbers all stay in 1..60."""
    while True:
        solution, k = rng.randint(1, 9), rng.randint(1, 3)
        right_x = rng.randint(1, 9) if steps > 2 else 0
        extra = max(0, steps - 3)
        split_left_x = extra > 2
        left_total = k + right_x
        if split_left_x:
            if left_total < 2:
                continue
            first = rng.randint(1, left_total - 1)
            left_x: tuple[int, ...] = (first, left_total - first)
        else:
            left_x = (left_total,)
        left_c = tuple(rng.choice((-1, 1)) * rng.randint(1, 9) for _ in range(1 + (extra > 0)))
        right_total = k * solution + sum(left_c)
        if extra > 1:
            last = rng.randint(1, 9)
            right_c: tuple[int, ...] = (right_total - last, last)
        else:
            right_c = (right_total,)
        if sum(left_c) != 0 and all(1 <= c <= _LARGEST for c in right_c):
            return _Equation(rng.choice(_UNKNOWNS), solution, left_x, left_c, right_x, right_c)


class Equations(Synthetic[_Equation]):
    """The ``equations`` family, see the module docstring."""

    name = "equations"
    Options = EquationsOptions
    rungs: ClassVar = {
        "equations_rung1": Rung((3,), False, 500),
        "equations_rung2": Rung((4,), False, 272),
        "equations_rung3": Rung((3, 4), True, 675),
        "equations_rung4": Rung((5,), False, 30),
        "equations_rung5": Rung((6,), False, 40),
    }
    trained_steps = (3, 4)
    reasoning_share: ClassVar = {2: 0.36, 3: 0.30, 4: 0.24, 5: 0.17, 6: 0.12}
    guess_right = 0.25
    misconceived_share = 0.12

    def draw(self, rng: random.Random, steps: int) -> _Equation:
        return _draw(rng, steps)

    def alter(self, result: int, choice: int) -> int:
        """Off by one or two, never below one."""
        return result + (1, 2, -1, -2)[choice % (4 if result > 2 else 2)]

    def blind_guess(self, rng: random.Random, drawn: _Equation) -> int:
        return rng.randint(1, 9)

    def vocabulary(self) -> tuple[str, ...]:
        numbers = tuple(str(n) for n in range(_LARGEST + 20))
        words = ("solve", ":", "+", "-", "=", ";", "times", "plus", "minus", "is", "\\boxed{", "}")
        return numbers + words + _UNKNOWNS


FAMILY = Equations()
