r"""Verdicts that need no algebra: the letter of an option, and lists of knights and knaves.

The form of the gold answer decides: a lone capital letter is a choice, lines such as
``(1) Zoe is a knight`` are roles; for any other gold these functions say None, and the
mathematics decides. Both read the content of the final box only.
"""

from __future__ import annotations

import re
from typing import Final

from bridge.grading.verdicts import Verdict

_GOLD_LETTER: Final = re.compile(r"\(([A-J])\)|([A-J])")
# A letter by itself, in brackets, or before the text of its option; "A and B" is no choice, and
# neither is a word that begins with the letter.
_LETTER: Final = re.compile(
    r"(?:(?:option|choice|answer)\s*:?)?\s*\(?([A-Ja-j])\)?(?:\s*[.:)]\s*.*)?", re.I
)
_FONT: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf|bf|rm)(?![A-Za-z])|[{}$*]|\\[,;!: ]")

_ROLE: Final = re.compile(
    r"\b([A-Z][a-z]+)\s*(?:is|=|:|:=)\s*(?:(?:a|an|the)\s+)?(not\s+(?:a\s+)?)?(knight|knave)s?\b",
    re.I,
)


def choice_verdict(gold: str, answer: str) -> Verdict | None:
    """Judge the letter of an option; None where the gold answer is no single capital letter.

    The gold may be in brackets, ``(C)``, or in a font, ``\\text{(C)}``.
    """
    letter = _GOLD_LETTER.fullmatch(_FONT.sub("", gold).strip())
    if letter is None:
        return None
    match = _LETTER.fullmatch(" ".join(_FONT.sub("", answer).split()))
    if match is None:
        return "unparsed"
    return "correct" if match[1].upper() == (letter[1] or letter[2]) else "wrong"


def roles(text: str) -> dict[str, str] | None:
    """Name (capitalised) -> ``knight`` or ``knave``; None where a name is given both roles."""
    found: dict[str, str] = {}
    for name, negated, role in _ROLE.findall(" ".join(_FONT.sub("", text).split())):
        role = role.lower()
        if negated:
            role = "knave" if role == "knight" else "knight"
        if found.setdefault(name.capitalize(), role) != role:
            return None
    return found


def roles_verdict(gold: str, answer: str) -> Verdict | None:
    """Judge a list of roles; None where the gold answer is no such list.

    Correct is: everybody of the gold answer and nobody else, each with the right role, in any
    order. An answer that leaves somebody out or contradicts itself is wrong.
    """
    expected = roles(gold) if gold.lstrip().startswith("(1)") else None
    if not expected:
        return None
    found = roles(answer)
    if found is None:
        return "wrong"
    if not found:
        return "unparsed"
    return "correct" if found == expected else "wrong"
