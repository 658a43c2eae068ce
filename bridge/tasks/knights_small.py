r"""``knights_small``: Knights and Knaves, generated, for the tiny models.

    Ann : Bob knave ; Bob : Ann knight and Cal knave ; Cal : if Ann knight then Bob knave
    try knight knight knight : false no , try knight knight knave : false no , ...
    ... , try knave knight knave : false true false yes ; \boxed{ (1) Ann is a knave (2) ... }

A knight's statement is true and a knave's is false; every puzzle has exactly one solution, found by
trying all assignments. The expert does just that: roles in the order of the people, then whether
what each says holds under them, up to the first statement that does not fit its speaker. People
with other names, or introduced in another order, make no other puzzle. Difficulty is the number of
people; in ``knights_worded`` they speak in words. :mod:`bridge.grading.logic` compares the roles.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from pydantic import Field

from bridge.tasks.synthetic.family import Synthetic
from bridge.tasks.synthetic.habits import Writer, exact
from bridge.tasks.synthetic.splits import Rung, SyntheticOptions

_NAMES: Final = ("Ann", "Bob", "Cal", "Dan", "Eve")
_KINDS: Final = ("is", "and", "or", "then", "same")
_SYMMETRIC: Final = ("and", "or", "same")
_PLAIN_SHARE: Final = 0.4
"""Share of statements about one person."""
Roles = tuple[bool, ...]
"""Whether each person is a knight."""


class KnightsSmallOptions(SyntheticOptions):
    """Options of the ``knights_small`` family."""

    slip: float = Field(0.03, ge=0.0, le=1.0)
    """Per statement looked at, of which a solution has several times as many as people."""
    demonstration_max_steps: int = Field(3, ge=3, le=3)


@dataclass(frozen=True)
class Claim:
    """That a person is a knight, or a knave."""

    person: int
    knight: bool

    def holds(self, roles: Roles) -> bool:
        return roles[self.person] == self.knight

    def text(self, *, worded: bool) -> str:
        role = "knight" if self.knight else "knave"
        return f"{_NAMES[self.person]} {'is a ' if worded else ''}{role}"


@dataclass(frozen=True)
class Statement:
    """One claim (``is``), or two that are joined: ``and``, ``or``, ``then`` (the first implies the
    second) or ``same`` (both hold or neither does)."""

    kind: str
    claims: tuple[Claim, ...]

    def holds(self, roles: Roles) -> bool:
        first, second = self.claims[0].holds(roles), self.claims[-1].holds(roles)
        match self.kind:
            case "and":
                return first and second
            case "or":
                return first or second
            case "then":
                return not first or second
            case "same":
                return first == second
        return first

    def moved(self, place: tuple[int, ...]) -> tuple[str, tuple[tuple[int, bool], ...]]:
        """With every person p called ``place[p]``; claims of a symmetric kind are in order."""
        claims = [(place[claim.person], claim.knight) for claim in self.claims]
        return self.kind, tuple(sorted(claims) if self.kind in _SYMMETRIC else claims)

    def text(self, *, worded: bool) -> str:
        first, *others = (claim.text(worded=worded) for claim in self.claims)
        if self.kind == "then":
            return f"if {first} then {others[0]}"
        joint = "exactly if" if self.kind == "same" and worded else self.kind
        return f" {joint} ".join((first, *others))


@dataclass(frozen=True)
class _Puzzle:
    statements: tuple[Statement, ...]
    """What each person says."""

    @property
    def steps(self) -> int:
        return len(self.statements)

    @property
    def answer(self) -> str:
        [solution] = solutions(self.statements)
        return _listed(solution)

    def canonical(self) -> str:
        """The least of the texts under all orders of the people."""
        n = len(self.statements)
        return min(
            str(sorted((place[p], s.moved(place)) for p, s in enumerate(self.statements)))
            for place in itertools.permutations(range(n))
        )

    def question(self, *, worded: bool) -> str:
        says, separator = (" says", " , ") if worded else (" :", " ; ")
        parts = zip(_NAMES, self.statements, strict=False)
        return separator.join(f"{name}{says} {said.text(worded=worded)}" for name, said in parts)

    def reasoning(self, write: Writer = exact) -> str:
        """Assignments up to the one that fits, or the last one, after a slip of the writer."""
        tries = []
        roles: Roles = ()
        for roles in assignments(self.steps):
            values = list(self._looked_at(roles, write))
            fits = len(values) == self.steps and values[-1] == roles[-1]
            tries.append(
                f"try {' '.join(_role(r) for r in roles)} : "
                f"{' '.join('true' if v else 'false' for v in values)} {'yes' if fits else 'no'}"
            )
            if fits:
                break
        return f"{' , '.join(tries)} ; \\boxed{{ {_listed(roles)} }}"

    def _looked_at(self, roles: Roles, write: Writer) -> Iterator[bool]:
        """Truth of the statements up to the first that does not fit its speaker."""
        for said, knight in zip(self.statements, roles, strict=True):
            first, *others = (int(claim.holds(roles)) for claim in said.claims)
            right = others[0] if others else first
            value = bool(write(said.kind, first, right, int(said.holds(roles))))
            yield value
            if value != knight:
                return


def assignments(people: int) -> Iterator[Roles]:
    """All roles of so many people, everybody a knight first."""
    return itertools.product((True, False), repeat=people)


def solutions(statements: tuple[Statement, ...]) -> list[Roles]:
    """The assignments under which knights, and only they, say what holds."""
    return [
        roles
        for roles in assignments(len(statements))
        if all(said.holds(roles) == knight for said, knight in zip(statements, roles, strict=True))
    ]


def _role(knight: bool) -> str:
    return "knight" if knight else "knave"


def _listed(roles: Roles) -> str:
    named = zip(_NAMES, roles, strict=False)
    return " ".join(f"({i}) {name} is a {_role(r)}" for i, (name, r) in enumerate(named, 1))


def _say(rng: random.Random, speaker: int, people: int) -> Statement:
    """A statement; one claim alone is about somebody else, two are about different people."""
    if rng.random() < _PLAIN_SHARE:
        others = [p for p in range(people) if p != speaker]
        return Statement("is", (Claim(rng.choice(others), rng.random() < 0.5),))
    pair = rng.sample(range(people), 2)
    return Statement(rng.choice(_KINDS[1:]), tuple(Claim(p, rng.random() < 0.5) for p in pair))


class KnightsSmall(Synthetic[_Puzzle]):
    """The ``knights_small`` family, see the module docstring."""

    name = "knights_small"
    Options = KnightsSmallOptions
    answer_tokens = 256
    rungs: ClassVar = {
        "knights_three": Rung((3,), worded=False, questions=200),
        "knights_worded": Rung((3,), worded=True, questions=200),
        "knights_four": Rung((4,), worded=False, questions=200),
    }
    trained_steps = (3,)
    reasoning_share: ClassVar = {2: 0.6, 3: 0.4, 4: 0.2}
    guess_right = 0.2
    misconceived_share = 0.12

    def draw(self, rng: random.Random, steps: int) -> _Puzzle:
        while True:
            statements = tuple(_say(rng, p, steps) for p in range(steps))
            if len(solutions(statements)) == 1:
                return _Puzzle(statements)

    def alter(self, result: int, choice: int) -> int:
        """The other truth value."""
        return 1 - result

    def blind_guess(self, rng: random.Random, drawn: _Puzzle) -> str:
        return _listed(tuple(rng.random() < 0.5 for _ in drawn.statements))

    def vocabulary(self) -> tuple[str, ...]:
        numbers = tuple(f"({i})" for i in range(1, len(_NAMES) + 1))
        words = ("knight", "knave", "is", "a", "says", "if", "exactly", "try", "true", "false")
        signs = (":", ";", ",", "yes", "no", "\\boxed{", "}")
        return _NAMES + numbers + words + signs + _KINDS[1:]


FAMILY = KnightsSmall()
