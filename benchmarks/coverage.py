"""Do 95 % intervals cover? 2,000 simulated experiments per row, three seeds; prints a table.

Answers are Bernoulli with a logistic chance: a level, a normal seed effect, a normal question
effect of sd 1.5 (two methods share 0.7 of its variance). The truth is the mean over both. Beside
the interval of the tables stand two that are common: t over seed means, and the percentile
bootstrap that resamples seeds and questions (1,000 draws, the same weights for every experiment).

    python benchmarks/coverage.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from bridge.analysis.numbers.paired import difference_uncertainty
from bridge.analysis.numbers.statistics import components, crossed_limits, t_limits

EXPERIMENTS = 2000
SEEDS = 3
SIZES = (500, 272, 675, 30, 40)
LEVELS = (0.7, 0.5, 0.4, 0.2, 0.3)
SEED_SDS = (0.0, 0.02, 0.05)
QUESTION_SD = 1.5
SHARED = 0.7
DRAWS = 1000
Array = NDArray[np.float64]


def level(accuracy: float, sd: float) -> float:
    """The logit at which a normal effect of `sd` gives this mean accuracy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    share = weights / weights.sum()
    return float(brentq(lambda x: share @ expit(x + sd * nodes) - accuracy, -20, 20))


def simulate(
    random: np.random.Generator,
    n: int,
    accuracy: float,
    seed_sd: float,
    questions: Array | None = None,
) -> Array:
    """Answers `[experiments, seeds, questions]`; `seed_sd` is a fraction, not points."""
    seed_logit = seed_sd / (accuracy * (1 - accuracy))
    centre = level(accuracy, float(np.hypot(seed_logit, QUESTION_SD)))
    if questions is None:
        questions = random.normal(0, QUESTION_SD, (EXPERIMENTS, 1, n))
    seeds = random.normal(0, seed_logit, (EXPERIMENTS, SEEDS, 1))
    chance = expit((centre + seeds + questions).astype(np.float32))
    draws = random.random((EXPERIMENTS, SEEDS, n), dtype=np.float32)
    return (draws < chance).astype(float)


def two_arms(random: np.random.Generator, n: int, seed_sd: float) -> tuple[Array, Array]:
    """Answers of two methods, 60 % and 45 %, to the same questions."""
    common = random.normal(0, QUESTION_SD * SHARED**0.5, (EXPERIMENTS, 1, n))
    first, second = (
        simulate(
            random,
            n,
            accuracy,
            seed_sd,
            common + random.normal(0, QUESTION_SD * (1 - SHARED) ** 0.5, (EXPERIMENTS, 1, n)),
        )
        for accuracy in (0.6, 0.45)
    )
    return first, second


def covered(limits: tuple[Array, Array], truth: float) -> float:
    """Share of experiments in percent whose interval holds the truth."""
    return 100 * float(np.mean((limits[0] <= truth) & (truth <= limits[1])))


def bootstrap(random: np.random.Generator, answers: Array) -> tuple[Array, Array]:
    """Percentile limits of the mean when seeds and questions are both resampled."""
    _, n_seeds, n = answers.shape
    questions = random.multinomial(n, np.full(n, 1 / n), DRAWS).T / n
    seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), DRAWS).T / n_seeds
    means = np.stack([((run @ questions) * seeds).sum(0) for run in answers])
    return np.percentile(means, 2.5, axis=1), np.percentile(means, 97.5, axis=1)


def main() -> None:
    """Print the tables of docs/statistics.md."""
    print("| questions | accuracy | seed sd (points) | tables | t over seeds | bootstrap |")
    print("|---|---:|---:|---:|---:|---:|")
    for n, accuracy in zip(SIZES, LEVELS, strict=True):
        for seed_sd in SEED_SDS:
            random = np.random.default_rng([n, int(1000 * seed_sd)])
            answers = simulate(random, n, accuracy, seed_sd)
            shares = (
                covered(crossed_limits(components([answers])), accuracy),
                covered(t_limits(answers.mean(-1).T), accuracy),
                covered(bootstrap(random, answers), accuracy),
            )
            row = " | ".join(f"{share:.1f}" for share in shares)
            print(f"| {n} | {accuracy:.0%} | {100 * seed_sd:.0f} | {row} |", flush=True)
    random = np.random.default_rng(5)
    strata = [simulate(random, n, p, 0.02) for n, p in zip(SIZES, LEVELS, strict=True)]
    average = covered(crossed_limits(components(strata)), float(np.mean(LEVELS)))
    print(f"| average of the five | {np.mean(LEVELS):.0%} | 2 | {average:.1f} | | |\n", flush=True)
    print("| questions | seed sd (points) | paired difference |")
    print("|---|---:|---:|")
    for n in SIZES:
        for seed_sd in SEED_SDS:
            random = np.random.default_rng([n, int(1000 * seed_sd), 2])
            first, second = two_arms(random, n, seed_sd)
            mean, spread = difference_uncertainty([first], [second])
            half = spread.half_width()
            share = covered((mean - half, mean + half), 0.15)
            print(f"| {n} | {100 * seed_sd:.0f} | {share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
