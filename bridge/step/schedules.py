"""Learning rates over the steps of a stage: warm-up, then constant, linear or cosine to a floor."""

from __future__ import annotations

import math
from typing import Literal

SchedulerType = Literal["constant", "linear", "cosine"]


def lr_factor(
    kind: SchedulerType, step: int, n_steps: int, *, warmup_ratio: float, min_lr_ratio: float
) -> float:
    """Factor on the learning rate of a step.

    It rises in equal steps over the first ``round(warmup_ratio n_steps)`` steps, the first of which
    already moves the weights, and reaches 1 with the last of them; then it falls from 1 towards
    ``min_lr_ratio``, which the step after the last would have. As transformers' and verl's
    schedules, but for their first warm-up step at rate 0.

    Args:
        step: 1-based, within the stage.
        n_steps: of the stage.
    """
    warmup = round(warmup_ratio * n_steps)
    if step <= warmup:
        return step / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup - 1) / (n_steps - warmup)
    left = 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return min_lr_ratio + (1.0 - min_lr_ratio) * left
