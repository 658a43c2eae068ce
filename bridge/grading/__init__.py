"""Verdicts on untrusted text.

Importing this package loads neither math-verify, sympy nor torch: the mathematics runs in worker
processes only, which start when the first answer needs them (see ``pool``).
"""

from bridge.grading.extraction import last_boxed
from bridge.grading.pool import GraderPool
from bridge.grading.verdicts import (
    GRADER_VERSION,
    VERDICTS,
    Graded,
    GradeItem,
    GraderError,
    GraderLimits,
    Verdict,
)

__all__ = [
    "GRADER_VERSION",
    "VERDICTS",
    "GradeItem",
    "Graded",
    "GraderError",
    "GraderLimits",
    "GraderPool",
    "Verdict",
    "last_boxed",
]
