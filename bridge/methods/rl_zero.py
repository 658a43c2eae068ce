"""``rl_zero``: GRPO from the base model, no demonstrations.

Group advantages with or without the standard deviation, clip pair, KL term and aggregation mode are
set for all methods together in ``TrainingConfig``.
"""

from __future__ import annotations

from typing import ClassVar

from bridge.methods.base import Method
from bridge.store.schema import Closed, Steps


class RLZero(Method):
    """See ``docs/methods/rl_zero.md``."""

    class Options(Closed):
        """Options of ``rl_zero``."""

        steps: Steps
        """RL steps."""

    options: Options
    tuning: ClassVar = {}


METHOD = RLZero
