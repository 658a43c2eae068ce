"""``bridge``: bilevel SFT-RL training (arXiv 2509.06948, Algorithm 2 of the May-2025 text).

Three sets of weights: the base weights theta (student), an adapter w on the same network (teacher)
and shadow weights theta-hat under the same adapter, which see RL only and stand in for the student
that plain RL would have given. With gradients of losses (L = -J), all at index k:

    theta'     = theta     - alpha [(1-lambda) dL_SFT/dtheta + lambda dL_RL/dtheta]        (eq. 7)
    w'         = w         - beta  [(1-lambda) dL_SFT/dw + lambda (dL_RL/dw - dL^_RL/dw)]  (eq. 8)
    theta-hat' = theta-hat - alpha dL^_RL/dtheta-hat                                       (eq. 9)

where L^ is taken at (theta-hat, w). Equation 9 is printed with the other sign; J is maximised, so
that is a typo. One generation from (theta, w) serves both RL terms, the second through the ratio
pi(theta-hat, w) / pi(theta, w) and the clip.

The defaults are the paper's letter; every open choice is an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import Adapter, Method, refuse
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps, StepsOrZero
from bridge.store.settings import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import StepBatch
    from bridge.step.gradients import Gradient
    from bridge.step.trainer import TermResult, Trainer


class Bridge(Method):
    """See ``docs/methods/bridge.md``."""

    class Options(Closed):
        """Options of ``bridge``."""

        steps: Steps
        """Joint steps; each sees one batch of rollouts and one of demonstrations."""
        sft_steps: StepsOrZero = 0
        """SFT steps of theta before them, with an optimiser of their own; theta-hat goes along."""
        rl_weight: float = Field(0.5, ge=0, le=1)
        """lambda of equations 6 to 8, at the first step."""
        anneal: Literal["constant", "linear", "per_epoch"] = "constant"
        """Course of lambda: a straight line over the steps, or equal stairs."""
        rl_weight_end: float | None = Field(None, ge=0, le=1)
        """lambda at the last step, where it is annealed."""
        anneal_epochs: int | None = Field(None, ge=2, le=100_000)
        """Number of stairs of ``per_epoch``."""
        shadow: Literal["persistent", "lookahead", "m_step", "none"] = "persistent"
        """theta-hat: kept and moved by one RL step per iteration; one or ``shadow_steps`` RL steps
        from theta, made anew in each iteration; or left out with the subtracted term."""
        shadow_steps: Steps = 1
        """m of ``m_step``; with 1 it is ``lookahead``."""
        shadow_rollouts: Literal["shared", "own"] = "shared"
        """Rollouts of the shadow's RL term: the student's, or drawn from (theta-hat, w)."""
        shadow_ratio: Literal["clipped", "unclipped", "none"] = "clipped"
        """Importance ratio of shared rollouts; ``none`` takes it as 1."""
        update_order: Literal["jacobi", "gauss_seidel"] = "jacobi"
        """All gradients at index k; or theta, then theta-hat, then w, each at the newest values."""
        sft_rate_ratio: float = Field(1.0, ge=0)
        """alpha_SFT / alpha_RL: factor on the SFT gradient in the student's direction."""
        beta_ratio: float = Field(1.0, ge=0)
        """Teacher's rate beta in units of alpha (``lr_rl``); the paper's literal reading is 1."""
        shadow_rate_ratio: float = Field(1.0, ge=0)
        """Rate of theta-hat in units of alpha."""
        reference_every: StepsOrZero = 0
        """Steps after which the KL reference becomes the current policy; 0 keeps the base model."""
        upper: Literal["lora", "full", "base"] = "lora"
        """What w is: LoRA factors, a second full set of weights, or the base weights themselves."""
        rank: int = Field(16, ge=1, le=4096)
        alpha: int = Field(16, ge=1, le=4096)
        """LoRA scale is alpha / rank."""
        targets: str = Field("all-linear", max_length=500)
        """Adapted layers, as peft takes them: all, or a regular expression of whole names."""

    options: Options
    tuning: ClassVar = {"options.rl_weight": (0.3, 0.5, 0.7)}

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        if options.upper != "base":
            full = options.upper == "full"
            self.adapter = Adapter(options.rank, options.alpha, options.targets, full)
        self.uses_shadow = options.shadow == "persistent"
        self.forks_shadow = options.shadow in ("lookahead", "m_step")
        self.shadow_rollouts = options.shadow_rollouts == "own"

    def check(self, where: str) -> None:
        chosen = self.options
        annealed, stairs = chosen.anneal != "constant", chosen.anneal == "per_epoch"
        lora = (chosen.rank, chosen.alpha, chosen.targets) == (16, 16, "all-linear")
        impossible = {
            "anneal and rl_weight_end go together; give both or neither": (
                annealed == (chosen.rl_weight_end is None)
            ),
            "anneal: per_epoch and anneal_epochs go together; give both or neither": (
                stairs == (chosen.anneal_epochs is None)
            ),
            "anneal_epochs is above steps; lower it": (chosen.anneal_epochs or 0) > chosen.steps,
            "shadow_steps above 1 needs shadow: m_step": (
                chosen.shadow_steps > 1 and chosen.shadow != "m_step"
            ),
            "shadow_rollouts: own needs shadow: persistent, the only one that is there when "
            "rollouts are drawn": self.shadow_rollouts and chosen.shadow != "persistent",
            "shadow_ratio says how shared rollouts are weighted; with shadow_rollouts: own leave "
            "it at clipped": self.shadow_rollouts and chosen.shadow_ratio != "clipped",
            "with shadow: none there is nothing that shadow_ratio or shadow_rate_ratio could "
            "change; leave them out": (
                chosen.shadow == "none"
                and (chosen.shadow_ratio, chosen.shadow_rate_ratio) != ("clipped", 1.0)
            ),
            "reference_every needs a KL term; set training.kl_coef above 0": (
                chosen.reference_every > 0 and self.training.kl_coef == 0.0
            ),
            "rank, alpha and targets belong to upper: lora; leave them out": (
                chosen.upper != "lora" and not lora
            ),
            "upper: full is a second set of all weights, which trainable: lora does not hold; take "
            "upper: lora or base": chosen.upper == "full" and self.training.trainable == "lora",
        }
        for reason, applies in impossible.items():
            if applies:
                raise refuse(where, f"options: {reason}.")

    @property
    def n_steps(self) -> int:
        return self.options.sft_steps + self.options.steps

    def phase(self, step: int) -> Phase:
        return Phase("sft", "sft") if step <= self.options.sft_steps else Phase("joint")

    def reanchor_reference(self, step: int) -> bool:
        every = self.options.reference_every
        return every > 0 and step > 1 and (step - 1) % every == 0

    def rl_weight(self, step: int) -> float:
        """lambda at a step (1-based)."""
        first, last = self.options.rl_weight, self.options.rl_weight_end
        if last is None:
            return first
        position, end = step - self.options.sft_steps - 1, self.options.steps - 1
        if self.options.anneal_epochs is not None:
            position = position * self.options.anneal_epochs // self.options.steps
            end = self.options.anneal_epochs - 1
        done = position / max(1, end)
        return (1.0 - done) * first + done * last

    # -- one step -------------------------------------------------------------------------------

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        chosen, phase = self.options, self.phase(step)
        if phase.kind == "sft":
            taught = trainer.gradient("demonstration", batch).gradient
            if self.uses_shadow:
                trainer.descend("shadow", taught.copy("base"), phase)
            return trainer.descend("base", taught.take("base"), phase)
        rl_share = self.rl_weight(step)
        simultaneous = chosen.update_order == "jacobi"
        upper = "base" if chosen.upper == "base" else "adapter"

        rl = trainer.gradient("rl", batch)
        sft = trainer.gradient("demonstration", batch)
        behaviour = batch.old_logprobs or rl.logprobs
        student = trainer.combined(  # eq. 7
            (chosen.sft_rate_ratio * (1.0 - rl_share), self._base_part(sft)),
            (rl_share, self._base_part(rl)),
        )
        if not simultaneous:
            trainer.descend("base", student, phase)
            rl = trainer.gradient("rl", batch, old_logprobs=behaviour)
            sft = trainer.gradient("demonstration", batch)

        hat = self._at_shadow(trainer, batch, rl, behaviour, phase)
        taught, gain = sft.gradient.only(upper), rl.gradient.only(upper)
        if hat is not None:
            gain = gain - hat.gradient.only(upper)  # the cooperative gain's gradient
        teacher = self.teacher(taught, gain, rl_share)

        # Simultaneous (Jacobi) updates: all three directions were taken at index k.
        if simultaneous:
            trainer.descend("base", student, phase)
        if teacher is not None:
            stage = phase if upper == "adapter" else Phase(phase.kind, "teacher")
            trainer.descend(upper, teacher, stage, rate=chosen.beta_ratio)
        if simultaneous and hat is not None and self.uses_shadow:
            self._move_shadow(trainer, hat, phase)

        trainer.log(teacher_sft_norm=taught.norm(upper), teacher_rl_norm=rl.gradient.norm(upper))
        if hat is not None:
            trainer.log(
                teacher_shadow_norm=hat.gradient.norm(upper),
                gain_gradient_norm=gain.norm(upper),
                shadow_clip_share=hat.clip_share,
            )
        if chosen.anneal != "constant":
            trainer.log(rl_weight=rl_share)

    def teacher(self, sft: Gradient, gain: Gradient, rl_share: float) -> Gradient | None:
        """Direction of w from the SFT term and the cooperative gain; None leaves w alone."""
        return (1.0 - rl_share) * sft + rl_share * gain  # eq. 8

    def _at_shadow(
        self,
        trainer: Trainer,
        batch: StepBatch,
        rl: TermResult,
        behaviour: Mapping[int, Tensor],
        phase: Phase,
    ) -> TermResult | None:
        """The RL term at (theta-hat, w); None where there is no theta-hat.

        Args:
            rl: the same term at (theta, w), at the newest theta.
            behaviour: log-probs of the policy that drew the student's rollouts.
        """
        chosen = self.options
        if chosen.shadow == "none":
            return None
        own = self.shadow_rollouts
        rollouts = batch.shadow if own else batch
        assert rollouts is not None, "the trainer draws the shadow's rollouts"
        # Own rollouts were drawn by (theta-hat, w) itself: the ratio is 1, as it is for `none`.
        old = None if own or chosen.shadow_ratio == "none" else behaviour

        def term(old: Mapping[int, Tensor] | None) -> TermResult:
            clip = chosen.shadow_ratio == "clipped"
            return trainer.gradient("rl", rollouts, old_logprobs=old, clip=clip)

        if chosen.shadow == "persistent":
            with trainer.shadow_active():
                hat = term(old)
            if chosen.update_order == "jacobi":
                return hat
            self._move_shadow(trainer, hat, phase)
            with trainer.shadow_active():
                return term(hat.logprobs if own else old)
        with trainer.forked_shadow(phase, rate=chosen.shadow_rate_ratio) as climb:
            climb(rl.gradient)  # theta-hat = theta - alpha dL_RL/dtheta, memoryless AdamW
            for _ in range(chosen.shadow_steps - 1):
                climb(term(old).gradient)
            trainer.log(shadow_distance=trainer.policy.shadow_distance())
            return term(old)

    def _move_shadow(self, trainer: Trainer, hat: TermResult, phase: Phase) -> None:
        direction, rate = self._base_part(hat), self.options.shadow_rate_ratio
        trainer.descend("shadow", direction, phase, rate=rate)  # eq. 9

    def _base_part(self, term: TermResult) -> Gradient:
        """The base's gradient, to be used up: itself, or a copy where it is needed once more.

        It is needed as the gradient of w where that is of the base's shape, and as the first step
        of a theta-hat that is made anew.
        """
        once = self.options.upper == "lora" and self.options.shadow in ("persistent", "none")
        return term.gradient.take("base") if once else term.gradient.copy("base")


METHOD = Bridge
