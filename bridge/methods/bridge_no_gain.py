"""``bridge_no_gain``: BRIDGE with the cooperative gain taken out of the teacher's rule.

The paper's "w/o J_meta" can be read in three ways:

    joint      w' = w - beta [(1-lambda) dL_SFT/dw + lambda dL_RL/dw]
    sft_only   w' = w - beta (1-lambda) dL_SFT/dw
    fixed      w' = w = 0, so that nothing but the student's rule is left, i.e. ``mixing``

``joint`` removes the subtracted shadow term and nothing else: the teacher is still trained, on the
student's own objective, so any difference to ``bridge`` is the gain's. No shadow weights are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bridge.methods.base import refuse
from bridge.methods.bridge import Bridge

if TYPE_CHECKING:
    from bridge.step.gradients import Gradient


class BridgeNoGain(Bridge):
    """See ``docs/methods/bridge.md``."""

    class Options(Bridge.Options):
        """Options of ``bridge_no_gain``: those of ``bridge`` without a shadow."""

        shadow: Literal["none"] = "none"
        reading: Literal["joint", "sft_only", "fixed"] = "joint"
        """What is left of the teacher's rule."""

    options: Options

    def check(self, where: str) -> None:
        super().check(where)
        if self.options.reading == "fixed" and self.options.upper != "lora":
            raise refuse(where, "options: reading: fixed keeps w at 0; leave out upper.")

    def teacher(self, sft: Gradient, gain: Gradient, rl_share: float) -> Gradient | None:
        # Without a shadow `gain` is the RL term's whole gradient.
        if self.options.reading == "fixed":
            return None
        if self.options.reading == "sft_only":
            return (1.0 - rl_share) * sft
        return super().teacher(sft, gain, rl_share)


METHOD = BridgeNoGain
