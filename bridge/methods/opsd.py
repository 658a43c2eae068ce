"""``opsd``: towards the first policy, shown the solution (arXiv 2601.18734).

As ``sdft``, with the Jensen-Shannon divergence at the sampling temperature and a teacher that stays
what the policy was at the start.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from bridge.methods.self_distillation import DistillationOptions, SelfDistillation


class OPSD(SelfDistillation):
    """See ``docs/methods/opsd.md``."""

    class Options(DistillationOptions):
        """Options of ``opsd``."""

        divergence: Literal["sampled", "reverse", "forward", "js"] = "js"
        teacher: Literal["base", "live", "ema"] = "base"

    options: Options
    tuning: ClassVar = {"options.js_weight": (0.1, 0.5, 0.9)}


METHOD = OPSD
