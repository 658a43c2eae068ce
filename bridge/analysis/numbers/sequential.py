"""Looking after every seed: intervals that stay valid however often and whenever one stops.

A fixed interval covers 95 % for a number of seeds chosen beforehand; adding seeds until it excludes
zero makes errors certain in the end. A confidence sequence covers at all numbers of seeds at once.
Here it is the one of the t-test e-process with a normal prior N(0, g) on the standardised effect
and the right Haar prior on the scale,

    E_n(m) = (1 + n g)^(-1/2) [ (1 + t^2 / v) / (1 + t^2 / (v (1 + n g))) ]^(n / 2),   v = n - 1,

with t the t statistic against m (Gönen, Johnson, Lu, Westfall, Am. Stat. 59, 2005); under optional
stopping it exceeds 1 / alpha with probability at most alpha, whatever the scale (Hendriksen, de
Heide, Grünwald, Bayesian Anal. 16, 2021). Solved for t it is an interval in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bridge.analysis.numbers.statistics import LEVEL

EFFECT_VARIANCE = 1.0
"""g: the prior variance of an effect in standard deviations of one paired difference."""
Decision = Literal["different", "equivalent", "go on"]


def e_value(values: ArrayLike, against: float = 0.0, g: float = EFFECT_VARIANCE) -> float:
    """Evidence against a mean of ``against``; 1 for fewer than two values. Above 20 rejects at 5 %
    at any time."""
    x = np.asarray(values, float)
    n = len(x)
    if n < 2:
        return 1.0
    spread = float(x.std(ddof=1))
    if spread == 0:
        return 1.0 if float(x.mean()) == against else np.inf
    ratio = n * (float(x.mean()) - against) ** 2 / spread**2 / (n - 1)  # t^2 / v
    log = n / 2 * (np.log1p(ratio) - np.log1p(ratio / (1 + n * g))) - np.log1p(n * g) / 2
    return float(np.exp(log))


def half_width(values: ArrayLike, level: float = LEVEL, g: float = EFFECT_VARIANCE) -> float:
    """Half-width of the confidence sequence now: all means whose e-value is below 1 / (1 - level).
    Infinite while there are too few values for any evidence to reach that."""
    x = np.asarray(values, float)
    n = len(x)
    if n < 2:
        return float("inf")
    shrink = 1 + n * g
    # E_n < 1 / alpha  <=>  (1 + r) / (1 + r / shrink) < bound, with r = t^2 / v.
    bound = (np.sqrt(shrink) / (1 - level)) ** (2 / n)
    if bound >= shrink:
        return float("inf")
    ratio = (bound - 1) / (1 - bound / shrink)
    return float(np.sqrt((n - 1) * ratio / n) * x.std(ddof=1))


@dataclass(frozen=True)
class Look:
    """What is known after some seeds."""

    n: int
    mean: float
    half_width: float
    decision: Decision


def look(values: ArrayLike, margin: float, level: float = LEVEL) -> Look:
    """Whether paired differences are decided: the sequence excludes zero, or is inside the margin.

    Args:
        values: one difference per seed or world.
        margin: of equivalence, in the unit of the values, fixed beforehand.
    """
    x = np.asarray(values, float)
    mean, half = float(x.mean()), half_width(x, level)
    decision: Decision = "go on"
    if abs(mean) + half < margin:
        decision = "equivalent"
    elif abs(mean) > half:
        decision = "different"
    return Look(len(x), mean, half, decision)


def first_decision(values: ArrayLike, margin: float, level: float = LEVEL) -> Look:
    """The look at which one would have stopped, taking the values in their order; the last one
    where nothing was decided."""
    x = np.asarray(values, float)
    looks = [look(x[:n], margin, level) for n in range(2, len(x) + 1)]
    return next((found for found in looks if found.decision != "go on"), looks[-1])
