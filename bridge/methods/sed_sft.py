"""``sed_sft``: SFT that keeps the distribution open where it is open (arXiv 2602.07464).

L = mean_t [- log p_t + penalty m_t (p_t - 1/2)^2],    so c_t = 1 - 2 penalty m_t p_t (p_t - 1/2)

with m_t = 1 where the ``top_k`` likeliest tokens together have less mass than a threshold. It is
set once, under the base model, so that a share ``ratio`` of the calibration tokens lies above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.weighted import WeightedOptions, WeightedSFT
from bridge.step.rows import demonstration_row

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.trainer import Trainer
    from bridge.store.records import RunFolder
    from bridge.tasks.base import Dataset

CALIBRATION_ROWS = 100
"""Demonstrations that the threshold is set on: of validation problems first, then of training."""


class SEDSFT(WeightedSFT):
    """See ``docs/methods/sed_sft.md``."""

    class Options(WeightedOptions):
        """Options of ``sed_sft``."""

        penalty: float = Field(1.0, ge=0)
        """lambda; 0 is SFT."""
        ratio: float = Field(0.7, ge=0, le=1)
        """Share of the calibration tokens with m = 0."""
        top_k: int = Field(10, ge=1, le=1_000_000)

    options: Options
    reads = ("topk_mass",)
    tuning: ClassVar = {"options.penalty": (0.2, 0.5, 1.0)}
    threshold = 0.0

    @property
    def top_k(self) -> int:
        return self.options.top_k

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        super().before_run(trainer, dataset, folder)
        from bridge.methods.columns import with_columns  # torch
        from bridge.methods.precomputed import identity_of, precomputed
        from bridge.step.batches import StepBatch

        shown = [p for p in dataset.validation if p.demonstration is not None]
        shown = [*shown, *dataset.demonstrations][:CALIBRATION_ROWS]
        policy, o = trainer.policy.sampler, self.options

        def compute() -> dict[str, Tensor]:
            batch = StepBatch(tuple(demonstration_row(policy, p) for p in shown))
            scored = with_columns(trainer, batch, self.reads, top_k=o.top_k)
            masses = [mass for row in scored.rows for mass in row.columns["topk_mass"]]
            return {"threshold": threshold_of(masses, o.ratio)}

        identity = identity_of(policy, shown, f"threshold of ratio {o.ratio}, top {o.top_k}")
        found = precomputed(folder.columns(), identity, trainer.ranks, compute)
        self.threshold = found["threshold"].item()

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        p, open_ = logprob.exp(), columns["topk_mass"] < self.threshold
        return 1.0 - 2.0 * self.options.penalty * open_ * p * (p - 0.5)


def threshold_of(masses: list[float], ratio: float) -> Tensor:
    """A mass that a share ``ratio`` of the tokens reaches, half-way between two of them."""
    import torch

    below = round((1.0 - ratio) * len(masses))
    ordered = [0.0, *sorted(masses), float("inf")]
    # Rounding must not decide on which side a token lies.
    return torch.tensor((ordered[below] + ordered[below + 1]) / 2.0, dtype=torch.float64)


METHOD = SEDSFT
