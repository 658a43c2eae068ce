"""``eaft``: entropy-adaptive fine-tuning, SFT that spares what the model is sure of
(arXiv 2601.02151).

c_t = (H_t / norm) ^ alpha

with H_t the entropy, in nats, of the ``top_k`` likeliest tokens, renormalised among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.weighted import WeightedOptions, WeightedSFT

if TYPE_CHECKING:
    from torch import Tensor


class EAFT(WeightedSFT):
    """See ``docs/methods/eaft.md``."""

    class Options(WeightedOptions):
        """Options of ``eaft``."""

        alpha: float = Field(1.0, ge=0)
        """Exponent; 0 is SFT."""
        top_k: int = Field(20, ge=2, le=1_000_000)
        norm: Literal["3", "ln_k"] = "3"
        """The constant of the released code, or the largest entropy of k tokens."""

    options: Options
    reads = ("topk_entropy",)
    tuning: ClassVar = {"options.alpha": (0.5, 1.0, 2.0)}

    @property
    def top_k(self) -> int:
        return self.options.top_k

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        norm = 3.0 if self.options.norm == "3" else math.log(self.options.top_k)
        return (columns["topk_entropy"] / norm) ** self.options.alpha


METHOD = EAFT
