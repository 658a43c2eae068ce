"""Whether two texts pose the same problem, whoever typed them."""

from __future__ import annotations

import hashlib
import re

_DROPPED = re.compile(
    r"\\left|\\right|\\displaystyle|\\[,!;: ]|\\(?:text|mathrm|textbf|mbox)(?=\s*\{)|[${}\s]"
)
_FRACTION = re.compile(r"\\[dt]frac")


def normalised(text: str) -> str:
    """``text`` without case, white space, dollar signs, braces, spacing and font commands.

    Copies of one problem differ in these between collections; numbers, letters and signs stay.
    """
    bare = _DROPPED.sub("", _FRACTION.sub(r"\\frac", text)).lower()
    return bare.rstrip(".,;:?!")


def identity(text: str) -> str:
    """First 16 hex digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()[:16]
