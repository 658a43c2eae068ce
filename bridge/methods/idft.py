"""``idft``: in-distribution fine-tuning, DFT whose strength follows how on-policy a token is
(arXiv 2602.12222).

phi_t = log p_t + H_t                                 (mean 0 over the model's own samples)
g_t   = clip(exp(-phi_t / beta), g_min, g_max),       c_t = p_t ^ g_t
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.weighted import WeightedOptions, WeightedSFT
from bridge.step.rows import Group

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.trainer import Trainer


class IDFT(WeightedSFT):
    """See ``docs/methods/idft.md``."""

    class Options(WeightedOptions):
        """Options of ``idft``."""

        beta: float = Field(1.0, gt=0)
        """How strongly g follows phi; large: g = 1, which is DFT."""
        g_min: float = Field(0.1, ge=0)
        g_max: float = Field(2.0, ge=0)
        """Bounds of the exponent."""

    options: Options
    reads = ("entropy",)
    probe_samples = 1
    tuning: ClassVar = {"options.beta": (0.5, 1.0, 2.0)}

    def check(self, where: str) -> None:
        if self.options.g_min > self.options.g_max:
            raise refuse(
                where,
                f"options.g_min is {self.options.g_min}, above options.g_max "
                f"{self.options.g_max}; lower it.",
            )

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        phi = logprob + columns["entropy"]
        g = (-phi / self.options.beta).exp().clamp(self.options.g_min, self.options.g_max)
        return (g * logprob).exp()

    def statistics(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> dict[str, float]:
        return {"phi_demonstrations": (logprob + columns["entropy"]).mean().item()}

    def probe(self, trainer: Trainer, groups: Sequence[Group]) -> dict[str, float | None]:
        from bridge.methods.columns import with_columns  # torch
        from bridge.step.batches import StepBatch

        rows = tuple(row for group in groups for row in group.rows)
        scored = with_columns(trainer, StepBatch(rows), ("logprob", "entropy"), term="rl").rows
        phi = [sum(pair) for row in scored for pair in zip(*row.columns.values(), strict=True)]
        return {"phi_own_samples": sum(phi) / len(phi)}


METHOD = IDFT
