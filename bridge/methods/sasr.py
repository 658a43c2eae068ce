"""``sasr``: after an SFT warm-up, each step is SFT or RL by a gate on the SFT gradient's norm.

arXiv 2505.13026, read through summaries and one port (``docs/methods/sasr.md``). Phase 1 makes
``warmup_steps`` SFT steps; G_warmup is the norm of the last one's gradient and G_last = G_warmup.
In phase 2 each step draws alpha ~ U(0, 1):

    p = G_last / (G_last + gamma G_warmup)
    alpha < p: an SFT step, and G_last becomes the norm of its gradient;  otherwise: an RL step

One AdamW state serves both kinds of step. Norms are taken over the base weights before clipping.
:class:`WarmUpSwitch` is shared with the controls ``static_hybrid`` and ``replayed_schedule``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import Method, refuse
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps
from bridge.store.seeds import derive_seed
from bridge.store.settings import TrainingConfig

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer


class WarmUpOptions(Closed):
    """Options of every method with a warm-up and a switch."""

    warmup_steps: Steps
    """SFT steps of phase 1."""
    steps: Steps
    """Steps after the warm-up, SFT and RL together."""
    reference: Literal["base", "warmup"] = "warmup"
    """KL reference of the RL steps (used when ``kl_coef`` > 0)."""


class WarmUpSwitch(Method):
    """SFT warm-up, then an SFT step with probability :meth:`sft_probability`, else an RL step."""

    options: WarmUpOptions
    stream: ClassVar[str]
    """Name of the method's own random numbers."""

    @property
    def n_steps(self) -> int:
        return self.options.warmup_steps + self.options.steps

    def sft_probability(self, step: int) -> float:
        """Probability in [0, 1] that a step after the warm-up is an SFT step."""
        raise NotImplementedError

    def observe(self, phase: Phase, norm: float) -> None:
        """See the norm of a step's gradient over the base weights, before clipping."""

    def phase(self, step: int) -> Phase:
        draw, p = self._gate(step)
        stage = "warmup" if step <= self.options.warmup_steps else "main"
        return Phase("sft" if draw < p else "rl", stage)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        draw, p = self._gate(step)
        trainer.log(gate_draw=draw, sft_probability=p)
        phase = self.phase(step)
        gradient = trainer.gradient("rl" if phase.kind == "rl" else "demonstration", batch).gradient
        one = Phase("joint")  # one optimiser and one rate for both kinds of step
        trainer.descend("base", gradient, one)
        trainer.log(lr=trainer.learning_rate(one))
        self.observe(phase, gradient.norm("base"))

    def reanchor_reference(self, step: int) -> bool:
        return self.options.reference == "warmup" and step == self.options.warmup_steps + 1

    def _gate(self, step: int) -> tuple[float, float]:
        """The draw alpha in [0, 1) and the probability p that it is held against."""
        draw = random.Random(derive_seed(self.stream, self.seed, step)).random()
        return draw, 1.0 if step <= self.options.warmup_steps else self.sft_probability(step)


class SASR(WarmUpSwitch):
    """See ``docs/methods/sasr.md``."""

    class Options(WarmUpOptions):
        """Options of ``sasr``."""

        gate: Literal["ratio_warmup", "ratio_grpo_norm", "sigmoid_ratio"] = "ratio_warmup"
        """Form of p."""
        gamma: float = Field(1.0, gt=0)
        """Weight of the norm that G_last is compared with; the paper's value is not known."""
        warmup_mean_steps: Steps = 1
        """G_warmup is the mean norm of the last so many warm-up steps."""

    options: Options
    tuning: ClassVar = {"options.gamma": (0.5, 1.0, 2.0)}
    stream = "sasr"

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.warmup_norms: list[float] = []
        self.g_last = 0.0
        self.g_rl = 0.0
        self.age_steps = 0

    def check(self, where: str) -> None:
        if self.options.warmup_mean_steps > self.options.warmup_steps:
            raise refuse(
                where,
                f"options.warmup_mean_steps is {self.options.warmup_mean_steps}, but there are "
                f"{self.options.warmup_steps} warm-up steps; lower it.",
            )

    @property
    def g_warmup(self) -> float:
        """G_warmup, 0 before the first warm-up step."""
        return sum(self.warmup_norms) / max(1, len(self.warmup_norms))

    def sft_probability(self, step: int) -> float:
        if self.g_warmup == 0.0:
            return 0.0  # demonstrations without a gradient have nothing to teach
        if self.options.gate == "sigmoid_ratio":
            return 1.0 / (1.0 + math.exp(-self.g_last / self.g_warmup))
        rival = self.g_warmup if self.options.gate == "ratio_warmup" else self.g_rl
        return self.g_last / (self.g_last + self.options.gamma * rival)

    def observe(self, phase: Phase, norm: float) -> None:
        if phase.stage == "warmup":
            self.warmup_norms = [*self.warmup_norms, norm][-self.options.warmup_mean_steps :]
            self.g_last = self.g_rl = self.g_warmup
        elif phase.kind == "sft":
            self.g_last, self.age_steps = norm, 0
        else:
            self.age_steps += 1
            # A batch without spread has no norm to compare with: p = 1 would never let RL return.
            self.g_rl = norm or self.g_rl

    def state_dict(self) -> dict[str, Any]:
        names = ("warmup_norms", "g_last", "g_rl", "age_steps")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)

    def scalars(self) -> dict[str, float]:
        return {
            "gate_norm": self.g_last,
            "gate_warmup_norm": self.g_warmup,
            "gate_age_steps": self.age_steps,
        }


METHOD = SASR
