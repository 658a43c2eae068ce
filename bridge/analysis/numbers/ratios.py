"""The ratio of two paired means with Fieller's interval.

The interval is the set of all r for which mean(a - r b) is not significantly different from 0 by
Student's t. Where the denominator's own mean is not distinguishable from 0 that set is no bounded
interval, and the ratio says nothing: its limits are then infinite.

Source: E. C. Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16 (1954).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student


@dataclass(frozen=True)
class Ratio:
    """A ratio of means with its interval."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the denominator is distinguishable from 0."""
        return bool(np.isfinite(self.low))


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95) -> Ratio:
    """mean(numerator) / mean(denominator) with Fieller's interval; pairs are the units.

    Raises:
        ValueError: fewer than two pairs, unequal lengths, or a denominator of mean 0.
    """
    a, b = np.asarray(numerator, float), np.asarray(denominator, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"{a.shape} and {b.shape} are not two or more pairs")
    mean_a, mean_b = float(a.mean()), float(b.mean())
    if mean_b == 0:
        raise ValueError("the denominator's mean is 0; there is no ratio")
    quantile = float(student.ppf(0.5 + level / 2, len(a) - 1))
    spread = np.cov(a, b) * quantile**2 / len(a)
    # The r with square r^2 - 2 middle r + constant <= 0.
    square = mean_b**2 - spread[1, 1]
    middle = mean_a * mean_b - spread[0, 1]
    constant = mean_a**2 - spread[0, 0]
    value = mean_a / mean_b
    if square <= 0:
        return Ratio(value, -np.inf, np.inf)
    half = float(np.sqrt(max(middle**2 - square * constant, 0.0)))
    return Ratio(value, (middle - half) / square, (middle + half) / square)
