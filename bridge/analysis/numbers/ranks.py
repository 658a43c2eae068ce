"""What a ranking of methods is worth: rank probabilities, improvement, performance profiles.

Runs that differ by a few points are ranked by chance. These numbers say how much of an order would
survive new seeds and new questions. Sources: Agarwal et al., NeurIPS 2021, arXiv 2108.13264
(probability of improvement, performance profiles); Goldstein & Spiegelhalter, JRSS A 159, 1996
(uncertainty of ranks).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from bridge.analysis.numbers.pooled import SeedSpread
from bridge.analysis.numbers.statistics import Array, components

DRAWS = 10_000


def rank_probabilities(
    answers: Sequence[Sequence[Array]], spread: SeedSpread, draws: int = DRAWS
) -> Array:
    """Chance of each method, `[methods, ranks]`, to have each rank in a repetition.

    `answers[m][b]` are `[seeds, questions]` with the same questions for every method; benchmarks
    weigh the same. Means are drawn around those measured: questions from the normal whose
    covariance is that of the methods' answers, seeds from a t with the block's pooled variance, of
    which only what methods do not share can change an order. The same input gives the same numbers.
    """
    random = np.random.default_rng(len(answers))
    drawn = np.zeros((draws, len(answers)))
    for b in range(len(answers[0])):
        by_question = np.stack([arm[b].mean(0) for arm in answers], -1)
        n = len(by_question)
        # Normal weights on the questions give their covariance without factoring a matrix, whose
        # signs would be the library's choice.
        gaps = (by_question - by_question.mean(0)) / (n * (n - 1)) ** 0.5
        drawn += (by_question.mean(0) + random.normal(0, 1, (draws, n)) @ gaps) / len(answers[0])
    rest = np.array([float(components(arm).rest) for arm in answers])
    n_seeds = np.array([arm[0].shape[0] for arm in answers])
    variance = np.maximum(float(spread.pair) / 2 / n_seeds - rest, 0.0)
    scale = (spread.pair_df / random.chisquare(spread.pair_df, (draws, 1))) ** 0.5
    drawn += scale * random.normal(0, 1, drawn.shape) * variance**0.5
    places = np.argsort(np.argsort(-drawn, axis=1, kind="stable"), axis=1)
    return np.stack([(places == rank).mean(0) for rank in range(len(answers))], -1)


def probability_of_improvement(first: ArrayLike, second: ArrayLike) -> float:
    """Chance that a run of the first method beats a run of the second; half for a tie.

    The share of pairs of runs, which is the Mann-Whitney statistic over the number of pairs.
    """
    a, b = np.asarray(first, float)[:, None], np.asarray(second, float)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs that reach each threshold; `scores` is flat: every run on every benchmark."""
    reached = np.asarray(scores, float)[None, :] >= np.asarray(thresholds, float)[:, None]
    return np.asarray(reached.mean(1))
