"""``asft``: anchored SFT, DFT with a full-vocabulary KL term to the model it begins with
(arXiv 2509.23753).

L = mean_t [- sg[p_t] log p_t] + anchor mean_t KL(p_ref(. | prefix), p(. | prefix))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.weighted import WeightedOptions, WeightedSFT

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import StepBatch
    from bridge.step.gradients import Gradient
    from bridge.step.trainer import Trainer


class ASFT(WeightedSFT):
    """See ``docs/methods/asft.md``."""

    class Options(WeightedOptions):
        """Options of ``asft``."""

        anchor: float = Field(0.05, ge=0)
        """Weight of the KL term; 0 is DFT."""
        likelihood: Literal["p", "1"] = "p"
        """c_t of the likelihood: DFT's, or SFT's."""

    options: Options
    uses_reference = True
    tuning: ClassVar = {"options.anchor": (0.02, 0.05, 0.1)}

    def check(self, where: str) -> None:
        if self.training.sharding.stage != "none":
            raise refuse(
                where,
                "asft compares whole distributions of two models, which needs one process; set "
                "training.sharding.stage to none.",
            )

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        return logprob.exp() if self.options.likelihood == "p" else logprob.new_ones(logprob.shape)

    def direction(self, trainer: Trainer, batch: StepBatch, gradient: Gradient) -> Gradient:
        if self.options.anchor == 0.0:
            return gradient
        from bridge.methods.anchoring import anchor_gradient  # torch

        anchor, kl = anchor_gradient(trainer, batch)
        trainer.log(anchor_kl=kl)
        return trainer.combined((1.0, gradient), (self.options.anchor, anchor.take("base")))


METHOD = ASFT
