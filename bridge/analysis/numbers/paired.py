"""Comparisons of two methods: paired differences, ratios, sign test, Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from bridge.analysis.numbers.pooled import SeedSpread, pooled_uncertainty, same_answers
from bridge.analysis.numbers.statistics import Array, IntervalCovers, components
from bridge.analysis.numbers.uncertainty import Source, Uncertainty, without_spread

MINIMUM_SHARED_QUESTIONS = 20


class Refused(ValueError):
    """A comparison that would mislead; the message is the reason to print."""


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty: 95 % interval and two-sided p against zero.

    `n_seeds` is that of the smaller side.
    """

    mean: float
    spread: Uncertainty
    n_seeds: int

    @cached_property
    def half_width(self) -> float:
        """Half-width of the 95 % interval."""
        return float(self.spread.half_width())

    @property
    def low(self) -> float:
        """Lower limit."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper limit."""
        return self.mean + self.half_width

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return float(self.spread.standard_error)

    @cached_property
    def p_value(self) -> float:
        """Two-sided p of the mean against zero; it agrees with the interval."""
        return float(self.spread.p_value(self.mean))


@dataclass(frozen=True)
class Difference(Estimate):
    """A minus B as a fraction, on the questions that both answered."""

    n_questions: int
    seeds: tuple[int, int]
    covers: IntervalCovers
    paired_by_seed: bool


def paired_difference(
    first: Sequence[Array],
    second: Sequence[Array],
    spread: SeedSpread | None = None,
    trained: int = 2,
) -> Difference:
    """Mean difference of two methods on the same questions; benchmarks weigh the same.

    `first[b]` and `second[b]` are `[seeds, questions]` answers whose columns are the same
    questions. With `spread`, what the methods of the block share, the rows are the same seeds as
    well and are paired (`pooled.pooled_uncertainty`, which says what `trained` is). Without it the
    seeds are independent draws for either method, their numbers may differ, and each method's
    variance is its own: the robust interval.

    A percentile bootstrap over seeds and questions is not used: with 3 seeds it covers 90-92 %
    where seeds dominate and 98-100 % where questions do (docs/statistics.md).
    Raises Refused when a benchmark shares fewer than 20 questions, or when all answers are equally
    right or wrong, which would look like certainty; ValueError on unequal shapes.
    """
    for a, b in zip(first, second, strict=True):
        if a.shape[-1] != b.shape[-1]:
            raise ValueError("paired arrays need the same questions in the same order")
        if a.shape[-1] < MINIMUM_SHARED_QUESTIONS:
            raise Refused(
                f"only {a.shape[-1]} shared questions; a paired difference needs "
                f"{MINIMUM_SHARED_QUESTIONS}"
            )
    every = np.concatenate([table.ravel() for table in (*first, *second)])
    if every.min() == every.max():
        raise Refused(f"all answers of both sides score {every[0]:g}: too hard or too easy to tell")
    if spread is None:
        mean, uncertainty = difference_uncertainty(first, second)
    else:
        mean, uncertainty = pooled_uncertainty(first, second, spread, trained)
    seeds = (first[0].shape[0], second[0].shape[0])
    return Difference(
        mean=float(mean),
        spread=uncertainty,
        n_seeds=min(seeds),
        n_questions=sum(a.shape[-1] for a in first),
        seeds=seeds,
        covers="seeds and questions" if min(seeds) > 1 else "questions",
        paired_by_seed=spread is not None,
    )


def difference_uncertainty(
    first: Sequence[Array], second: Sequence[Array]
) -> tuple[Any, Uncertainty]:
    """Mean difference and its robust uncertainty: a seed part per method, one of the questions.

    Arrays are `[..., seeds, questions]`; coverage 96.2-98.1 % with 3 seeds, 95.5-97.7 % with 5.
    """
    question = components(
        [
            a.mean(-2, keepdims=True) - b.mean(-2, keepdims=True)
            for a, b in zip(first, second, strict=True)
        ]
    )
    sides = [components(first), components(second)]
    rest = sides[0].rest + sides[1].rest
    seeds = [Source(side.seed, side.seed_df) for side in sides if side.seed_df]
    fixed = np.maximum(question.question - rest, 0.0)
    questions = Source(question.question, question.question_df, fixed)
    return question.mean, without_spread((*seeds, questions), same_answers(first, second))


def seed_mean(values: ArrayLike) -> Estimate:
    """Mean over training seeds with the one-sample t interval (scipy's `ttest_1samp`).

    Raises Refused for fewer than two values: one run says nothing about the spread of runs.
    """
    seeds = _seeds(values)
    n = len(seeds)
    source = Source(float(seeds.var(ddof=1)) / n, float(n - 1))
    return Estimate(float(seeds.mean()), Uncertainty((source,)), n)


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
    spread = Uncertainty((Source(variance, welch),))
    return Estimate(float(logs[0].mean() - logs[1].mean()), spread, min(map(len, sides)))


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


def _seeds(values: ArrayLike) -> Array:
    seeds = np.asarray(values, float)
    if not np.isfinite(seeds).all():
        raise ValueError("a seed has no number")
    if seeds.size < 2:
        raise Refused("one seed says nothing about the spread of training")
    return seeds
