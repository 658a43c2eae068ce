"""``phases``: two phases, each SFT or RL, in any order; the arms of the coupling study.

SFT then RL, RL then SFT, the controls SFT then more SFT and RL then more RL, and with
``second_steps: 0`` the first phase alone. ``kl_in_reward`` makes it the theory arm: the penalty
beta log(p / p_ref), summed over the whole answer, is taken off the reward, whose expected gradient
is that of J - beta KL(p, p_ref). k3 in the loss (``kl_coef``), the common practice, has another
optimum.

The reference of the theory arm is the trainer's second set of base weights, which this method never
updates. It is the base model, or becomes the first phase's policy at the change of phase.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bridge.methods.base import Method, refuse
from bridge.step.rows import Phase
from bridge.store.schema import Closed, Steps, StepsOrZero
from bridge.store.settings import TrainingConfig

if TYPE_CHECKING:
    from bridge.step.batches import StepBatch
    from bridge.step.trainer import Trainer

Kind = Literal["sft", "rl"]


class Phases(Method):
    """See ``docs/methods/phases.md``."""

    class Options(Closed):
        """Options of ``phases``."""

        first: Kind = "sft"
        second: Kind = "rl"
        steps: Steps
        """Optimiser steps of the first phase."""
        second_steps: StepsOrZero | None = None
        """Optimiser steps of the second phase, with a fresh optimiser; as many as the first has
        when left out, and 0 leaves the phase out."""
        reference: Literal["base", "first"] = "first"
        """KL reference of the second phase: the base model or the first phase's policy."""
        kl_in_reward: float | None = Field(None, ge=0)
        """beta of the theory arm; None leaves the penalty out of the reward."""

    options: Options
    tuning: ClassVar = {}

    def __init__(self, options: Any, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self.uses_shadow = options.kl_in_reward is not None

    def check(self, where: str) -> None:
        beta, config = self.options.kl_in_reward, self.training
        if beta is None:
            return
        if beta == 0:
            raise refuse(
                where,
                "options.kl_in_reward is 0, but the theory arm needs beta above 0: at 0 there is "
                "no Gibbs optimum to compare with; leave the option out for RL without a penalty.",
            )
        # Each of these moves the optimum away from p_ref exp(r / beta) / Z.
        wanted = {
            "kl_coef": 0.0,
            "norm_adv_by_std_in_grpo": False,
            "loss_agg_mode": "seq-mean-token-sum",
            "temperature": 1.0,
        }
        for name, value in wanted.items():
            if getattr(config, name) != value:
                raise refuse(
                    where,
                    f"training.{name} is {getattr(config, name)}, but with options.kl_in_reward "
                    f"it must be {value}: the theory is about the plain KL-regularised reward.",
                )

    @property
    def n_steps(self) -> int:
        second = self.options.second_steps
        return self.options.steps + (self.options.steps if second is None else second)

    def phase(self, step: int) -> Phase:
        first = step <= self.options.steps
        return (
            Phase(self.options.first, stage="first")
            if first
            else Phase(self.options.second, stage="second")
        )

    def reanchor_reference(self, step: int) -> bool:
        return self.options.reference == "first" and step == self.options.steps + 1

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        beta = self.options.kl_in_reward
        if beta is not None:
            if self.reanchor_reference(step):
                _copy_base_to_reference(trainer)
            if self.phase(step).kind == "rl":
                batch = self._penalised(trainer, batch, step, beta)
        super().update(trainer, batch, step)

    def _penalised(self, trainer: Trainer, batch: StepBatch, step: int, beta: float) -> StepBatch:
        """The batch with advantages of r - beta (log p - log p_ref), log-probs of whole answers."""
        from bridge.step.scoring import sequence_logprobs  # torch

        rollouts = [row for group in batch.groups for row in group.rows]
        sequences = [(row.prompt_ids, row.response_ids) for row in rollouts]
        with trainer.shadow_active(), trainer.policy.whole_model():
            reference = sequence_logprobs(
                trainer.policy.sampler,
                sequences,
                batch_tokens=self.training.micro_batch_tokens,
            )
        trainer.tokens_scored += sum(len(p) + len(r) for p, r in sequences)
        ratios = [
            sum(row.sampled_logprobs) - ref for row, ref in zip(rollouts, reference, strict=True)
        ]
        left = iter(ratios)
        groups = [
            replace(
                group,
                rows=tuple(
                    replace(row, reward=(row.reward or 0.0) - beta * next(left))
                    for row in group.rows
                ),
            )
            for group in batch.groups
        ]
        trainer.log(kl_sequence=sum(ratios) / len(ratios))
        return replace(batch, rows=tuple(self.rows(groups, (), step)))


def _copy_base_to_reference(trainer: Trainer) -> None:
    parameters = trainer.policy.parameters
    for base, reference in zip(parameters["base"], parameters["shadow"], strict=True):
        reference.data.copy_(base.data)


METHOD = Phases
