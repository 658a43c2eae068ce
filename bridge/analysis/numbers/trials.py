"""What a number of tuning trials is worth: the best of k, expected over which trials were drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def expected_best(values: ArrayLike, k: int) -> float:
    """Expected maximum of k trials drawn without replacement from those made.

    With n trials in ascending order the i-th (from 1) is the best of C(i - 1, k - 1) of the C(n, k)
    subsets. Unbiased for the expected maximum of k new trials, unlike the estimator of Dodge et al.
    (arXiv 1909.03004), who draw with replacement; Tang et al. (arXiv 2004.13705) compare the two.
    The weights are products, so that no factorial overflows.

    Raises ValueError unless 1 <= k <= n, and for a value that is not finite: what a failed trial
    counts as has to be decided by the caller.
    """
    ordered = np.sort(np.asarray(values, float).ravel())
    n = len(ordered)
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} needs 1 <= k <= trials, and there are {n}")
    if not np.isfinite(ordered).all():
        raise ValueError("a trial has no finite value")
    # weights[j] belongs to the j-th best: it is in the subset, and none of the j better ones is.
    weights = np.zeros(n)
    weights[0] = k / n
    for j in range(1, n - k + 1):
        weights[j] = weights[j - 1] * (n - k - j + 1) / (n - j)
    return float(weights @ ordered[::-1])
