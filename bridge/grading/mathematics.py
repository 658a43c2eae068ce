r"""Compares one answer with one gold answer by math-verify, after bringing both into one spelling.

What is decided here and not by the library, because it errs there (docs/grading.md has the list):
numbers agree to a relative tolerance, letters keep their case, words are words, a percentage is its
number or its hundredth, an inequality has to be solved and a number worked out. Left out:
math-verify's search for bare numbers in prose, which reads ``5`` out of LaTeX it cannot parse.
"""

import logging
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from bridge.grading.plain import plain, split_top, squeezed, without_fonts
from bridge.grading.points import points_verdict
from bridge.grading.quantities import Based, Quantity, in_base, quantity, side_by_side
from bridge.grading.solutions import (
    INEQUALITY,
    Solved,
    plain_number,
    round_brackets,
    solved,
    unfinished,
    without_member,
)

Reply = dict[str, str | bool]

_ABSOLUTE_DECIMALS: Final = 6
"""The rounding that golds in decimals need: 0.333333 is 1/3."""
_RELATIVE: Final = 1e-5
"""What two numbers may differ by when one is a decimal: 0 is not 7.4e-12."""
_SMALLEST_ROUNDED: Final = 1e-4
_DIGITS: Final = 50
_RELATIVE_EXACT: Final = 1e-30

_NAMED_INDEX: Final = re.compile(r"_\{?\s*\\(max|min|odot)(?![A-Za-z])\s*\}?")
_EULER_INDEX: Final = re.compile(r"(?<![A-Za-z\\])E(?=_)")
_SEPARATOR: Final = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*"
)
_SMALL_WORDS: Final = re.compile("no|on|of|or|in|it|is|by|do|go|he|if|so|to|up|us|we|ox|ok")
_LETTERS: Final = re.compile(r"[A-Za-z]+")
_PROSE: Final = re.compile(r"[A-Za-z0-9\s.,;:'\-()/&]+")


@dataclass(frozen=True)
class Reading:
    """One text, read once; what it means is asked for when needed."""

    text: str

    @cached_property
    def plain(self) -> str:
        return plain(self.text)

    @cached_property
    def based(self) -> Based | None:
        return in_base(self.plain)

    @cached_property
    def solved(self) -> Solved | None:
        return solved(self.plain)

    @cached_property
    def inequality(self) -> bool:
        return bool(INEQUALITY.search(self.plain))

    @cached_property
    def parts(self) -> list[Quantity]:
        """The members of a list, or the one value; units and percent signs taken off."""
        listed = _SEPARATOR.sub(",", round_brackets(without_member(self.plain)))
        return [quantity(part) for part in split_top(listed)]

    @property
    def core(self) -> str:
        return ",".join(part.core for part in self.parts)

    @property
    def percent(self) -> bool:
        return any(part.percent for part in self.parts)

    @property
    def unusable(self) -> bool:
        """Whether it is no answer to anything but itself: talk, or numbers side by side."""
        return any(part.talk or side_by_side(part.core) for part in self.parts)

    @property
    def unfinished(self) -> bool:
        return any(unfinished(split_top(part.core, "=")[-1]) for part in self.parts)

    @cached_property
    def prose(self) -> str | None:
        """Letters, digits and stops in lower case without spaces; None with mathematics in it."""
        bare = without_fonts(self.plain).strip()
        if not _PROSE.fullmatch(bare) or bare[:1].isdigit():
            return None
        return re.sub(r"[\s.]+", "", bare).casefold()

    @property
    def words(self) -> bool:
        """Whether it is words and not mathematics."""
        bare = without_fonts(self.plain)
        return self.prose is not None and any(_is_word(run) for run in _LETTERS.findall(bare))


def _is_word(letters: str) -> bool:
    """Whether a run of letters is a word or a name rather than a product of symbols.

    It cannot be told for certain. Words have a vowel and three letters, or are among the usual ones
    of two; three capitals are a name, of a triangle or of truth values, whose order matters.
    """
    if len(letters) < 3:
        return bool(_SMALL_WORDS.fullmatch(letters))
    return letters.isupper() or bool(set(letters.casefold()) & set("aeiou"))


def _refused(gold: Reading, answer: Reading) -> bool:
    """Whether an answer that can be read is none: talk, not worked out, or of another kind."""
    if answer.unusable or gold.unusable:
        return True
    if answer.inequality and not answer.solved and (gold.solved or not gold.inequality):
        return True
    if plain_number(gold.core) and not answer.inequality and answer.unfinished:
        return True
    if gold.solved and answer.solved:
        return gold.solved.variable != answer.solved.variable
    # math-verify reads (1, 2) as an interval or as a set.
    return {brackets(gold.core), brackets(answer.core)} == {"ordered", "set"}


class Comparison:
    """math-verify, loaded once and warmed up. Needs the main thread of a process of its own."""

    def __init__(self) -> None:
        import sympy
        from latex2sympy2_extended import latex2sympy2 as latex
        from math_verify import grader, parser

        # It logs the whole text of whatever it cannot read.
        logging.disable(logging.CRITICAL)
        self._sympy, self._latex, self._parser, self._grader = sympy, latex, parser, grader
        # The library's own repairs of LaTeX, but for units: those are taken off before.
        self._repairs = replace(
            parser.LatexExtractionConfig().normalization_config, units=False, boxed="none"
        )
        self._conversion = latex.ConversionConfig(lowercase_symbols=False)
        # The two comparisons that the library makes wrongly, wherever it makes them: in sets,
        # tuples, intervals and matrices too.
        grader.sympy_numeric_eq = self._numbers_equal
        grader.sympy_compare_symbols = lambda gold, answer: str(gold) == str(answer)
        self.judge(r"\frac{1}{2}", "0.5")

    def judge(self, gold: str, answer: str) -> Reply:
        """Verdict on ``answer``: ``correct``, ``wrong``, ``unparsed``, ``timeout`` (memory)."""
        try:
            if (points := points_verdict(gold, answer)) is not None:
                return {"verdict": points}
        except ValueError:
            return {"gold_unreadable": True}
        reference, candidate = Reading(gold), Reading(answer)
        # A gold that ends in a backslash was cut off or escaped wrongly: nobody knows what it was.
        if not reference.plain or gold.rstrip().endswith("\\"):
            return {"gold_unreadable": True}
        try:
            return {"verdict": self._verdict(reference, candidate)}
        except MemoryError:
            return {"verdict": "timeout", "exhausted": True}

    def _verdict(self, gold: Reading, answer: Reading) -> str:
        if squeezed(gold.plain) == squeezed(answer.plain):
            return "correct"
        if gold.words and answer.prose is not None:
            return "correct" if gold.prose == answer.prose else "wrong"
        if gold.based or answer.based:
            return "correct" if self._same_number_in_base(gold, answer) else "wrong"
        reference, candidate = self._set(gold), self._set(answer)
        if reference is not None and candidate is None:
            return "unparsed"
        if reference is None or candidate is None or _refused(gold, answer):
            return "wrong"
        equal = self._same(reference, candidate) or self._as_percentages(
            gold, answer, reference, candidate
        )
        return "correct" if equal else "wrong"

    def _same_number_in_base(self, gold: Reading, answer: Reading) -> bool:
        if gold.based and answer.based:
            return gold.based == answer.based
        if gold.based:  # the question asks for the digits
            return gold.based.digits == answer.core.upper().lstrip("0")
        assert answer.based
        return self._any_equal([gold.core], [str(answer.based.value)])

    def _as_percentages(
        self, gold: Reading, answer: Reading, reference: Any, candidate: Any
    ) -> bool:
        """Whether the hundredth of the one with a percent sign is the other: 12.5% and 0.125."""
        if gold.percent == answer.percent:
            return False
        percentage = gold if gold.percent else answer
        hundredth = self._expression(rf"\frac{{{percentage.core}}}{{100}}")
        if hundredth is None:
            return False
        pair = (hundredth, candidate) if gold.percent else (reference, hundredth)
        return self._same(*pair)

    def _set(self, reading: Reading) -> Any:
        """The set that a solved inequality describes; else the expression that the text is."""
        if reading.solved is None:
            return self._expression(reading.core)
        intervals = [self._expression(interval) for interval in reading.solved.intervals]
        if any(interval is None for interval in intervals):
            return None
        union = self._sympy.Union(*intervals)
        both = reading.solved.joint == "and"
        # "x > 2, x < 3" is not everything: the comma of two conditions, not of two cases.
        both |= reading.solved.joint == "," and union == self._sympy.S.Reals
        return self._sympy.Intersection(*intervals) if both else union

    def _expression(self, text: str) -> Any:
        """What math-verify makes of a plain text; None where it makes nothing."""
        # Names that it cannot read: an operator as an index, and E with an index.
        text = _EULER_INDEX.sub(r"\\Xi", _NAMED_INDEX.sub(r"_{\1}", text))
        repaired = self._latex.normalize_latex(text, self._repairs)
        for attempt in dict.fromkeys((repaired, self._parser.get_last_eq(repaired))):
            try:
                read = self._latex.latex2sympy(
                    attempt,
                    is_real=True,
                    normalization_config=None,
                    conversion_config=self._conversion,
                )
                unit = self._sympy.Symbol("i", real=True)
                return read.xreplace({unit: self._sympy.I}) if read.has(unit) else read
            except MemoryError:
                raise
            except Exception:  # sympy and antlr raise nearly every class there is on odd input
                continue
        return None

    def _same(self, gold: Any, answer: Any) -> bool:
        """Whether two expressions are equal. Not symmetric: the gold's form decides."""
        try:
            return bool(
                self._grader.verify(gold, answer, timeout_seconds=None, raise_on_error=True)
            )
        except MemoryError:
            raise
        except Exception:  # what sympy cannot compare is not shown to be equal
            return False

    def _any_equal(self, golds: list[str], answers: list[str]) -> bool:
        pairs = [
            (self._expression(gold), self._expression(answer))
            for gold in golds
            for answer in answers
        ]
        return any(g is not None and a is not None and self._same(g, a) for g, a in pairs)

    def _numbers_equal(self, gold: Any, answer: Any, *_: int) -> bool:
        """Whether two numbers, or two matrices of numbers, agree as closely as they are written.

        Decimals agree to six places and to 1e-5 of their size, exact numbers to 30 digits. For an
        exact gold of 1e-4 or more, a decimal need only agree to six places.
        """
        gold, answer = self._grader.safe_sympy_doit(gold), self._grader.safe_sympy_doit(answer)
        if isinstance(gold, self._sympy.MatrixBase) and isinstance(answer, self._sympy.MatrixBase):
            return gold.shape == answer.shape and all(
                self._grader.sympy_expr_eq(g, a, _ABSOLUTE_DECIMALS, _DIGITS)
                for g, a in zip(gold.flat(), answer.flat(), strict=True)
            )
        if gold.free_symbols or answer.free_symbols or gold == answer:
            return bool(gold == answer)
        if gold.is_Rational and answer.is_Rational:
            return False
        decimal = gold.has(self._sympy.Float) or answer.has(self._sympy.Float)
        values = [side.evalf(_DIGITS) for side in (gold, answer)]
        if not all(value.is_finite for value in values):
            return False
        size = max(abs(value) for value in values)
        apart = abs(values[0] - values[1])
        if not decimal:
            return bool(apart <= _RELATIVE_EXACT * max(size, self._sympy.Rational(1, 10**10)))
        if apart <= 1e-12 * size:
            return True
        rounded = [value.round(_ABSOLUTE_DECIMALS) for value in values]
        # An exact gold may be rounded to six places while these hold three of its digits.
        enough = not gold.has(self._sympy.Float) and size >= _SMALLEST_ROUNDED
        return bool(rounded[0] == rounded[1] and (enough or apart <= _RELATIVE * size))


_SIZES: Final = re.compile(r"\s")


def brackets(answer: str) -> str:
    """``ordered`` for what stands in round or square brackets, ``set`` for braces, else nothing."""
    bare = _SIZES.sub("", answer)
    if "," not in bare:
        return ""
    if bare.startswith(("(", "[")) and bare.endswith((")", "]")):
        return "ordered"
    return "set" if bare.startswith("\\{") and bare.endswith("\\}") else ""
