"""Do 95 % intervals cover? Simulated suites with the benchmark sizes of the papers, three seeds.

Answers are Bernoulli with a logistic chance: a level, a normal seed effect, a normal question
effect. The truth is the mean over both. With 2,000 experiments a coverage of 95 % shows as
94-96 %.
"""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from bridge.analysis.comparisons import difference_components
from bridge.analysis.statistics import components, crossed_limits, t_limits

EXPERIMENTS = 2000
SIZES = (500, 272, 675, 30, 40)
QUESTION_SD = 1.5
SHARED = 0.7
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


def _level(accuracy: float, sd: float) -> float:
    """The logit at which a normal effect of `sd` gives this mean accuracy."""
    weights = WEIGHTS / WEIGHTS.sum()
    return brentq(lambda level: weights @ expit(level + sd * NODES) - accuracy, -20, 20)


def _simulate(random, n, accuracy, seed_sd, questions=None, n_seeds=3):
    """Answers `[experiments, seeds, questions]`; `seed_sd` in points of accuracy / 100."""
    seed_logit = seed_sd / (accuracy * (1 - accuracy))
    level = _level(accuracy, np.hypot(seed_logit, QUESTION_SD))
    if questions is None:
        questions = random.normal(0, QUESTION_SD, (EXPERIMENTS, 1, n))
    seeds = random.normal(0, seed_logit, (EXPERIMENTS, n_seeds, 1))
    chance = expit((level + seeds + questions).astype(np.float32))
    draws = random.random((EXPERIMENTS, n_seeds, n), dtype=np.float32)
    return (draws < chance).astype(float)


def _covered(limits, truth) -> float:
    return float(np.mean((limits[0] <= truth) & (truth <= limits[1])))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("accuracy", "seed_sd"), [(0.3, 0.0), (0.5, 0.02), (0.7, 0.05)])
def test_cell_intervals_cover_93_to_97_percent(n, accuracy, seed_sd):
    answers = _simulate(np.random.default_rng(n), n, accuracy, seed_sd)
    assert 0.93 <= _covered(crossed_limits(components([answers])), accuracy) <= 0.975


def test_the_average_of_five_benchmarks_is_covered():
    random = np.random.default_rng(5)
    levels = (0.7, 0.5, 0.4, 0.2, 0.3)
    strata = [_simulate(random, n, p, 0.02) for n, p in zip(SIZES, levels, strict=True)]
    assert 0.93 <= _covered(crossed_limits(components(strata)), np.mean(levels)) <= 0.975


def test_seed_means_alone_would_cover_too_little():
    """The reason for the question part: seeds that share questions look too much alike."""
    answers = _simulate(np.random.default_rng(1), 500, 0.5, 0.0)
    assert _covered(t_limits(answers.mean(-1).T), 0.5) < 0.92


@pytest.mark.parametrize(("n", "seed_sd"), [(500, 0.05), (272, 0.02), (30, 0.05), (40, 0.0)])
def test_paired_differences_cover(n, seed_sd):
    random = np.random.default_rng(n)
    common = random.normal(0, QUESTION_SD * np.sqrt(SHARED), (EXPERIMENTS, 1, n))
    arms = []
    for accuracy in (0.6, 0.45):
        own = random.normal(0, QUESTION_SD * np.sqrt(1 - SHARED), (EXPERIMENTS, 1, n))
        arms.append(_simulate(random, n, accuracy, seed_sd, common + own))
    parts = difference_components([arms[0]], [arms[1]])
    half = parts.half_width()
    assert 0.93 <= _covered((parts.mean - half, parts.mean + half), 0.15) <= 0.985
