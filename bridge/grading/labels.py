"""Scores of yes/no labels. Left out: what a label is, and how it is read from a text."""

import math
from collections.abc import Sequence


def matthews(gold: Sequence[bool], right: Sequence[bool]) -> float | None:
    """Matthews correlation of two-valued labels; None where one side has a single value.

    An answer without a readable label counts as the wrong one. A policy that always says the more
    frequent label has no correlation, whatever its accuracy.

    Args:
        gold: whether the gold label is the positive one, per answer.
        right: whether the answer is right.
    """
    counts = {(g, r): 0 for g in (True, False) for r in (True, False)}
    for pair in zip(gold, right, strict=True):
        counts[pair] += 1
    tp, fn = counts[True, True], counts[True, False]
    tn, fp = counts[False, True], counts[False, False]
    scale = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(scale) if scale else None
