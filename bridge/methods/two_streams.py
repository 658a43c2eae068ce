"""Joint steps on rollouts and on a stream of demonstrations beside them, weighted by mu.

L = (1 - mu) L_RL + mu L_D,    each term over its own global count
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.methods.base import Method
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Count, Steps

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch
    from bridge.step.trainer import TermResult, Trainer


class StreamOptions(Closed):
    """Options of every method with both streams."""

    steps: Steps
    phi: bool
    """Weigh demonstration tokens by p (1 - p); without it c_t = 1."""
    demo_batch: Count | None = None
    """Demonstrations per step; None takes ``sft_batch_size``."""


class TwoStreams(Method):
    """Rollouts and demonstrations in every step."""

    options: StreamOptions

    def phase(self, step: int) -> Phase:
        return Phase("joint")

    def demonstrations_wanted(self, step: int) -> int:
        return self.options.demo_batch or self.training.sft_batch_size

    def token_weight(self, batch: MicroBatch) -> Tensor | None:
        if not self.options.phi:
            return None
        assert batch.logprob is not None
        return phi_weight(batch.logprob)

    def descend(self, trainer: Trainer, step: int, *terms: tuple[float, TermResult]) -> None:
        """One optimiser step on the sum of weighted terms."""
        weighed = [(weight, found.gradient.take("base")) for weight, found in terms]
        trainer.descend("base", trainer.combined(*weighed), self.phase(step))


def phi_weight(logprob: Tensor) -> Tensor:
    """p (1 - p) of log-probs; 1 - p without cancellation where p is near 1."""
    return -logprob.exp() * logprob.expm1()
