r"""A number and what belongs to it: thousands, mixed fractions, percent, units, scale, base.

``quantity`` takes a plain text (see ``plain``) apart. Words behind a number are its unit, unless
they say something about the answer ("or maybe 4", "is wrong"): such a text is no answer. Standard
library only.
"""

import re
from dataclasses import dataclass
from typing import Final

from bridge.grading.plain import without_fonts

_GROUPS: Final = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9]| ?[/0-9])(?! *\\frac)")
_MIXED: Final = re.compile(r"(?<![0-9./}])([0-9]+) +([0-9]+) ?/ ?([0-9]+)(?![0-9.])")
_MIXED_FRACTION: Final = re.compile(r"(?<![0-9./}_^])([0-9]+) +(?=\\frac)")
_REPEATING: Final = re.compile(
    r"(?<![0-9.])([0-9]*)\.([0-9]*)\\overline\s*\{\s*([0-9]+)\s*\}(?![0-9])"
)
_DIGIT: Final = re.compile(r"[0-9]|\\\\(?:pi|sqrt|frac)")
_SIDE_BY_SIDE: Final = re.compile(r"[0-9] +[0-9]")
_SCIENTIFIC: Final = re.compile(
    r"(?<![0-9A-Za-z.\\_{])([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?[0-9]{1,4})(?![0-9A-Za-z.])"
)

# Names of functions and constants; every other run of letters is words.
_COMMAND_WORDS: Final = (
    "sqrt|pi|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|inf|infinity|infty|theta|frac"
    "|and|or|mod|lim|max|min|gcd|lcm|det"
)
_BARE_WORDS: Final = (
    rf"(?!(?:{_COMMAND_WORDS})(?![a-z]))(?:[A-Za-z]{{4,}}|per|day|hrs?|mins?|secs?|[cmkn]?m|[mk]?g"
    r"|km/h|m/s|ft|in|lbs?|oz|mph|kmh|USD|EUR|GBP|INR|Rs|men|cents?|pct|mL|cm|Hz|eV|kJ|kW|cal"
    r"|deg|rad|st|nd|rd|th|units?)(?![A-Za-z(_^])"
)
_TAIL: Final = re.compile(
    rf"\s*(?P<unit>\\frac\s*\{{\\text|\\text\s*\{{)|(?<=[0-9)}}%])(?: ?)(?P<bare>{_BARE_WORDS})"
)
_ORDINAL: Final = re.compile(r"^(?:st|nd|rd|th)(?![A-Za-z])")
_ORDINAL_POWER: Final = re.compile(
    r"(?<=[0-9])\s*\^\s*(?:\{\s*)?(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}?\s*\}?(?![A-Za-z])"
)
_SCALES: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE: Final = re.compile(rf"^(?:{'|'.join(_SCALES)})s?(?![A-Za-z])", re.IGNORECASE)
_PERCENT: Final = re.compile(
    r"^(?:per ?cent(?:age)?|pct|%)(?:\s+points?)?(?![A-Za-z])", re.IGNORECASE
)
_TALK: Final = re.compile(
    r"(?<![A-Za-z])(?:is|isn|are|aren|was|were|be|been|not|no|nor|neither|never|none|wrong|right|correct"
    r"|incorrect|false|true|or|but|unless|except|maybe|perhaps|possibl[ey]|probably|likely|guess"
    r"|could|might|may|should|would|can|cannot|if|else|either|instead|otherwise|plus|minus|times"
    r"|although|though|whereas|versus|vs|approximately|about|i|we|you|it|think|believe|sure|unsure"
    r"|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|half)(?![A-Za-z])"
    r"|[?!]",
    re.IGNORECASE,
)
_POWER: Final = re.compile(r"\^\s*\{?\s*-?\s*[0-9]\s*\}?|(?<=[a-z])[23](?![0-9])")
_UNIT_LEFT: Final = re.compile(
    r"[A-Za-z\s./·'°$%(),{}-]|\\(?:frac|cdot|times|mu|Omega|degree)(?![A-Za-z])|\\"
)

_BASE: Final = re.compile(
    r"^([-+]?)\(?\s*([0-9A-Fa-f ]+?)\s*\)?\s*_\s*\{?\s*\(?\s*(?:\\text\s*\{\s*(?:base\s*)?)?"
    r"([0-9]{1,2}|[a-z]+)\s*\}?\s*\)?\s*\}?$"
)
_BASE_WORDS: Final = re.compile(
    r"^([-+]?)([0-9A-Fa-f]+) *(?:\\text\s*\{)? *\(?(?:in )?base[- ]([0-9]{1,2}|[a-z]+)\)? *\}?$"
)
_NUMBER_WORDS: Final = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a text says besides words."""

    core: str
    """The text without unit and percent sign."""
    percent: bool = False
    talk: bool = False
    """Whether the words behind the number say more than a unit: no answer then."""


@dataclass(frozen=True, slots=True)
class Based:
    """A number written in a stated base."""

    digits: str
    base: int

    @property
    def value(self) -> int:
        return int(self.digits, self.base)


def in_base(text: str) -> Based | None:
    r"""``12_5``, ``(12)_5``, ``FF_{16}``, ``12 \text{ base } 5``; None for all else, and for digits
    that the base has not: ``a_{11}`` is a member of a sequence."""
    found = _BASE.match(text) or _BASE_WORDS.match(text)
    if not found:
        return None
    base = _NUMBER_WORDS.get(found[3], 0) if found[3].isalpha() else int(found[3])
    digits = found[2].replace(" ", "")
    if not 2 <= base <= 36 or (len(digits) == 1 and digits.isalpha() and base != 16):
        return None
    try:
        int(digits, base)
    except ValueError:
        return None
    return Based(found[1].replace("+", "") + digits.upper().lstrip("0"), base)


def quantity(text: str) -> Quantity:
    """The parts of one plain text that is no list."""
    text = numerals(_ORDINAL_POWER.sub("", text))
    for tail in _TAIL.finditer(text, text.rfind("=") + 1):
        core, words = text[: tail.start()].strip(), text[tail.start() :].strip()
        if core.count("{") != core.count("}") or not core:
            continue
        if tail["bare"] and not (_DIGIT.search(core) and _is_unit(tail["bare"], words)):
            continue
        return _with_words(core, words)
    return Quantity(text.removesuffix("%").strip(), percent=text.endswith("%"))


def _is_unit(word: str, tail: str) -> bool:
    """Whether a bare word is one: letters in front of more mathematics are symbols."""
    return len(word) > 3 or not _UNIT_LEFT.sub("", _POWER.sub("", tail))


def numerals(text: str) -> str:
    """Numbers in one notation: thousands joined, mixed fractions, powers of ten, no repetends."""
    text = _GROUPS.sub(lambda found: found[0].replace(" ", ""), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _MIXED_FRACTION.sub(r"\1", text)
    return scientific(_REPEATING.sub(_as_fraction, text))


def _as_fraction(found: re.Match[str]) -> str:
    """``0.1\\overline{6}`` as ``\\frac{15}{90}``."""
    once, period = found[1] + found[2], found[3]
    numerator = int(once + period) - int(once or "0")
    return rf"\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(found[2])}}}"


def scientific(text: str) -> str:
    r"""``4.5e33`` as ``4.5 \times 10^{33}``: math-verify takes the e for Euler's number."""
    return _SCIENTIFIC.sub(lambda found: rf"{found[1]} \times 10^{{{int(found[2])}}}", text)


def side_by_side(text: str) -> bool:
    """Whether numbers stand beside each other with nothing but space between: no product."""
    return bool(_SIDE_BY_SIDE.search(text))


def _with_words(core: str, tail: str) -> Quantity:
    words = without_fonts(tail).strip()
    percent = core.endswith("%")
    core = core.removesuffix("%").strip()
    words = _ORDINAL.sub("", words).strip()
    if scale := _SCALE.match(words):
        power = _SCALES[scale[0].lower().removesuffix("s")]
        core = rf"{core} \times 10^{{{power}}}"
        words = words[scale.end() :].strip()
    if found := _PERCENT.match(words):
        percent = True
        words = words[found.end() :].strip()
    rest = _POWER.sub("", words)
    talk = bool(_TALK.search(rest) or _UNIT_LEFT.sub("", rest))
    return Quantity(core, percent=percent, talk=talk)
