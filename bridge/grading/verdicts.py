"""The words a grader may say, its inputs, limits and version.

Left out: any number. A verdict is a word; turning words into rewards is the business of the method
and of the evaluation, so that "could not be graded" is never mistaken for a score of 0.
"""

import re
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Final, Literal, get_args

Verdict = Literal["correct", "wrong", "unparsed", "timeout", "truncated"]
"""What can be said of one answer.

- ``correct``, ``wrong``: the answer was read and compared with the gold answer.
- ``unparsed``: the text ended by itself but holds no answer that can be read: no box, a box longer
  than ``GraderLimits.answer_chars``, or content of which math-verify makes no expression although
  the gold answer is one.
- ``timeout``: judging the answer cost more than the limits allow. An answer that exhausts the
  worker's memory or crashes its interpreter counts here too, and so does one that took over half
  the memory without being shown to be right (sympy hides a failed allocation and goes on).
- ``truncated``: the text was cut at the token limit before a complete box. A cut text that does
  hold a complete final box is graded like any other.

An infrastructure failure is none of these; it is a ``GraderError``.
"""

VERDICTS: Final[frozenset[Verdict]] = frozenset(get_args(Verdict))

# Raise the revision with every change of extraction, wrapping or comparison: it is in the cache
# key, and a regraded answer can be told from an old one by it.
_REVISION: Final = 4

GRADER_VERSION: Final[str] = "+".join(
    [f"bridge-{_REVISION}"]
    + [f"{name}-{version(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy")]
)
"""Names everything a verdict depends on: our revision and the versions of the three libraries."""


class GraderError(RuntimeError):
    """Grading failed through no fault of the answer, so there is no verdict to give."""


@dataclass(frozen=True, slots=True)
class GradeItem:
    """One text to judge.

    Raises ``ValueError`` for an empty gold answer: everything would be wrong against it.
    """

    text: str
    """What the model wrote, whole. Untrusted."""
    gold: str
    """The gold answer, without a box; dollar signs around it are allowed."""
    truncated: bool = False
    """Whether generation stopped at the token limit."""
    thinking: bool = False
    """Whether the prompt opened a block of thinking that the text begins in."""
    question: str = ""
    """What was asked; only a reward function of the user's is told."""

    def __post_init__(self) -> None:
        if not self.gold or not self.gold.strip():
            raise ValueError(
                "the gold answer is empty: drop this question from the data set, "
                "or repair its 'answer' field"
            )


@dataclass(frozen=True, slots=True)
class Graded:
    """A verdict and what it was given for."""

    verdict: Verdict
    extracted: str | None
    """Content of the last box; None when there is none, or when it exceeds the length cap."""
    score: float | None = None
    """What a reward function of the user's returned, from 0 to 1; None where there is no such."""

    @property
    def worth(self) -> float:
        """The score; without one 1 for a correct answer and 0 for any other."""
        return float(self.verdict == "correct") if self.score is None else self.score


@dataclass(frozen=True, slots=True)
class GraderLimits:
    """What one answer may cost, and how many are judged at once."""

    time_s: float = 5.0
    """Processor seconds for one answer, measured by the parent; then its worker is killed. A worker
    that does not get the processor is killed after four times as long by the clock."""
    memory_gib: float = 1.375
    """Address space of one worker (``RLIMIT_AS``). The default is 1.48e9 bytes, so that a worker
    never holds 1.5 GB. Enforced on Linux only: macOS does not honour this limit."""
    answer_chars: int = 2_000
    """Longest answer that is read. Ten times the longest gold answer of MATH, Minerva and
    OlympiadBench (210)."""
    workers: int = 1
    """Worker processes. While an answer has used half its time, one more may stand by for each."""
    startup_s: float = 120.0
    """Seconds a worker may take to import math-verify; more is an infrastructure failure."""
    cache_entries: int = 100_000
    """Verdicts remembered in this process, least recently used dropped first (about 20 MB)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(
                    f"GraderLimits.{field.name} is {getattr(self, field.name)!r}; "
                    "it must be greater than 0"
                )


# [0-9] and not \d: int() also reads Arabic-Indic and other digits, math-verify need not. Fifteen
# digits, because math-verify compares numbers at 15 digits of precision.
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}")
_ASCII_SPACE: Final = " \t\r\n"


def integer_verdict(gold: str, extracted: str) -> Verdict | None:
    """Judge two plain integers without a worker; None when either is anything else.

    Plain means an optional ASCII minus sign and 1 to 15 ASCII digits between ASCII white space. On
    such pairs, leading zeros and ``-0`` included, math-verify says the same; a test draws pairs.
    """
    gold, extracted = gold.strip(_ASCII_SPACE), extracted.strip(_ASCII_SPACE)
    if _INTEGER.fullmatch(gold) is None or _INTEGER.fullmatch(extracted) is None:
        return None
    return "correct" if int(gold) == int(extracted) else "wrong"
