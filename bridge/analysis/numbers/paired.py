"""Paired comparisons of two methods: difference, sign test, Holm, minimum detectable effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtri, stdtr, stdtrit

from bridge.analysis.numbers.statistics import LEVEL, Array, Components, IntervalCovers, components

MINIMUM_SHARED_QUESTIONS = 20
MDE_FACTOR = float(ndtri(0.975) + ndtri(0.8))


SIGNIFICANT = 1 - LEVEL


class Refused(ValueError):
    """A comparison that would mislead; the message is the reason to print."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A minus B as fractions, paired by question, with its 95 % interval and two-sided p."""

    mean: float
    low: float
    high: float
    standard_error: float
    p_value: float
    n_questions: int
    n_seeds: tuple[int, int]
    covers: IntervalCovers


def paired_difference(first: Sequence[Array], second: Sequence[Array]) -> Difference:
    """Mean difference of two methods on the same questions; benchmarks weigh the same.

    `first[b]` and `second[b]` are `[seeds, questions]` answers whose columns are the same
    questions; the seed counts may differ. Questions are paired (their difference is what varies),
    training seeds are independent draws for either method, and each of the three sources gets the
    t quantile of its own degrees of freedom (see `statistics.crossed_limits`).

    Coverage in 2,000 simulated experiments per setting (sizes as in `crossed_limits`): 96.2-98.1 %
    with 3 seeds, 95.5-97.7 % with 5. A percentile bootstrap over seeds and questions is not used:
    there it covered 90-92 % with 3 seeds where seeds dominate and 98-100 % where questions do.
    Raises Refused when a benchmark shares fewer than 20 questions; ValueError on unequal shapes.
    """
    for a, b in zip(first, second, strict=True):
        if a.shape[-1] != b.shape[-1]:
            raise ValueError("paired arrays need the same questions in the same order")
        if a.shape[-1] < MINIMUM_SHARED_QUESTIONS:
            raise Refused(
                f"only {a.shape[-1]} shared questions; a paired difference needs "
                f"{MINIMUM_SHARED_QUESTIONS}"
            )
    parts = difference_components(first, second)
    mean = float(parts.mean)
    half = float(parts.half_width())
    n_seeds = (first[0].shape[0], second[0].shape[0])
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        standard_error=float(parts.standard_error),
        p_value=_p_value(parts, abs(mean)),
        n_questions=sum(a.shape[-1] for a in first),
        n_seeds=n_seeds,
        covers="seeds and questions" if min(n_seeds) > 1 else "questions",
    )


@dataclass(frozen=True, slots=True)
class DifferenceComponents:
    """Variance of a paired difference: a seed part per method and one shared question part."""

    mean: Array
    first: Components
    second: Components
    question: Components

    @property
    def standard_error(self) -> Array:
        """Standard error of the difference, a fraction."""
        return np.sqrt(self.first.seed + self.second.seed + self.question.question)

    def half_width(self, level: float = LEVEL) -> Array:
        """Half-width of the interval at `level`, a fraction."""
        squares = self.question.half_width(level) ** 2
        for side in (self.first, self.second):
            squares = squares + _seed_only(side).half_width(level) ** 2
        return np.sqrt(squares)


def difference_components(first: Sequence[Array], second: Sequence[Array]) -> DifferenceComponents:
    """Variance components of a paired difference (see `paired_difference`)."""
    per_question = [
        a.mean(-2, keepdims=True) - b.mean(-2, keepdims=True)
        for a, b in zip(first, second, strict=True)
    ]
    question = components(per_question)
    return DifferenceComponents(question.mean, components(first), components(second), question)


def typical_detectable_effect(arms: Sequence[Sequence[Array]]) -> float:
    """Median, over pairs of methods, of the minimum effect their paired difference could show.

    Each arm is one method's answers, `[seeds, questions]` per benchmark; needs two arms or more.
    """
    seed_parts = [float(components(arm).seed) for arm in arms]
    means = [[stratum.mean(0, keepdims=True) for stratum in arm] for arm in arms]
    effects = []
    for first, second in combinations(range(len(arms)), 2):
        gaps = [a - b for a, b in zip(means[first], means[second], strict=True)]
        variance = seed_parts[first] + seed_parts[second] + float(components(gaps).question)
        effects.append(minimum_detectable_effect(variance**0.5))
    return median(effects)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number per training seed, averaged: mean, 95 % t interval and two-sided p against 0."""

    mean: float
    low: float
    high: float
    standard_error: float
    p_value: float


def seed_mean(values: ArrayLike) -> Estimate:
    """Mean over training seeds with the one-sample t interval (scipy's `ttest_1samp`).

    Raises Refused for fewer than two values: one run says nothing about the spread of runs.
    """
    seeds = _seeds(values)
    return _t_estimate(
        float(seeds.mean()), float(seeds.var(ddof=1)) / len(seeds), float(len(seeds) - 1)
    )


def log_ratio(first: ArrayLike, second: ArrayLike) -> Estimate:
    """log(geometric mean of `first` / that of `second`), seeds unpaired: Welch's t on the logs.

    Raises Refused for fewer than two seeds a side, or for a value that is not positive.
    """
    sides = [_seeds(first), _seeds(second)]
    if any((side <= 0).any() for side in sides):
        raise Refused("a ratio needs positive numbers")
    logs = [np.log(side) for side in sides]
    parts = np.array([float(side.var(ddof=1)) / len(side) for side in logs])
    df = np.array([len(side) - 1 for side in logs])
    variance = float(parts.sum())
    welch = variance**2 / float((parts**2 / df).sum()) if variance > 0 else float(df.sum())
    return _t_estimate(float(logs[0].mean() - logs[1].mean()), variance, welch)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p of the sign test on discordant questions (ties are left out)."""
    if wins < 0 or losses < 0:
        raise ValueError("wins and losses are counts")
    if wins + losses == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(wins, losses), wins + losses, 0.5)))


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p-values in the order given, each at most 1.

    The p of rank i of m becomes the largest (m - j + 1) p_(j) over ranks j <= i.
    Raises ValueError for anything outside [0, 1], NaN included: an untested comparison must be
    left out of the family by the caller, who knows why.
    """
    p = np.asarray(p_values, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("holm needs a flat list of p-values in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(
        np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1.0
    )
    return adjusted


def minimum_detectable_effect(standard_error: float) -> float:
    """Effect found in 80 % of repetitions at two-sided 5 %: 2.80 standard errors.

    Normal approximation; with three seeds the truth is somewhat larger.
    """
    return MDE_FACTOR * standard_error


def _seeds(values: ArrayLike) -> Array:
    seeds = np.asarray(values, float)
    if not np.isfinite(seeds).all():
        raise ValueError("a seed has no number")
    if seeds.size < 2:
        raise Refused("one seed says nothing about the spread of training")
    return seeds


def _t_estimate(mean: float, variance: float, df: float) -> Estimate:
    error = variance**0.5
    half = float(stdtrit(df, 0.5 + LEVEL / 2)) * error
    if error > 0:
        p = 2 * float(stdtr(df, -abs(mean) / error))
    else:
        p = 1.0 if mean == 0 else 0.0
    return Estimate(mean, mean - half, mean + half, error, p)


def _seed_only(parts: Components) -> Components:
    return Components(
        parts.mean,
        parts.seed,
        np.zeros_like(parts.seed),
        parts.seed_df,
        parts.question_df,
        parts.fallback_questions,
    )


def _p_value(parts: DifferenceComponents, size: float) -> float:
    """The p at which the interval just touches zero, by bisection on the level."""
    if parts.standard_error == 0:
        return 1.0 if size == 0 else 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if parts.half_width(1 - middle) > size:
            low = middle
        else:
            high = middle
    return high
