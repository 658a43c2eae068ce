"""The uncertainty of an estimate whose variance has several sources, and what follows from it.

An estimate varies with training seeds and with questions. Each source has a variance and degrees
of freedom; the half-width of an interval is the root of the sum of the squares of their half-widths
(modified large-sample limits; Graybill & Wang, JASA 75, 1980). Everything else is read off that
function: p-values, power, detectable effects, equivalence and how many seeds would decide. Leading
axes of the arrays can hold simulated experiments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, nctdtrinc, stdtrit

from bridge.analysis.numbers.statistics import LEVEL, Array

SIGNIFICANT = 1 - LEVEL
POWER = 0.8
MARGINS = (0.01, 0.02)
"""Differences that count as none, as fractions: 1 and 2 points, fixed before any result."""
LEAST_SEEDS = 3
"""Fewer training seeds a side decide nothing: two say next to nothing about their own spread, and
what rests on it errs too often (docs/statistics.md)."""
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """One source of variance of an estimate: its variance and degrees of freedom.

    `fixed` is the part of the variance that more seeds do not shrink (questions); where it is zero
    the degrees of freedom grow with the seeds.
    """

    variance: Any
    df: Any
    fixed: Any = 0.0

    def with_seeds(self, n_seeds: int, wanted: Array) -> Source:
        """The same source had there been `wanted` seeds instead of `n_seeds`."""
        variance = self.fixed + (self.variance - self.fixed) * n_seeds / wanted
        of_seeds = np.all(np.asarray(self.fixed) == 0)
        df = self.df * (wanted - 1) / (n_seeds - 1) if of_seeds else self.df
        return Source(variance, df, self.fixed)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """All sources of an estimate's variance; sources without degrees of freedom are left out."""

    sources: tuple[Source, ...]

    @property
    def standard_error(self) -> Any:
        """Root of the summed variances."""
        return np.sqrt(sum(source.variance for source in self.sources))

    @property
    def df(self) -> Any:
        """Degrees of freedom of the sum (Satterthwaite); infinite where nothing varies."""
        total = sum(source.variance for source in self.sources)
        weight = sum(source.variance**2 / source.df for source in self.sources)
        return np.where(weight > 0, total**2 / np.where(weight > 0, weight, 1.0), np.inf)

    def half_width(self, level: ArrayLike = LEVEL) -> Any:
        """Half-width of the symmetric interval at `level`."""
        upper = 0.5 + np.asarray(level) / 2
        return np.sqrt(sum(stdtrit(s.df, upper) ** 2 * s.variance for s in self.sources))

    def p_value(self, distance: ArrayLike) -> Any:
        """Two-sided p of a distance from the tested value: the level at which the interval touches.

        By bisection on the level, so p and interval always agree.
        """
        size = np.abs(np.asarray(distance, float))
        low, high = np.zeros_like(size), np.ones_like(size)
        for _ in range(50):
            middle = (low + high) / 2
            wider = self.half_width(1 - middle) > size
            low, high = np.where(wider, middle, low), np.where(wider, high, middle)
        nothing = self.standard_error == 0
        return np.where(nothing, np.where(size == 0, 1.0, 0.0), high)


def power(spread: Uncertainty, effect: ArrayLike, level: float = SIGNIFICANT) -> Any:
    """Chance that a two-sided test at `level` finds a true `effect`, by the noncentral t.

    The critical value is that of the interval; the degrees of freedom are Satterthwaite's.
    """
    error = spread.standard_error
    critical = spread.half_width(1 - level) / error
    shift = np.abs(np.asarray(effect, float)) / error
    df = spread.df
    return 1 - nctdtr(df, shift, critical) + nctdtr(df, shift, -critical)


def detectable_effect(spread: Uncertainty, level: float = SIGNIFICANT) -> float:
    """Smallest true effect that a test at `level` finds with 80 % power; 0 where nothing varies."""
    error = float(spread.standard_error)
    if error == 0:
        return 0.0
    critical = float(spread.half_width(1 - level)) / error
    return error * float(nctdtrinc(float(spread.df), 1 - POWER, critical))


def equivalence_p(spread: Uncertainty, estimate: ArrayLike, margin: float) -> Any:
    """p of TOST: the larger of the two one-sided p-values against -margin and +margin.

    Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987). Below 5 % means that the 90 % interval lies
    inside the margin.
    """
    room = margin - np.abs(np.asarray(estimate, float))
    two_sided = spread.p_value(room)
    return np.where(room > 0, two_sided / 2, 1 - two_sided / 2)


def beyond_p(spread: Uncertainty, estimate: ArrayLike, margin: float) -> Any:
    """Two-sided p against the nearest difference inside the margin; 1 for an estimate inside."""
    over = np.abs(np.asarray(estimate, float)) - margin
    return np.where(over > 0, spread.p_value(over), 1.0)


def equivalence_power(spread: Uncertainty, effect: ArrayLike, margin: float, level: float) -> Any:
    """Chance that TOST at `level` finds equivalence when the true difference is `effect`."""
    error = spread.standard_error
    critical = spread.half_width(1 - 2 * level) / error
    inside = [
        1 - nctdtr(spread.df, (margin + sign * np.asarray(effect, float)) / error, critical)
        for sign in (1, -1)
    ]
    return np.maximum(inside[0] + inside[1] - 1, 0.0)


def more_seeds(
    spread: Uncertainty,
    n_seeds: int,
    effect: float,
    level: float = SIGNIFICANT,
    margin: float | None = MARGINS[-1],
) -> int | None:
    """How many more seeds a side would decide with 80 % power, were the estimate the truth.

    Decided means different from zero, or equivalent within `margin` (None: not asked). None where
    even `MOST_SEEDS` seeds would not, because the questions are too few.
    """
    wanted = np.arange(n_seeds + 1, MOST_SEEDS + 1, dtype=float)
    planned = Uncertainty(tuple(s.with_seeds(n_seeds, wanted) for s in spread.sources))
    enough = power(planned, effect, level) >= POWER
    if margin is not None and abs(effect) < margin:
        enough = enough | (equivalence_power(planned, effect, margin, level) >= POWER)
    return int(np.argmax(enough)) + 1 if enough.any() else None


def without_spread(sources: tuple[Source, ...], known: ArrayLike) -> Uncertainty:
    """The same sources with no variance where `known`: nothing differed in any answer."""
    return Uncertainty(
        tuple(
            replace(
                s, variance=np.where(known, 0.0, s.variance), fixed=np.where(known, 0.0, s.fixed)
            )
            for s in sources
        )
    )
