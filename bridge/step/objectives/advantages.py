"""Group-relative advantages on plain Python floats: a group is a handful of rewards.

Standard library only, so that a method file imports without torch.
"""

import math
from collections.abc import Sequence


def group_advantages(
    rewards: Sequence[float], *, norm_by_std: bool, eps: float = 1e-6
) -> list[float]:
    """Advantage of each answer relative to the other answers to the same prompt.

    GRPO (arXiv 2402.03300, section 4.1.2): (r - mean) / (std + eps), `norm_by_std=True`.
    Dr.GRPO (arXiv 2503.20783, section 3.2): r - mean, `norm_by_std=False`.

    The standard deviation is the *sample* one (divisor n - 1), as in verl and TRL, which both
    call `torch.std`; the population one would make every advantage sqrt(n / (n - 1)) larger.
    A group without spread gives exact zeros, so its rows can be recognised and skipped.
    The sums are correctly rounded: the order of the answers has no influence.

    Args:
        rewards: one reward per answer of the group, two or more.
        norm_by_std: divide by the standard deviation of the group.
        eps: added to the standard deviation, in units of the reward.

    Raises:
        ValueError: fewer than two rewards (one answer has no baseline), or a reward that is
            NaN or infinite.
    """
    if len(rewards) < 2:
        raise ValueError(
            f"a group needs two or more rewards to have a baseline, got {len(rewards)}: "
            "raise the number of samples per prompt or drop the group"
        )
    for index, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(f"reward {index} of the group is {reward}; rewards must be finite")
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)  # r - mean could leave a rounding error here
    mean = math.fsum(rewards) / len(rewards)
    deviations = [reward - mean for reward in rewards]
    if not norm_by_std:
        return deviations
    std = math.sqrt(math.fsum(d * d for d in deviations) / (len(rewards) - 1))
    return [d / (std + eps) for d in deviations]
