"""``bridge_no_gain``: BRIDGE with the cooperative gain taken out of the teacher's rule.

    w' = w - beta [(1-lambda) dL_SFT/dw + lambda dL_RL/dw]

Of the three readings of the paper's "w/o J_meta" (``docs/methods/bridge.md``) this is the one that
removes the subtracted shadow term and nothing else: the adapter is still trained, on the student's
own objective, so any difference to ``bridge`` is the gain's. No shadow weights are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.methods.bridge import Bridge

if TYPE_CHECKING:
    from bridge.training.batches import StepBatch
    from bridge.training.trainer import Trainer


class BridgeNoGain(Bridge):
    """See ``docs/methods/bridge.md``."""

    uses_shadow = False

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        rl_share = self.options.rl_weight
        rl = trainer.gradient("rl", batch)
        sft = trainer.gradient("demonstration", batch)
        direction = (1.0 - rl_share) * sft.gradient + rl_share * rl.gradient
        phase = self.phase(step)
        trainer.descend("base", direction, phase)
        trainer.descend("adapter", direction, phase, rate=self.options.beta_ratio)


METHOD = BridgeNoGain
