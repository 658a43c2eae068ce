r"""Solved inequalities as intervals, and what is not the final form of a number.

Boxing the inequality or the formula of the question must not earn the reward: ``3x+4>10`` is not
the interval that solves it, and ``513^2 - 487^2`` is not the number it comes to. Standard library
only.
"""

import re
from dataclasses import dataclass
from typing import Final

from bridge.grading.plain import split_top

INEQUALITY: Final = re.compile(r"<|>|\\(?:le|ge)(?![A-Za-z])")
_SIGN: Final = re.compile(r"(<\s*=?|>\s*=?|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_VARIABLE: Final = re.compile(
    r"(?:[A-Za-z]|\\(?!pi|infty|sqrt|frac)[A-Za-z]+)(?:_\{?[A-Za-z0-9]+\}?)?(?:\([A-Za-z]\))?"
)
_NUMBER_COMMANDS: Final = re.compile(r"\\(?:frac|sqrt|pi|infty|cdot|times)(?![A-Za-z])")
_MEMBER: Final = re.compile(rf"^({_VARIABLE.pattern})\s*\\in(?![A-Za-z])\s*(?=[\[\](\\])")
_BUILDER: Final = re.compile(
    rf"^\\\{{\s*({_VARIABLE.pattern})(?:\s*\\in\s*\\mathbb\s*\{{?R\}}?)?\s*(?:\\mid|\||:)(.+)\\\}}$"
)
_JOINTS: Final = re.compile(
    r"\s*(?P<or>,?\s*(?:\\text\s*\{\s*,?\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\lor(?![A-Za-z])"
    r"|\\vee(?![A-Za-z])|\\cup(?![A-Za-z])))\s*"
    r"|\s*(?P<and>,?\s*(?:\\text\s*\{\s*,?\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\land(?![A-Za-z])"
    r"|\\wedge(?![A-Za-z])|\\cap(?![A-Za-z])))\s*"
)
_REVERSED: Final = re.compile(r"^([\[\](])([^\[\]()]+,[^\[\]()]+)([\[\])])$")


@dataclass(frozen=True, slots=True)
class Solved:
    """Intervals in LaTeX and how they are joined."""

    variable: str
    intervals: tuple[str, ...]
    joint: str
    """``or``, ``and``; ``,`` where the text has a comma: the union unless that is everything."""


def solved(text: str) -> Solved | None:
    """An inequality with the variable alone between numbers, or several; None for all else."""
    if builder := _BUILDER.match(text):
        text = builder[2].strip()
    joints = {kind for found in _JOINTS.finditer(text) for kind in ("or", "and") if found[kind]}
    if len(joints) > 1 or not INEQUALITY.search(text):
        return None
    parts = _JOINTS.sub("\n", text).split("\n")
    if not joints and len(parts) == 1:
        parts = split_top(text)
    found = [_interval(part.strip()) for part in parts]
    if any(one is None for one in found):
        return None
    pairs = [one for one in found if one is not None]
    if len({variable for variable, _ in pairs}) > 1:
        return None
    joint = joints.pop() if joints else ","
    return Solved(pairs[0][0], tuple(interval for _, interval in pairs), joint)


def _interval(text: str) -> tuple[str, str] | None:
    """Variable and interval of one chain: ``x>2``, ``2<x``, ``1<x\\le 2``."""
    pieces = _SIGN.split(text)
    if len(pieces) not in (3, 5):
        return None
    sides, signs = (
        [piece.strip() for piece in pieces[::2]],
        [piece.strip() for piece in pieces[1::2]],
    )
    rising = [sign.startswith(("<", r"\le")) for sign in signs]
    closed = [sign.endswith("=") or sign.startswith("\\") for sign in signs]
    if len(sides) == 3:
        if len(set(rising)) > 1 or not _VARIABLE.fullmatch(sides[1]):
            return None
        ends, shut = (
            ([sides[0], sides[2]], closed) if rising[0] else ([sides[2], sides[0]], closed[::-1])
        )
        return sides[1], _written(ends, shut)
    variable_first = bool(_VARIABLE.fullmatch(sides[0]))
    variable, bound = sides if variable_first else sides[::-1]
    if not _VARIABLE.fullmatch(variable) or re.search("[A-Za-z]", _NUMBER_COMMANDS.sub("", bound)):
        return None
    below = rising[0] == variable_first
    if below:
        return variable, _written([r"-\infty", bound], [False, closed[0]])
    return variable, _written([bound, r"\infty"], [closed[0], False])


def _written(ends: list[str], closed: list[bool]) -> str:
    return f"{'[' if closed[0] else '('}{ends[0]},{ends[1]}{']' if closed[1] else ')'}"


def without_member(text: str) -> str:
    r"""``x \in [1,2]`` as ``[1,2]``."""
    return _MEMBER.sub("", text)


def round_brackets(text: str) -> str:
    """The brackets ``]2,5[`` of an open interval as ``(2,5)``, in each part of a union."""
    parts = re.split(r"(\s*\\cup(?![A-Za-z])\s*)", text)
    return "".join(_rounded(part) for part in parts)


def _rounded(part: str) -> str:
    found = _REVERSED.match(part)
    if not found or not (found[1] == "]" or found[3] == "["):
        return part
    return (
        ("(" if found[1] == "]" else found[1]) + found[2] + (")" if found[3] == "[" else found[3])
    )


_PLAIN_GOLD: Final = re.compile(
    r"(?:[-+0-9.,/%\s()\[\]]|\\[{}]|\\frac\s*\{\s*-?[0-9]+\s*\}\s*\{\s*-?[0-9]+\s*\}"
    r"|\\frac ?[0-9] ?[0-9]|\\(?:times|cdot)\s*10\s*\^\s*\{-?[0-9]+\})+"
)
_POWER_OF_TEN: Final = re.compile(
    r"(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*[-+]?[0-9]+\s*\}|[0-9])"
)
_OPERATION: Final = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim|limsup|liminf|det|gcd|lcm|max|min|inf|sup|lceil|rceil|lfloor|rfloor"
    r"|binom|tbinom|dbinom|choose|log|ln|lg|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh"
    r"|tanh|operatorname|bmod|mod|pmod|begin|times|cdot|div|circ|deg|arg|phi|varphi|sigma|tau|star"
    r"|overline\s*\{[A-Za-z]|underbrace|lvert|cdots|ldots|dots|dotsb|dotsc)(?![A-Za-z])"
    r"|[*|+]|(?<=[0-9A-Za-z)}!\]])\s*-|\)\s*\(|[0-9]\s*\(|\)\s*[0-9]"
)


def plain_number(text: str) -> bool:
    """Whether a gold is a number in digits, or a list, a pair or an interval of such."""
    return bool(_PLAIN_GOLD.fullmatch(text)) and bool(re.search("[0-9]", text))


def unfinished(text: str) -> bool:
    """Whether an answer still has to be worked out: a sum, a product, a limit, a function's value.

    Powers of ten behind a number, fractions, roots, powers and factorials are final forms.
    """
    return bool(_OPERATION.search(_POWER_OF_TEN.sub("", text)))
