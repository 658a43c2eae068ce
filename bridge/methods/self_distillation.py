"""On-policy self-distillation: what ``sdft`` and ``opsd`` share.

Answers are sampled from the plain prompt. A teacher, the same network, reads the same answer behind
a prompt that shows a demonstration, and the policy is moved towards it token by token:

    L = a L_RL + kappa L_ref_kl,    L_ref_kl over its own count of the policy's own tokens

No reward and no verifier unless a > 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from bridge.methods.base import StepStats, refuse
from bridge.methods.hints import TEMPLATE, check_length, check_template, hinted_prompt
from bridge.methods.own_demonstrations import PromptMethod, PromptOptions
from bridge.step.rows import Group, Phase, Request, Row
from bridge.store.schema import Count, CountOrZero
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Dataset, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.reference import Reference
    from bridge.step.trainer import Trainer
    from bridge.store.records import RunFolder


class DistillationOptions(PromptOptions):
    """Options of both methods; each has defaults of its own."""

    n: Count = 1
    """Answers per prompt."""
    divergence: Literal["sampled", "reverse", "forward", "js"]
    """Of the policy from the teacher, see :mod:`bridge.methods.divergences`."""
    js_weight: float = Field(0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of ``js``."""
    loss_temperature: float | None = Field(None, gt=0)
    """What both logits are divided by; None: the sampling temperature."""
    teacher: Literal["base", "live", "ema"]
    """The model at the start of the run, the policy as it is, or a moving average of it."""
    ema_rate: float = Field(0.01, ge=0, le=1)
    """Share of the way to the policy that ``ema`` goes after each step."""
    shown: Literal["own", "other", "none"] = "own"
    """What the teacher is shown: the prompt's demonstration, another prompt's, or no text."""
    teacher_template: str = TEMPLATE
    """Question of the teacher's prompt."""
    skip_tokens: CountOrZero = 0
    """First tokens of an answer that are left out of the loss."""
    support: CountOrZero = 0
    """Likeliest tokens of the teacher that stand for the vocabulary; 0: all of it."""
    tail: bool = False
    """With ``support``: the others count as one more token."""
    clip: float | None = Field(None, gt=0)
    """Bound on a token's divergence; without a gradient above it."""
    kappa: float = Field(1.0, ge=0)
    """Weight of the divergence."""
    rl_weight: float = Field(0.0, ge=0)
    """a: weight of the RL term on the same answers."""
    demonstrated_share: float = Field(1.0, ge=0, le=1)
    """Share of each step's prompts drawn from those with a demonstration; others teach nothing."""


class SelfDistillation(PromptMethod):
    """RL steps whose loss has the term ``ref_kl``."""

    options: DistillationOptions

    def __init__(self, options: DistillationOptions, training: TrainingConfig, seed: int = 0):
        super().__init__(options, training, seed)
        self.uses_reference = options.teacher != "live"
        self._agreeing = self._tokens = 0.0

    def check(self, where: str) -> None:
        o, t = self.options, self.training
        check_template(o.teacher_template, where)
        if o.rl_weight > 0 and o.n == 1:
            raise refuse(where, "options.rl_weight needs options.n of two or more for a baseline.")
        wrong = {
            "kl_coef": t.kl_coef > 0,
            "sharding": t.sharding.stage != "none",
            "ppo_epochs or ppo_mini_batch_size": t.several_updates,
            "precision bfloat16 with teacher ema": t.precision == "bfloat16" and o.teacher == "ema",
        }
        if found := [name for name, is_wrong in wrong.items() if is_wrong]:
            raise refuse(
                where,
                f"self-distillation does not work with training.{found[0]}: its teacher is the "
                "reference, held whole and in full precision, and answers are used once.",
            )

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        pool = dataset.demonstrations
        longest = max((p.demonstration or "" for p in pool), key=len, default="")
        for problem in pool:
            shown = {"own": problem.demonstration or "", "other": longest, "none": ""}
            asked = self._teacher_prompt(problem, shown[self.options.shown])
            check_length(self.policy, problem, asked, self.training.max_response_tokens)

    def phase(self, step: int) -> Phase:
        return Phase("rl")

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        return [Request(problem, self.options.n) for problem in problems]

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        rows = [row for group in groups for row in group.rows]
        if self.options.rl_weight > 0:
            rows = super().rows(groups, (), step)
        shown = self._shown(groups)
        return [self._taught(row, shown.get(row.problem.id)) for row in rows]

    def mix(self, step: int, stats: StepStats) -> tuple[float, ...]:
        return self.options.rl_weight, 0.0, self.options.kappa

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        self._agreeing = self._tokens = 0.0
        super().update(trainer, batch, step)
        taught = [len(row.teacher_prompt_ids) for row in batch.rows if row.teacher_prompt_ids]
        trainer.log(
            taught_rows=len(taught),
            teacher_prompt_tokens=sum(taught) / max(1, len(taught)),
            teacher_agreement=self._agreeing / max(1.0, self._tokens),
        )
        if self.options.teacher == "ema":
            _reference(trainer).follow(self.options.ema_rate)

    def divergence(self, trainer: Trainer, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        from bridge.methods.divergences import Divergence, spread_divergence  # torch
        from bridge.step.batches import micro_batches

        o = self.options
        form = Divergence(
            o.divergence,
            js_weight=o.js_weight,
            temperature=o.loss_temperature or self.training.temperature,
            support=o.support,
            tail=o.tail,
            clip=o.clip,
        )
        trainer.policy.refresh()
        policy = trainer.policy.sampler
        asked = [replace(row, prompt_ids=row.teacher_prompt_ids) for row in batch.rows]
        (seen,) = micro_batches(
            asked,
            "ref_kl",
            size=len(asked),
            pad_token_id=policy.pad_token_id,
            device=batch.input_ids.device,
        )
        if o.teacher == "live":
            found = spread_divergence(form, policy.model, policy.model, batch, seen)
        else:
            reference = _reference(trainer)
            with reference.active():
                found = spread_divergence(form, policy.model, reference.model, batch, seen)
        trainer.tokens_scored += sum(len(r.prompt_ids) + len(r.response_ids) for r in asked)
        self._agreeing += float(found[2].sum())
        self._tokens += float(batch.mask.sum())
        return found[0], found[1]

    def _shown(self, groups: Sequence[Group]) -> Mapping[str, str]:
        """Text that each prompt's teacher is shown; a prompt without one is not taught."""
        texts = {g.problem.id: g.problem.demonstration for g in groups}
        own = {name: text for name, text in texts.items() if text is not None}
        if self.options.shown == "none":
            return dict.fromkeys(own, "")
        if self.options.shown == "own":
            return own
        names = list(own)
        return {n: own[names[(i + 1) % len(names)]] for i, n in enumerate(names) if len(names) > 1}

    def _taught(self, row: Row, shown: str | None) -> Row:
        if shown is None:
            return row
        ids = self._teacher_prompt(row.problem, shown)
        return replace(row, teacher_prompt_ids=ids, skipped_tokens=self.options.skip_tokens)

    def _teacher_prompt(self, problem: Problem, shown: str) -> tuple[int, ...]:
        return hinted_prompt(self.policy, self.options.teacher_template, problem, shown)


def _reference(trainer: Trainer) -> Reference:
    from bridge.step.reference import Reference  # torch

    assert isinstance(trainer.reference, Reference)
    return trainer.reference
