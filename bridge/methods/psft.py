"""``psft``: proximal SFT, the clipped ratio of PPO on demonstrations (arXiv 2508.17784).

Maximise  mean_t min(rho_t, clip(rho_t, 1 - eps, 1 + eps)),   rho_t = p_t / p_old,t

which is  c_t = rho_t where rho_t <= 1 + eps, else 0. The old policy is the reference policy of the
trainer, which becomes the current one every ``refresh_every`` steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.weighted import WeightedOptions, WeightedSFT
from bridge.store.schema import Steps

if TYPE_CHECKING:
    from torch import Tensor


class PSFT(WeightedSFT):
    """See ``docs/methods/psft.md``."""

    class Options(WeightedOptions):
        """Options of ``psft``."""

        eps: float = Field(0.28, ge=0)
        """A token whose probability has grown by more than this share is left alone."""
        refresh_every: Steps = 8
        """SFT steps after which the old policy becomes the current one; 1 is SFT."""

    options: Options
    reads = ("reference",)
    uses_reference = True
    tuning: ClassVar = {"options.eps": (0.1, 0.28, 0.5)}

    def reanchor_reference(self, step: int) -> bool:
        within = step <= self.options.steps and (step - 1) % self.options.refresh_every == 0
        return within or super().reanchor_reference(step)

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        ratio = (logprob - columns["reference"]).exp()
        return ratio * (ratio <= 1.0 + self.options.eps)


METHOD = PSFT
