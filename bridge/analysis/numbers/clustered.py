"""Standard errors where questions come in clusters: items of one template or of one problem.

A method that finds one item of a template hard finds its siblings hard as well. Questions then are
not independent draws, and an interval that takes them for such is too narrow for new templates.
Source: Liang & Zeger, Biometrika 73 (1986); for evaluations Miller, arXiv 2411.00640, section 2.2.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bridge.analysis.numbers.paired import Difference, Refused
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.numbers.uncertainty import Source, Uncertainty

LEAST_CLUSTERS = 10
"""With fewer clusters their spread is not known, and the standard error comes out too small."""

Labels = Sequence[Hashable]


def clustered_variance(
    strata: Sequence[ArrayLike], clusters: Sequence[Labels]
) -> tuple[float, float]:
    """Squared standard error of a mean over strata (benchmarks), and its degrees of freedom.

    `strata[b]` has one number per question, `clusters[b]` the cluster of each; benchmarks weigh the
    same, and a cluster may have questions in several. The sum of the squares of the clusters' sums
    of deviations, where each deviation is divided by what its benchmark counts; with clusters of
    one question each it is the usual variance. In one benchmark this is the sandwich estimator with
    the factor G / (G - 1) for G clusters. Degrees of freedom: Satterthwaite over the benchmarks.
    Raises ValueError for a benchmark with a single cluster.
    """
    parts = []
    own, own_df = [], []
    for values, labels in zip(strata, clusters, strict=True):
        x = np.asarray(values, float)
        n_clusters = len(set(labels))
        if n_clusters < 2:
            raise ValueError("one cluster says nothing about the spread of clusters")
        correction = (n_clusters / (n_clusters - 1)) ** 0.5
        weighted = correction * (x - x.mean()) / (len(x) * len(strata))
        parts.append(pd.Series(weighted).groupby(pd.Series(list(labels))).sum())
        own.append(float((parts[-1] ** 2).sum()))
        own_df.append(n_clusters - 1)
    sums = pd.concat(parts).groupby(level=0).sum()
    squares = np.square(own) / own_df
    df = float(np.sum(own) ** 2 / squares.sum()) if squares.sum() > 0 else float(min(own_df))
    return float((sums**2).sum()), df


def clustered_difference(
    found: Difference, gaps: Sequence[Array], clusters: Sequence[Labels]
) -> Difference:
    """The same difference with an interval for new clusters of questions.

    `gaps[b]` is the difference on each question of a benchmark, mean over seeds. The part of the
    questions in the variance is replaced, that of training stays. Raises Refused for a benchmark
    with fewer than `LEAST_CLUSTERS` clusters.
    """
    fewest = min(len(set(labels)) for labels in clusters)
    if fewest < LEAST_CLUSTERS:
        raise Refused(f"a benchmark has {fewest} patterns; an interval needs {LEAST_CLUSTERS}")
    plain, _ = clustered_variance(gaps, [range(len(gap)) for gap in gaps])
    wider, df = clustered_variance(gaps, clusters)
    *training, questions = found.spread.sources
    # What the plain variance counts with the seeds, the noise of single answers, stays there.
    variance = max(float(questions.variance) + wider - plain, 0.0)
    source = Source(variance, df, max(float(questions.fixed) + wider - plain, 0.0))
    return replace(found, spread=Uncertainty((*training, source)))
