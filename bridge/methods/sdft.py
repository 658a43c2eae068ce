"""``sdft``: towards a teacher that is shown the demonstration (arXiv 2601.19897).

One answer per prompt, and on its tokens KL(teacher, policy) over the vocabulary, the direction that
the authors' results come from. The teacher is a moving average of the policy.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from bridge.methods.self_distillation import DistillationOptions, SelfDistillation
from bridge.store.schema import CountOrZero


class SDFT(SelfDistillation):
    """See ``docs/methods/sdft.md``."""

    class Options(DistillationOptions):
        """Options of ``sdft``."""

        divergence: Literal["sampled", "reverse", "forward", "js"] = "forward"
        teacher: Literal["base", "live", "ema"] = "ema"
        skip_tokens: CountOrZero = 3

    options: Options
    tuning: ClassVar = {"options.ema_rate": (0.0, 0.01, 0.1)}


METHOD = SDFT
