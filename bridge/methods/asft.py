"""``asft``: anchored SFT, DFT with a full-vocabulary KL term to the model it begins with
(arXiv 2509.23753).

L = mean_t [- sg[p_t] log p_t] + anchor mean_t KL(p_ref(. | prefix), p(. | prefix))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.weighted import WeightedOptions, WeightedSFT
from bridge.step.rows import Group, Row

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.gradients import Gradient
    from bridge.step.reference import Reference
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

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        # The reference reads a demonstration behind its own prompt.
        taught = [replace(row, teacher_prompt_ids=row.prompt_ids) for row in demonstrations]
        return super().rows(groups, taught, step)

    def divergence(self, trainer: Trainer, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        from bridge.methods.divergences import Divergence, spread_divergence  # torch

        reference, model = cast("Reference", trainer.reference), trainer.policy.sampler.model
        trainer.policy.refresh()
        with reference.active():
            loss, logprob, _ = spread_divergence(
                Divergence("forward"), model, reference.model, batch, batch
            )
        trainer.tokens_scored += sum(len(r.prompt_ids) + len(r.response_ids) for r in batch.rows)
        return loss, logprob

    def direction(self, trainer: Trainer, batch: StepBatch, gradient: Gradient) -> Gradient:
        if self.options.anchor == 0.0:
            return gradient
        anchor = trainer.gradient("ref_kl", batch).gradient.take("base")
        return trainer.combined((1.0, gradient), (self.options.anchor, anchor))


METHOD = ASFT
