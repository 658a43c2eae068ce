"""Closed-form change of the SFT loss under RL with a 0/1 reward, for one prompt.

s is the success probability under p_S, a the success rate of the expert, t = 1 / beta. By identity
I1, L(p_G) - L(p_S) = log(1 + s (e^t - 1)) - a t, in nats per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def binary_change(s: float, a: float, beta: float) -> float:
    """L(p_G) - L(p_S)."""
    t = 1.0 / beta
    with np.errstate(divide="ignore"):
        log_z = np.logaddexp(np.log1p(-s), np.log(s) + t)
    return float(log_z - a * t)


def lowest_beta(s: float, a: float) -> float | None:
    """The beta at which RL lowers L most, 1 / (logit a - logit s); None where no RL is best.

    At a = 1 it is 0: the more RL, the better.
    """
    if a <= s:
        return None
    if a == 1.0:
        return 0.0
    return float(1.0 / (np.log(a / (1 - a)) - np.log(s / (1 - s))))


def lowest_change(s: float, a: float) -> float:
    """L(p_G) - L(p_S) at that beta: -KL(Ber(a), Ber(s)), or 0 where no RL is best."""
    if a <= s:
        return 0.0
    rest = 0.0 if a == 1.0 else (1 - a) * np.log((1 - a) / (1 - s))
    return float(-(a * np.log(a / s) + rest))


def matched_noise(eps: float, beta: float) -> float:
    """C1 where p_S = p_D errs with probability eps: eps t + log(1 - eps + eps e^-t)."""
    t = 1.0 / beta
    return float(eps * t + np.log1p(-eps + eps * np.exp(-t)))


def reverse_noise(eps: float, beta: float) -> float:
    """The same change at the optimum of J - beta KL(p_S, p), i.e. with k3 in the loss.

    p = beta p_S / (lambda - r); for two answers lambda solves a quadratic, with
    lambda - 1 = (beta - 1 + sqrt((1 - beta)^2 + 4 beta (1 - eps))) / 2.
    """
    good = 1.0 - eps
    linear = beta - 1.0
    root = np.sqrt(linear**2 + 4 * beta * good)
    # Stable form of the larger root: linear is negative for beta < 1.
    offset = (linear + root) / 2 if linear >= 0 else 2 * beta * good / (root - linear)
    p_right = beta * good / offset
    p_wrong = beta * eps / (1.0 + offset)
    change = -good * np.log(p_right / good)
    return float(change - (eps * np.log(p_wrong / eps) if eps > 0 else 0.0))


@dataclass(frozen=True)
class Case:
    """A row of the table of predictions."""

    case: str
    s: float
    a: float
    beta: float
    change: float


def table() -> list[Case]:
    """The table of predictions: aligned, unpaid, in between, and matched with label noise."""
    rows = [
        Case(name, s, a, beta, binary_change(s, a, beta))
        for name, s, a in (("aligned target", 0.7, 1.0), ("target earns nothing", 0.7, 0.0))
        for beta in (0.04, 1.0)
    ]
    for s in (0.7, 0.3):
        beta = lowest_beta(s, 0.9)
        assert beta is not None
        rows.append(Case("in between, at its best beta", s, 0.9, beta, lowest_change(s, 0.9)))
    for beta in (0.04, 1.0):
        for eps in (0.05, 0.1, 0.3):
            a = 1.0 - eps
            rows.append(Case("matched, label noise", a, a, beta, matched_noise(eps, beta)))
    rows += [
        Case("the same with k3 in the loss", 1 - eps, 1 - eps, 0.04, reverse_noise(eps, 0.04))
        for eps in (0.05, 0.1, 0.3)
    ]
    rows.append(Case("matched point mass", 1.0, 1.0, 0.04, binary_change(1.0, 1.0, 0.04)))
    return rows
