r"""Verdicts on GeneralPoints: an expression that reaches a target with each card used once.

A gold answer of the form ``make 24 : ( 1 + 3 ) * 6`` states the target and, by one solution, the
cards: the numbers 1, 3 and 6. Correct is every expression over exactly these numbers that has that
value, whatever its form; any other gold gives None, and the mathematics decides.

An answer may repeat ``make 24 :`` in front or end in ``= 24``. Arithmetic is exact (fractions), so
``8 / ( 3 - 8 / 3 )`` is 24. Signs are ``+ - * /`` and their LaTeX or Unicode spellings; nothing
else is read: no powers, no unary minus, no decimals, no letters of cards. Nothing is computed
before the numbers are found to be the cards, so the cost of an answer is bounded by its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from operator import add, mul, sub, truediv
from typing import Final, NamedTuple

from bridge.grading.verdicts import Verdict

_GOLD: Final = re.compile(r"make ([0-9]{1,6}) : ([0-9+*/() -]+)")
_STATED: Final = re.compile(r"\s*+(?:make\s++([0-9]{1,6})\s*+:)?([^=]*+)(?:=\s*+([0-9]{1,6})\s*+)?")
_SPELLINGS: Final = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\left": "",
    r"\right": "",
    "\u00d7": "*",
    "\u00b7": "*",
    "\u00f7": "/",
    "\u2212": "-",
}
_SPELLED: Final = re.compile(
    r"\\(?:times|cdot|div|left|right)(?![A-Za-z])|[\u00d7\u00b7\u00f7\u2212]"
)
_TOKEN: Final = re.compile(r"[0-9]++|[-+*/(){}]|\\[dt]?frac(?![A-Za-z])")
_TOKENS: Final = re.compile(rf"(?:\s*+(?:{_TOKEN.pattern}))++\s*+")
_STEPS: Final = {"+": add, "-": sub, "*": mul, "/": truediv}
_DEPTH: Final = 32
"""Nested brackets that are read; four cards need three."""


class _NotRead(ValueError):
    """The text is no expression of the kind above."""


class _Read(NamedTuple):
    """An expression: its numbers, and its steps in postfix order (a number or a sign each)."""

    numbers: tuple[int, ...]
    postfix: tuple[int | str, ...]


def points_verdict(gold: str, answer: str) -> Verdict | None:
    """Judge an expression; None where the gold answer is not of the form ``make 24 : ...``.

    Raises:
        ValueError: the gold is of that form, but does not reach its own target.
    """
    stated = _GOLD.fullmatch(gold.strip())
    if stated is None:
        return None
    target, solution = int(stated[1]), _read(stated[2])
    if _value(solution) != target:
        raise ValueError(f"the gold answer '{gold}' does not reach {target}")
    parts = _STATED.fullmatch(answer)
    if parts is None:
        return "unparsed"
    try:
        found = _read(parts[2])
    except _NotRead:
        return "unparsed"
    if any(said is not None and int(said) != target for said in (parts[1], parts[3])):
        return "wrong"
    if sorted(found.numbers) != sorted(solution.numbers):
        return "wrong"
    return "correct" if _value(found) == target else "wrong"


def _read(text: str) -> _Read:
    """The expression of a text.

    Raises:
        _NotRead: there is none.
    """
    plain = _SPELLED.sub(lambda spelled: _SPELLINGS[spelled[0]], text)
    if not _TOKENS.fullmatch(plain):
        raise _NotRead
    reader = _Reader(_TOKEN.findall(plain))
    reader.sum(0)
    if reader.tokens:
        raise _NotRead
    return _Read(tuple(n for n in reader.postfix if isinstance(n, int)), tuple(reader.postfix))


class _Reader:
    """Recursive descent, to ``_DEPTH`` and no further."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]
        """What is left, the next one last."""
        self.postfix: list[int | str] = []

    def sum(self, depth: int) -> None:
        self._chain("+-", self._product, depth)

    def _product(self, depth: int) -> None:
        self._chain("*/", self._factor, depth)

    def _chain(self, signs: str, part: Callable[[int], None], depth: int) -> None:
        part(depth)
        while self.tokens and self.tokens[-1] in signs:
            sign = self.tokens.pop()
            part(depth)
            self.postfix.append(sign)

    def _factor(self, depth: int) -> None:
        token = self.tokens.pop() if self.tokens else ""
        if token.isdigit():
            self.postfix.append(int(token))
        elif token == "(":
            self._inside(")", depth)
        elif token.endswith("frac"):
            for _ in range(2):
                self._expect("{")
                self._inside("}", depth)
            self.postfix.append("/")
        else:
            raise _NotRead

    def _inside(self, closing: str, depth: int) -> None:
        if depth == _DEPTH:
            raise _NotRead
        self.sum(depth + 1)
        self._expect(closing)

    def _expect(self, token: str) -> None:
        if not self.tokens or self.tokens.pop() != token:
            raise _NotRead


def _value(read: _Read) -> Fraction | None:
    """Exact value; None after a division by zero."""
    stack: list[Fraction] = []
    for step in read.postfix:
        if isinstance(step, int):
            stack.append(Fraction(step))
            continue
        right, left = stack.pop(), stack.pop()
        if step == "/" and not right:
            return None
        stack.append(_STEPS[step](left, right))
    return stack[0]
