r"""One spelling for what LaTeX and people write in many ways; no mathematics yet.

``plain`` maps fonts, sizes, spaces and Unicode signs to one form and takes away what is not part
of an answer: dollar signs, currencies, a leading "Answer:", the full stop of the sentence.
``squeezed`` is the form in which two texts are compared letter by letter. Standard library only.
"""

import re
from typing import Final

_SIGNS: Final = str.maketrans(
    {
        **dict.fromkeys("−–‐‑", "-"),
        **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008", " "),
        **dict.fromkeys("\u2009\u200a\u202f\u205f\u3000\t\r\n", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **dict.fromkeys("€£¥₹₽₩", ""),
        **dict.fromkeys("·⋅∙", r"\cdot "),
        **dict(
            zip(
                "×÷≤≥≠π∞√°∪∩∈…θ",
                [
                    rf"\{name} "
                    for name in (
                        "times",
                        "div",
                        "le",
                        "ge",
                        "ne",
                        "pi",
                        "infty",
                        "sqrt",
                        "degree",
                        "cup",
                        "cap",
                        "in",
                        "ldots",
                        "theta",
                    )
                ],
                strict=True,
            )
        ),
        **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", [f"^{digit}" for digit in range(10)], strict=True)),
        **dict(
            zip(
                "½⅓⅔¼¾⅕⅛",
                [
                    rf"\frac{{{n}}}{{{d}}}"
                    for n, d in ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 5), (1, 8))
                ],
                strict=True,
            )
        ),
    }
)
# Two backslashes begin a new line, also where the next character would make a command of the
# second one; they are matched first and kept.
_LAYOUT: Final = re.compile(
    r"(?P<line>\\\\)"
    r"|(?P<none>\\!|\{\}|\\(?:displaystyle|textstyle|limits|nolimits|pounds|euro|textdollar"
    r"|therefore)(?![A-Za-z])|\\\$|(?<!\\)\$|\\(?:boxed|fbox)(?![A-Za-z])"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?"
    r"|\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z]))"
    r"|(?P<space>\\[,;:> ]|~|\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|nobreakspace)"
    r"(?![A-Za-z])|\\hspace\*?\{[^{}]*\})"
    r"|(?P<comma>\{\s*,\s*\})"
    r"|(?P<name>\\(?P<command>[A-Za-z]+))"
)
_NAMES: Final = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("leq", "leqslant", "leqq", "le"), r"\le "),
    **dict.fromkeys(("geq", "geqslant", "geqq", "ge"), r"\ge "),
    **dict.fromkeys(("neq", "ne"), r"\ne "),
    **dict.fromkeys(("mathrm", "mathbf", "mathit", "mathsf", "mathtt", "bm"), r"\text"),
    **dict.fromkeys(("textbf", "textit", "textrm", "textnormal", "textsf"), r"\text"),
    **dict.fromkeys(("texttt", "emph", "boldsymbol", "mbox"), r"\text"),
    **dict.fromkeys(("lvert", "rvert", "vert"), "|"),
    **dict.fromkeys(("bf", "rm", "it", "sf", "tt"), ""),
    "varnothing": r"\emptyset ",
    "lt": "<", "gt": ">", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]",
    "colon": ":", "ast": "*", "percent": "%", "imath": "i",
}  # fmt: skip
_DOUBLED: Final = re.compile(r"\\\\(?=[A-Za-z])")
_MODULUS: Final = re.compile(
    r"\\pmod\s*([0-9]+|[A-Za-z])"
    r"|\(\s*(?:\\[bp]?mod|\\text\{\s*mod\s*\}|mod)(?![A-Za-z])\s*\{?\s*([^(){}]+?)\s*\}?\s*\)"
)
_BARE_FRACTION: Final = re.compile(
    r"\\frac\s*((?!\\(?:sqrt|frac|text))\\[A-Za-z]+|[0-9A-Za-z])\s*"
    r"((?!\\(?:sqrt|frac|text))\\[A-Za-z]+|[0-9A-Za-z])"
)
_FONT_SPACE: Final = re.compile(r"\\text\s+(?=\{)")
_FONT_INDEX: Final = re.compile(r"_\s*(\{)?\s*\\text\{\s*([0-9A-Za-z]+)\s*\}\s*(?(1)\})")
_PREFIX: Final = re.compile(
    r"^(?:\\text\s*\{\s*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?(?:answer|solution|result)"
    r"\s*(?:is\s*:?|:|=)\s*\}?\s*",
    re.IGNORECASE,
)
_LEADING: Final = re.compile(r"^(?:[=:\s]|\\(?:implies|Rightarrow|to)(?![A-Za-z]))+")
# The stop of the sentence, a colon, a line break, the backslash that stripping left of "\ ".
_TRAILING: Final = re.compile(r"(?:\\+|[,;:]|(?<![.\\])\.)$")
_MARKS: Final = re.compile(r"^(\*{1,2}|`+)(.+)\1$")


def plain(text: str) -> str:
    """``text`` in one spelling, on one line."""
    text = text.translate(_SIGNS)
    if r"\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = " ".join(_LAYOUT.sub(_layout, text).split()).replace(r"\%", "%")
    text = _FONT_INDEX.sub(r"_{\2}", _FONT_SPACE.sub(r"\\text", text))
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", _MODULUS.sub(_modulus, text))
    text = _MARKS.sub(r"\2", text)
    text = _LEADING.sub("", text)
    prefix = _PREFIX.match(text)
    if prefix and prefix[0].count("{") == prefix[0].count("}"):
        text = _LEADING.sub("", text[prefix.end() :])
    before = None
    while text != before:
        before, text = text, _unwrapped(_TRAILING.sub("", text).rstrip())
    return text


def _layout(found: re.Match[str]) -> str:
    if found["line"]:
        return found[0]
    if found["none"]:
        return ""
    if found["space"]:
        return " "
    if found["comma"]:
        return ","
    return _NAMES.get(found["command"], found[0])


def _modulus(found: re.Match[str]) -> str:
    return rf"\pmod{{{found[1] or found[2]}}}"


def _unwrapped(text: str) -> str:
    """Without braces around the whole, and without ``\\text`` around the whole."""
    inner = text.removeprefix(r"\text").lstrip()
    if inner.startswith("{") and group_end(inner, 0) == len(inner):
        return inner[1:-1].strip()
    return text


def group_end(text: str, start: int) -> int:
    """Offset behind the brace that closes the one at ``start``; -1 where none does."""
    depth, place = 0, start
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] in "{}":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place + 1
        place += 1
    return -1


def split_top(text: str, separators: str = ",;") -> list[str]:
    """Parts between separators that stand outside all brackets."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 1
            depth += (text[place : place + 1] == "{") - (text[place : place + 1] == "}")
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
        place += 1
    return [*parts, text[start:].strip()]


_ONE: Final = re.compile(r"\{([0-9A-Za-z])\}")
_SPACE: Final = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_TEXT: Final = re.compile(r"\\text\s*\{([^{}]*)\}")


def without_fonts(text: str) -> str:
    r"""``\text{word}`` as the word itself."""
    return _TEXT.sub(r" \1 ", text)


def squeezed(text: str) -> str:
    """A plain text without spaces, fonts and braces around a single character."""
    return _ONE.sub(r"\1", _SPACE.sub("", without_fonts(text))).rstrip(".")
