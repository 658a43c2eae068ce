r"""Finds the final answer in what a model wrote: the last complete ``\boxed{...}``.

One pass over the text with bounded look-ahead, so a 10 MB text costs no more than its length; no
recursion, no exception for any string. Left out: guessing an answer from prose ("the answer is 7")
and repairing LaTeX. Both would let the grader credit what the model did not commit to.
"""

import re
from typing import Final, NamedTuple

# Tags of thinking in whatever brackets and under whatever name: <think>, [THINK],
# <|begin_of_thought|>. Bounded on both sides, so that no run of letters is read twice.
THINKING_TAG: Final = re.compile(
    r"[<\[◁][|｜]?(?P<slash>/?)(?P<name>[^<>\[\]◁▷|｜/\s]{0,24}?"
    r"(?:think|thought|reason|reflect|rational|scratch|analy|deliberat|ponder|monolog|cot)"
    r"[^<>\[\]◁▷|｜/\s]{0,24})[|｜]?[>\]▷]",
    re.IGNORECASE,
)
_ENDS: Final = re.compile(r"^(?:end|close|stop)", re.IGNORECASE)

# Alternatives in this order: a box (two backslashes also open one: models trained on source code
# write them), then any escaped character, so that \{ and \} are not braces, then bare braces.
# At most two backslashes are looked at: an unbounded run would make a long run quadratic.
_TOKEN: Final = re.compile(
    r"(?P<box>\\{1,2}(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<open>\{)|(?P<bare>[^\s\\{}$]+))?)"
    r"|\\.|(?P<brace>[{}])",
    re.DOTALL,
)

# A tag that is spoken of and not used: in quotes, or named by the words beside it.
_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_NAMED_AFTER: Final = re.compile(
    r"(?:\.\.\.|\u2026)?[\"'`\u201d\u2019]?[ -]?"
    r"(?:tags?|blocks?|tokens?|sections?|markers?|elements?|mode)\b",
    re.IGNORECASE,
)

# What stands in a box that only shows the format.
_PLACEHOLDER_CHARS: Final = 60
_PLACEHOLDER: Final = re.compile(
    r"(?:[\s.?_~\u2026*\[\]<>{}-]|\\(?:[,;:!_ ]|(?:[lcvh]|d)?dots[bcimo]?|square|Box|blank|phantom"
    r"|qquad|quad|text|mathrm|mathbf|textbf|underline)(?![A-Za-z])"
    r"|(?:(?:your|the|my|final|numerical|numeric|correct|short|insert|put|write) ?)*"
    r"answer(?: ?here)?)*",
    re.IGNORECASE,
)

_BOX: Final = re.compile(r"\\(?:boxed|fbox)\b")
_NON_SPACE: Final = re.compile(r"\S")


class _Box(NamedTuple):
    """Offsets of a complete box: the command with its braces, and the answer inside it."""

    start: int
    end: int
    answer_start: int
    answer_end: int


def opens(tag: re.Match[str]) -> bool:
    """Whether a tag of thinking opens a block; else it closes one."""
    return not (tag["slash"] or _ENDS.match(tag["name"]))


def final_part(text: str, *, thinking: bool = False) -> str | None:
    """What is left of ``text`` without its blocks of thinking; None where thinking never ends.

    A tag that opens a block without an end and without a box in it, behind other text, is talk
    about thinking: what stands before it is left.

    A closing tag that nothing opened closes a block opened in the prompt, as reasoning templates
    do: everything before it was thought.

    Args:
        thinking: whether the prompt is known to have opened a block that the text begins in.
    """
    kept: list[str] = []
    position, opened = 0, 0
    for tag in THINKING_TAG.finditer(text):
        if _spoken_of(text, tag):
            continue
        if opens(tag):
            if not thinking:
                kept.append(text[position : tag.start()])
                opened = tag.end()
            thinking = True
        else:
            if not thinking:
                kept.clear()
            position, thinking = tag.end(), False
    if thinking and (not opened or _BOX.search(text, opened)):
        return None
    if not thinking:
        kept.append(text[position:])
    return " ".join(kept)


def _spoken_of(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag is talk about tags: ``use "<think>" tags``."""
    before, after = text[max(tag.start() - 12, 0) : tag.start()], text[tag.end() : tag.end() + 16]
    if before[-1:] and before[-1] in _QUOTES and after[:1] and after[0] in _QUOTES:
        return True
    return bool(_NAMED_AFTER.match(after) and (not before or before[-1:] != "\n"))


def last_boxed(text: str, *, thinking: bool = False) -> str | None:
    r"""The content of the last complete box after the thinking, stripped; None if there is none.

    - "Last" is the box that closes last. Boxes inside it are not answers of their own, except that
      ``\boxed{\boxed{4}}`` is ``4``.
    - A box whose brace never closes is ignored, and so is one that is empty or holds a placeholder:
      "put it in \boxed{...}" is talk about the format, not an answer.
    - ``\fbox{4}`` is a box. ``\boxed 7`` is read up to white space, ``$``, a brace or a backslash,
      without closing punctuation.
    - White space between the command and its brace is allowed; ``\boxedfoo{4}`` is no box.
    """
    part = final_part(text, thinking=thinking)
    if part is None:
        return None
    last: _Box | None = None
    # One entry per open brace: where its box and the content of the box start; None for a brace
    # that belongs to no box.
    opened: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(part):
        box: _Box | None = None
        if token.group("open"):
            opened.append((token.start(), token.end()))
        elif token.group("bare"):
            answer = token.group("bare").rstrip(".,;:!?")
            start = token.start("bare")
            box = _Box(token.start(), start + len(answer), start, start + len(answer))
        elif token.group("brace") == "{":
            opened.append(None)
        elif token.group("brace") and opened and (begin := opened.pop()) is not None:
            box = _unwrap(part, _Box(begin[0], token.end(), begin[1], token.start()), last)
        if box is not None and not _placeholder(part, box.answer_start, box.answer_end):
            last = box
    return None if last is None else part[last.answer_start : last.answer_end].strip()


def _unwrap(text: str, outer: _Box, inner: _Box | None) -> _Box:
    """``outer``, with the answer of ``inner`` where that box is all that ``outer`` holds."""
    if inner is None or inner.start < outer.answer_start:
        return outer
    if not _blank(text, outer.answer_start, inner.start):
        return outer
    if not _blank(text, inner.end, outer.answer_end):
        return outer
    return outer._replace(answer_start=inner.answer_start, answer_end=inner.answer_end)


def _placeholder(text: str, start: int, end: int) -> bool:
    if end - start > _PLACEHOLDER_CHARS:
        return _blank(text, start, end)
    return _PLACEHOLDER.fullmatch(text, start, end) is not None


def _blank(text: str, start: int, end: int) -> bool:
    # A search that stops at the first character: slicing and stripping the content of every box
    # would make nested boxes quadratic.
    return _NON_SPACE.search(text, start, end) is None
