"""``gac``: the mixing weight from the noise of both gradients (arXiv 2605.26184).

L = (1 - mu) L_RL + mu L_D with CHORD's c_t = p (1 - p), and mu steered towards the minimiser of
(mu - a)^2 D + mu^2 s_s + (1 - mu)^2 s_r,

    mu* = (a D + s_r) / (D + s_s + s_r)

where three cheap numbers stand for the distance and the variances of the two gradients:

    s_r   variance of the rollouts' advantages
    s_s   variance of the demonstrations' mean NLL, a tenth cut off at both ends
    D     mean over rows of the mean over tokens of (g_s - g_r)^2, g_s = -p (1 - p),
          g_r = -A on rollouts and 0 on demonstrations

    mu_ada = smooth mu + (1 - smooth) mu*;  next mu = (1 - blend) prior(step) + blend mu_ada,
    within ``cap`` of mu and within [``mu_min``, ``mu_max``]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import StepStats, refuse
from bridge.methods.two_streams import StreamOptions, TwoStreams
from bridge.store.schema import Steps, StepsOrZero
from bridge.store.settings import TrainingConfig

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class GAC(TwoStreams):
    """See ``docs/methods/gac.md``."""

    class Options(StreamOptions):
        """Options of ``gac``."""

        alpha: float = Field(0.5, ge=0, le=1)
        """a: where mu goes while both gradients are exact."""
        blend: float = Field(0.5, ge=0, le=1)
        """Weight of the estimate against the schedule; 0 is the schedule alone."""
        start: float = Field(0.5, ge=0, le=1)
        prior_warmup: StepsOrZero = 200
        """Steps over which the schedule rises from 0 to ``peak``."""
        prior_decay: Steps = 800
        """Steps over which it then falls to ``valley`` by a cosine."""
        peak: float = Field(0.85, ge=0, le=1)
        valley: float = Field(0.15, ge=0, le=1)
        cap: float = Field(0.01, ge=0, le=1)
        """Largest change of mu in a step."""
        mu_min: float = Field(0.05, ge=0, le=1)
        mu_max: float = Field(0.9, ge=0, le=1)
        smooth: float = Field(0.99, ge=0, le=1)
        smooth_from: Literal["blended", "own"] = "blended"
        """What mu* is averaged into: the mu that was used (released), or mu_ada itself (ours)."""
        ema: float = Field(0.99, ge=0, lt=1)
        """Share of the old value when a statistic is measured again."""
        refresh_every: Steps = 10
        """Steps between two measurements."""
        phi: bool = True
        """CHORD's weight p (1 - p); without it c_t = 1."""

    options: Options
    tuning: ClassVar = {"options.blend": (0.25, 0.5, 1.0)}

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.mu = self.adapted = options.start
        self.measured: dict[str, float] = {}

    def check(self, where: str) -> None:
        if self.options.mu_min > self.options.mu_max:
            raise refuse(where, "options.mu_min is above options.mu_max; swap them.")

    def prior(self, step: int) -> float:
        """The schedule alone."""
        o = self.options
        if step <= o.prior_warmup:
            return o.peak * step / o.prior_warmup
        progress = min(1.0, (step - 1 - o.prior_warmup) / o.prior_decay)
        high = (1.0 + math.cos(math.pi * progress)) / 2.0
        return high * o.peak + (1.0 - high) * o.valley

    @property
    def optimum(self) -> float:
        """mu* of what was measured."""
        distance, sft, rl = (self.measured[name] for name in ("distance", "sft", "rl"))
        total = distance + sft + rl
        return (self.options.alpha * distance + rl) / total if total > 0 else self.options.alpha

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return 1.0 - self.mu, self.mu

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        rl, taught = trainer.gradient("rl", batch), trainer.gradient("demonstration", batch)
        if not self.measured or (step - 1) % self.options.refresh_every == 0:
            self._measure(batch, {i: x.tolist() for i, x in taught.logprobs.items()})
        self._steer(step)
        trainer.log(mu=self.mu, mu_optimum=self.optimum)
        trainer.log(**{f"gac_{name}": value for name, value in self.measured.items()})
        self.descend(trainer, step, (1.0 - self.mu, rl), (self.mu, taught))

    def _steer(self, step: int) -> None:
        o = self.options
        before = self.mu if o.smooth_from == "blended" else self.adapted
        self.adapted = o.smooth * before + (1.0 - o.smooth) * self.optimum
        wanted = (1.0 - o.blend) * self.prior(step) + o.blend * self.adapted
        wanted = min(max(wanted, self.mu - o.cap), self.mu + o.cap)
        self.mu = min(max(wanted, o.mu_min), o.mu_max)

    def _measure(self, batch: StepBatch, shown: Mapping[int, Sequence[float]]) -> None:
        rollouts = [row for row in batch.rows if row.kind == "rollout"]
        gaps = [_gap(row.sampled_logprobs, row.advantage) for row in rollouts]
        gaps += [_gap(logprobs, 0.0) for logprobs in shown.values()]
        found = {
            "rl": _variance([row.advantage for row in rollouts]),
            "sft": _variance(_trimmed([-_mean(logprobs) for logprobs in shown.values()])),
            "distance": _mean(gaps),
        }
        keep = self.options.ema
        old = self.measured or found
        self.measured = {n: keep * old[n] + (1.0 - keep) * value for n, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"mu": self.mu, "adapted": self.adapted, "measured": self.measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


def _gap(logprobs: Sequence[float], advantage: float) -> float:
    """Mean over tokens of (g_s - g_r)^2, with g_r = -A."""
    return _mean([(advantage + math.exp(x) * math.expm1(x)) ** 2 for x in logprobs])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return _mean([(value - mean) ** 2 for value in values])


def _trimmed(values: Sequence[float]) -> list[float]:
    """Without the lowest and the highest tenth."""
    cut = len(values) // 10
    return sorted(values)[cut : len(values) - cut]


METHOD = GAC
