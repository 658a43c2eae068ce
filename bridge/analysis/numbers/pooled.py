"""The spread of training that the methods of a block share, and differences that use it.

Every method of a block is trained with the same seeds: the same prompts in the same order, and the
same seeds for its rollouts. A run's accuracy is modelled as

    method + seed + method x seed,

so what all methods share in a seed cancels in a difference, and the variance of the last term is
estimated from all trained methods together. Three seeds of one pair have 2 degrees of freedom;
three seeds of 15 methods have 28.

Methods need not spread alike. The variance of a pair is therefore moderated: a weighted mean of
its own and the pooled one, whose weight is estimated from how unlike the methods' variances are
(Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004, the limma package; its equations are followed, with
pairs of methods in the place of genes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import polygamma

from bridge.analysis.numbers.statistics import Array, components
from bridge.analysis.numbers.uncertainty import Source, Uncertainty, without_spread


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Variance between training runs in one column of a block, as squared fractions.

    `pair`: of the difference of two runs of the same seed; `single`: of one run, what the methods
    share included. `prior_df`: the weight of `pair` and `single` against a pair's own variance.
    """

    pair: Any
    pair_df: Any
    single: Any
    single_df: Any
    prior_df: Any


def seed_spread(scores: ArrayLike, present: Array | None = None) -> SeedSpread | None:
    """Pooled variances from the accuracies of trained methods, `[..., methods, seeds]`.

    `present` (`[methods, seeds]`, boolean) says which runs there are. Copies of another method and
    untrained methods have to be left out by the caller. None where fewer than two methods have two
    seeds in common: there is nothing to pool.
    """
    y = np.asarray(scores, float)
    there = np.ones(y.shape[-2:], bool) if present is None else np.asarray(present, bool)
    methods, seeds = np.nonzero(there)
    n_methods, n_seeds = there.shape
    design = np.hstack([np.eye(n_methods)[methods], np.eye(n_seeds)[seeds]])
    hat = design @ np.linalg.pinv(design)
    df = len(methods) - int(np.linalg.matrix_rank(design))
    if df < 1:
        return None
    values = y[..., methods, seeds]
    residuals = values - values @ hat.T
    interaction = (residuals**2).sum(-1) / df
    own = np.stack([(residuals**2 * (methods == m)).sum(-1) for m in range(n_methods)], -1)
    own_df = np.array([(1 - np.diag(hat))[methods == m].sum() for m in range(n_methods)])
    kept = own_df > 0.5
    prior = prior_df(own[..., kept] / own_df[kept], own_df[kept])
    single, single_df = _single(y, there, interaction, df)
    return SeedSpread(2 * interaction, df, single, single_df, prior)


def prior_df(variances: Array, df: Array) -> Any:
    """How alike variances are: degrees of freedom of the inverse chi-square they are drawn from.

    `variances` is `[..., groups]`, each estimated with its `df`. Infinite where they spread no more
    than chance does. Method of moments on their logs: Smyth (2004), section 6.2.
    """
    if variances.shape[-1] < 2:
        return np.full(variances.shape[:-1], np.inf)
    logs = np.log(np.maximum(variances, np.finfo(float).tiny))
    excess = logs - polygamma(0, df / 2) + np.log(df / 2)
    beyond = excess.var(-1, ddof=1) - polygamma(1, df / 2).mean()
    found = 2 * _trigamma_inverse(np.where(beyond > 0, beyond, 1.0))
    return np.where(beyond > 0, found, np.inf)


def pooled_uncertainty(
    first: Sequence[Array], second: Sequence[Array], spread: SeedSpread, trained: int = 2
) -> tuple[Any, Uncertainty]:
    """Mean of first minus second, and its uncertainty, paired by seed and by question.

    `first[b]` and `second[b]` are `[..., seeds, questions]` answers whose rows are the same seeds
    and whose columns are the same questions; benchmarks weigh the same. `trained` says how many of
    the two sides were trained: an untrained side is the same in every seed, so nothing cancels.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    parts = components(gaps)
    k = gaps[0].shape[-2]
    pooled, pooled_df = (
        (spread.pair, spread.pair_df) if trained == 2 else (spread.single, spread.single_df)
    )
    own = np.asarray(sum(gap.mean(-1) for gap in gaps)) / len(gaps)
    variance, df = moderated(own.var(-1, ddof=1), k - 1, pooled, pooled_df, spread.prior_df)
    # The noise of single answers is in the seeds' spread and in the questions': once is enough. It
    # stays with the seeds, whose few degrees of freedom would be too many after a subtraction.
    question = np.maximum(parts.question - parts.rest, 0.0)
    sources = Source(variance / k, df), Source(question, parts.question_df, question)
    return parts.mean, without_spread(sources, same_answers(first, second))


def same_answers(first: Sequence[Array], second: Sequence[Array]) -> Any:
    """Whether both sides gave the same answer to every question with every seed."""
    if first[0].shape != second[0].shape:
        return False
    pairs = zip(first, second, strict=True)
    return np.all([np.all(a == b, axis=(-1, -2)) for a, b in pairs], axis=0)


def moderated(
    own: ArrayLike, own_df: ArrayLike, pooled: ArrayLike, pooled_df: ArrayLike, prior: ArrayLike
) -> tuple[Any, Any]:
    """Own and pooled variance averaged with weights `own_df` and `prior`, and the sum's df.

    The degrees of freedom never exceed those of the pooled variance, which holds the own one.
    """
    weight, own_weight = np.asarray(prior, float), np.asarray(own_df, float)
    known = np.isfinite(weight)
    finite = np.where(known, weight, 0.0)
    total = finite + own_weight
    mean = (finite * np.asarray(pooled) + own_weight * np.asarray(own)) / total
    df = np.minimum(np.where(known, total, np.inf), np.asarray(pooled_df))
    return np.where(known, mean, pooled), df


def _single(y: Array, there: Array, interaction: Any, df: int) -> tuple[Any, Any]:
    """Variance of one run with the seeds' common part, and its df (Satterthwaite).

    From the seeds that every method has: the mean over methods of their variance over seeds is
    (seeds + (M - 1) interaction) / M in mean squares.
    """
    common = there.all(0)
    n_methods, n_seeds = there.shape[0], int(common.sum())
    if n_seeds < 2:
        return np.full_like(interaction, np.inf), 1.0
    between = n_methods * y[..., common].mean(-2).var(-1, ddof=1)
    rest = (n_methods - 1) * interaction
    total = (between + rest) / n_methods
    weight = between**2 / (n_seeds - 1) + rest**2 / df
    return total, np.where(weight > 0, (between + rest) ** 2 / np.where(weight > 0, weight, 1), df)


def _trigamma_inverse(x: Array) -> Array:
    """y with trigamma(y) = x > 0, by Newton on its reciprocal, which is nearly linear."""
    y = 0.5 + 1 / x
    for _ in range(20):
        value = polygamma(1, y)
        y = y + value * (1 - value / x) / polygamma(2, y)
    return y
