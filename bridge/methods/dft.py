"""``dft``: dynamic fine-tuning, SFT with each token weighted by its probability
(arXiv 2508.05629).

L = - mean_t sg[p_t] log p_t,    so c_t = p_t
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bridge.methods.weighted import WeightedOptions, WeightedSFT

if TYPE_CHECKING:
    from torch import Tensor


class DFT(WeightedSFT):
    """See ``docs/methods/dft.md``."""

    class Options(WeightedOptions):
        """Options of ``dft``."""

    tuning: ClassVar = {}

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        return logprob.exp()


METHOD = DFT
