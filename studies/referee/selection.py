"""What a tuner with b trials reaches: the test accuracy of the trial that validation chooses.

The b trials are a random part of those that were made, so the expectation over which ones is a
closed form: sort the trials by validation accuracy, best first; the trial of rank r (from 0) is the
chosen one if it is among the b and none of the r better ones is, which has probability
C(n - r - 1, b - 1) / C(n, b). With test = validation this is the expected validation performance
of Dodge et al. (EMNLP 2019), without replacement.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def chances(n: int, b: int) -> Array:
    """Probability that the trial of each validation rank is the chosen one of b out of n.

    Raises:
        ValueError: b is not in 1..n.
    """
    if not 1 <= b <= n:
        raise ValueError(f"{b} trials out of {n} cannot be drawn")
    return np.array([comb(n - rank - 1, b - 1) / comb(n, b) for rank in range(n)])


def expected_test(validation: ArrayLike, test: ArrayLike, b: int) -> float:
    """Expected test accuracy of the best on validation of b random trials.

    Args:
        validation: accuracy of each trial; NaN where it did not finish, which is never preferred.
        test: accuracy of each trial in the same order; what an unfinished one counts as.
    """
    judged, reached = np.asarray(validation, float), np.asarray(test, float)
    order = np.argsort(-np.nan_to_num(judged, nan=-1.0), kind="stable")
    return float(chances(len(judged), b) @ reached[order])
