"""Group advantages against closed forms and the statistics module."""

import math
import statistics
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.step.objectives.advantages import group_advantages

groups = st.lists(st.integers(-20, 20).map(lambda k: k / 8), min_size=2, max_size=12)


@settings(max_examples=100, deadline=None)
@given(groups)
def test_matches_the_definition(rewards: list[float]) -> None:
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    assert group_advantages(rewards, norm_by_std=False) == pytest.approx(
        [r - mean for r in rewards], abs=1e-12
    )
    assert group_advantages(rewards, norm_by_std=True) == pytest.approx(
        [(r - mean) / (std + 1e-6) for r in rewards], abs=1e-12
    )


def test_std_is_the_sample_one() -> None:
    """Seven wrong and one right: 2.47 with the sample std, 2.65 with the population std."""
    rewards = [0.0] * 7 + [1.0]
    assert group_advantages(rewards, norm_by_std=True)[-1] == pytest.approx(2.4749, abs=1e-4)
    assert group_advantages(rewards, norm_by_std=False) == [-0.125] * 7 + [0.875]


def test_eps_is_added_to_the_std() -> None:
    low, high = group_advantages([0.0, 1.0], norm_by_std=True, eps=0.5)
    assert high == pytest.approx(0.5 / (math.sqrt(0.5) + 0.5))
    assert low == -high


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_no_spread_gives_exact_zeros(reward: float, size: int, norm_by_std: bool) -> None:
    assert group_advantages([reward] * size, norm_by_std=norm_by_std) == [0.0] * size


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16))
def test_rewards_of_plus_minus_one_change_nothing_under_std(rewards: list[float]) -> None:
    signed = [2 * r - 1 for r in rewards]
    exact = group_advantages(rewards, norm_by_std=True, eps=0.0)
    assert group_advantages(signed, norm_by_std=True, eps=0.0) == pytest.approx(exact, abs=1e-12)
    # with eps, to first order eps / std, and the std of a mixed group of 16 is at least 1/4
    near = group_advantages(rewards, norm_by_std=True)
    assert group_advantages(signed, norm_by_std=True) == pytest.approx(near, rel=4e-6, abs=0)
    # without the std the map doubles every advantage
    plain = group_advantages(rewards, norm_by_std=False)
    assert group_advantages(signed, norm_by_std=False) == pytest.approx([2 * a for a in plain])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.booleans(), st.randoms())
def test_order_has_no_influence(rewards: list[float], norm_by_std: bool, random: Random) -> None:
    order = list(range(len(rewards)))
    random.shuffle(order)
    straight = group_advantages(rewards, norm_by_std=norm_by_std)
    shuffled = group_advantages([rewards[i] for i in order], norm_by_std=norm_by_std)
    assert shuffled == [straight[i] for i in order]


@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_group_without_baseline_is_refused(rewards: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more rewards"):
        group_advantages(rewards, norm_by_std=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="reward 1 of the group"):
        group_advantages([0.0, bad, 1.0], norm_by_std=True)


@pytest.mark.slow
def test_import_needs_no_torch() -> None:
    code = "import sys, bridge.step.objectives.advantages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
