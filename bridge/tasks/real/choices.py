"""Multiple-choice questions in an order of options that depends on nothing but their texts.

Collections of GPQA shuffle its four options each in their own way. In one fixed order all copies
are the same questions, and no gold letter is more frequent because the right option came first.
"""

from __future__ import annotations

import hashlib
import re

from bridge.tasks.base import ProblemError

LETTERS = "ABCD"
_OPTIONS = re.compile(
    r"\A(.*)\n+A\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\Z",
    re.DOTALL,
)


def in_fixed_order(problem: str, answer: str) -> tuple[str, str]:
    """Return question and gold letter with the options sorted by a hash of question and option.

    Raises:
        ProblemError: the text does not end in options A to D, or the gold is no such letter.
    """
    match = _OPTIONS.match(problem)
    if match is None or answer not in LETTERS:
        raise ProblemError(
            f"not a question with options A to D and a gold letter: {problem[:60]!r}; drop it."
        )
    stem, *options = (part.strip() for part in match.groups())
    gold = options[LETTERS.index(answer)]
    ordered = sorted(options, key=lambda o: hashlib.sha256(f"{stem}\n{o}".encode()).digest())
    listed = "\n".join(f"{letter}. {o}" for letter, o in zip(LETTERS, ordered, strict=True))
    return f"{stem}\n\n{listed}", LETTERS[ordered.index(gold)]
