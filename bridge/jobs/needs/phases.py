"""How often a run takes each kind of step, in a time that does not grow with its steps."""

from __future__ import annotations

import random
from collections import Counter

from bridge.methods.base import Method
from bridge.step.rows import Phase

MOST_ASKED = 500
"""Steps of a stage that are asked for their kind; of a longer stage they are a random sample, so a
share of kinds is off by 0.022 (one standard deviation) at most."""


def expected_steps(method: Method) -> dict[Phase, float]:
    """Steps of a whole run by phase; exact where a stage has but one kind of step, or few steps."""
    counts: dict[Phase, float] = {}
    first = 1
    while first <= method.n_steps:
        last = _end_of_stage(method, first)
        for phase, n in _count(method, first, last).items():
            counts[phase] = counts.get(phase, 0.0) + n
        first = last + 1
    return counts


def _end_of_stage(method: Method, first: int) -> int:
    """The last step of the stage that begins at ``first``: a stage that has ended does not return,
    so bisection finds it."""
    stage = method.phase(first).stage
    inside, outside = first, method.n_steps + 1
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if method.phase(middle).stage == stage:
            inside = middle
        else:
            outside = middle
    return inside


def _count(method: Method, first: int, last: int) -> dict[Phase, float]:
    steps = range(first, last + 1)
    asked = random.Random(0).sample(steps, MOST_ASKED) if len(steps) > MOST_ASKED else steps
    found = Counter(map(method.phase, asked))
    return {phase: n * len(steps) / len(asked) for phase, n in found.items()}
