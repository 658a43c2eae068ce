"""Error rates of the whole procedure, small: `benchmarks/error_rates.py` is the large version.

With 300 experiments a true rate of 5 % shows as 9 % or less in 999 of 1,000 repetitions
(3.1 binomial standard errors of 1.26 points).
"""

import numpy as np
import pytest

from benchmarks.error_rates import WORLDS, World, answers, family_errors, judged

EXPERIMENTS = 300
MOST_ERRORS = 27
SMALL = World(sizes=(80, 40), n_methods=8)


def _judged(world, n_seeds=3, **changes):
    return judged(answers(world, np.random.default_rng(n_seeds), n_seeds, EXPERIMENTS, **changes))


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize(
    "changes", [{}, {"heavy": True}, {"unequal": 0.5}], ids=["normal", "heavy", "unequal"]
)
def test_equal_methods_are_told_apart_in_one_family_of_twenty(n_seeds, changes):
    _, p, _, _ = _judged(World(**{**vars(SMALL), **changes}), n_seeds)
    assert family_errors(p) <= MOST_ERRORS


def test_a_method_that_is_ahead_is_found_more_often_than_by_the_robust_interval():
    _, pooled, _, robust = _judged(SMALL, ahead=25.0)
    found = [(p[:, -1] * p.shape[1] < 0.05).mean() for p in (pooled, robust)]
    assert found[0] > 0.6 and found[0] > 1.5 * found[1]


def test_a_lead_of_the_margin_is_not_called_equivalent():
    world = WORLDS["2,000 questions, small spread"]
    world = World(**{**vars(world), "sizes": (600,)})
    _, _, equal, _ = _judged(world, 10, ahead=2.2)
    assert (equal[:, -1] < 0.05).sum() <= MOST_ERRORS
