"""``chord``: RL and a separate demonstration stream, weighted by mu (arXiv 2508.11408).

L = (1 - mu) L_RL + mu L_D,    each term over its own global count
mu variant:   c_t = 1,               mu from ``mu_start`` to ``mu_end`` by a cosine
phi variant:  c_t = p_t (1 - p_t),   mu = ``mu_start`` throughout
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.methods.base import StepStats, Times, refuse
from bridge.methods.two_streams import StreamOptions, TwoStreams, phi_weight
from bridge.store.schema import Steps

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class Chord(TwoStreams):
    """See ``docs/methods/chord.md``."""

    class Options(StreamOptions):
        """Options of ``chord``."""

        mu_start: float = Field(0.9, ge=0, le=1)
        mu_end: float = Field(0.05, ge=0, le=1)
        mu_steps: Steps = 200
        """Steps from ``mu_start`` to ``mu_end``; after them mu stays."""
        phi: bool = False
        """Weigh tokens by p (1 - p) under the constant mu ``mu_start``."""
        renormalise: bool = False
        """Divide the phi weights by their mean over the step's demonstration tokens."""

    options: Options
    tuning: ClassVar = {"options.mu_start": Times((0.25, 0.5, 1))}

    def check(self, where: str) -> None:
        if self.options.renormalise and not self.options.phi:
            raise refuse(where, "options.renormalise acts on phi weights; set options.phi too.")

    def mu(self, step: int) -> float:
        """Weight of the demonstration term: ``mu_start`` at step 1, ``mu_end`` after the decay."""
        o = self.options
        if o.phi:
            return o.mu_start
        progress = min(1.0, (step - 1) / o.mu_steps)
        high = (1.0 + math.cos(math.pi * progress)) / 2.0
        return high * o.mu_start + (1.0 - high) * o.mu_end

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return 1.0 - self.mu(step), self.mu(step)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        mu = self.mu(step)
        trainer.log(mu=mu)
        if not self.options.renormalise:
            return super().update(trainer, batch, step)
        rl, taught = trainer.gradient("rl", batch), trainer.gradient("demonstration", batch)
        # The mean is over the whole step, so the split into micro-batches cannot change it.
        phi_sum = sum(float(phi_weight(logprob).sum()) for logprob in taught.logprobs.values())
        scale = batch.n_tokens("demonstration") / phi_sum if phi_sum > 0.0 else 0.0
        trainer.log(phi_mean=phi_sum / batch.n_tokens("demonstration"))
        self.descend(trainer, step, (1.0 - mu, rl), (mu * scale, taught))


METHOD = Chord
