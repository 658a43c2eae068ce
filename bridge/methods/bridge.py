"""``bridge``: bilevel SFT-RL training (arXiv 2509.06948, Algorithm 2 of the May-2025 text).

Three sets of weights: the base weights theta (student), a LoRA adapter w on the same network
(teacher) and shadow weights theta-hat under the same adapter, which see RL only and stand in for
the student that plain RL would have given. With gradients of losses (L = -J), all at index k:

    theta'     = theta     - alpha [(1-lambda) dL_SFT/dtheta + lambda dL_RL/dtheta]        (eq. 7)
    w'         = w         - beta  [(1-lambda) dL_SFT/dw + lambda (dL_RL/dw - dL^_RL/dw)]  (eq. 8)
    theta-hat' = theta-hat - alpha dL^_RL/dtheta-hat                                       (eq. 9)

where L^ is taken at (theta-hat, w). Equation 9 is printed with the other sign; J is maximised, so
that is a typo. One generation from (theta, w) serves both RL terms, the second through the ratio
pi(theta-hat, w) / pi(theta, w) and the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from bridge.config import Closed, TrainingConfig
from bridge.methods.base import Adapter, Method, Phase

if TYPE_CHECKING:
    from bridge.training.batches import StepBatch
    from bridge.training.trainer import Trainer


class Bridge(Method):
    """See ``docs/methods/bridge.md``."""

    class Options(Closed):
        """Options of ``bridge``."""

        steps: int = Field(ge=1)
        """Joint steps; each sees one batch of rollouts and one of demonstrations."""
        rl_weight: float = Field(0.5, ge=0, le=1)
        """lambda of equations 6 to 8."""
        beta_ratio: float = Field(1.0, ge=0)
        """Adapter rate beta in units of alpha (``lr_rl``); the paper's literal reading is 1."""
        rank: int = Field(16, ge=1)
        alpha: int = Field(16, ge=1)
        """LoRA scale is alpha / rank."""
        targets: str = "all-linear"
        """Adapted layers, in peft's words."""

    options: Options
    uses_shadow = True

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.adapter = Adapter(options.rank, options.alpha, options.targets)

    @property
    def n_steps(self) -> int:
        return self.options.steps

    def phase(self, step: int) -> Phase:
        return Phase("joint")

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        rl_share = self.options.rl_weight
        rl = trainer.gradient("rl", batch)
        sft = trainer.gradient("demonstration", batch)
        with trainer.shadow_active():
            hat = trainer.gradient("rl", batch, old_logprobs=rl.logprobs)

        student = (1.0 - rl_share) * sft.gradient + rl_share * rl.gradient  # eq. 7
        gain = rl.gradient - hat.gradient  # the cooperative gain's gradient
        teacher = (1.0 - rl_share) * sft.gradient + rl_share * gain  # eq. 8

        # Simultaneous (Jacobi) updates: all three directions were taken at index k.
        phase = self.phase(step)
        trainer.descend("base", student, phase)
        trainer.descend("adapter", teacher, phase, rate=self.options.beta_ratio)
        trainer.descend("shadow", hat.gradient, phase)  # eq. 9
        trainer.log(
            teacher_sft_norm=sft.gradient.norm("adapter"),
            teacher_rl_norm=rl.gradient.norm("adapter"),
            teacher_shadow_norm=hat.gradient.norm("adapter"),
            gain_gradient_norm=gain.norm("adapter"),
            shadow_clip_share=hat.clip_share,
        )


METHOD = Bridge
