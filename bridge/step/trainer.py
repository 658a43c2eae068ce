"""Losses, counts, clipping and optimiser steps: what must be right for every method at once.

The loss of a term is a sum of per-token weights that depend on global counts only, so it does not
change with the micro-batch split, the order of rows or padding. The RL and the demonstration term
are taken backward separately, each with its own counts.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridge.models.decoding import is_plain
from bridge.models.moments import moments_here
from bridge.models.packing import pack, row_order
from bridge.models.recomputing import recomputing
from bridge.step.audit import counts, is_lost, lose_earlier
from bridge.step.batches import MicroBatch, StepBatch, empty_micro_batch, micro_batches
from bridge.step.gradients import Gradient, combined, put_gradient
from bridge.step.objectives.aggregation import LossAggMode, masked_sum, token_weights
from bridge.step.objectives.likelihood import weighted_nll
from bridge.step.protocols import Divergence, ReferencePolicy, Score, TokenWeight, Weights
from bridge.step.rl_loss import RlSums, rl_loss, sampler_gap
from bridge.step.rows import Phase, Row, Term
from bridge.step.schedules import lr_factor
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from bridge.store.settings import TrainingConfig

TEACHER = "teacher"
"""Stage of the updates that a method without an adapter makes to the base weights: like an
adapter's they have an optimiser state of their own and no weight decay."""

_SCORED_ROWS = 256
"""Rows of a forward pass without gradient, where nothing is kept."""


class DivergedError(RuntimeError):
    """Training left the finite numbers; the run is recorded as ``diverged``."""


@dataclass(frozen=True)
class TermResult:
    """Gradient of one loss term with what came along."""

    gradient: Gradient
    loss: float
    logprobs: dict[int, Tensor]
    """Detached log-probs [response tokens] by the row's place in the batch."""
    clip_share: float = 0.0
    """Share of the term's tokens whose ratio was clipped."""


class Trainer:
    """Gradients and updates of one policy.

    Args:
        policy: the weights.
        training: the shared knobs.
        reference: policy of the KL term; needed where ``kl_coef`` > 0.
        token_weight: coefficients of the demonstration term; None: all are 1.
        divergence: loss and log-probs of a micro-batch of the term ``ref_kl``.
    """

    def __init__(
        self,
        policy: Weights,
        training: TrainingConfig,
        reference: ReferencePolicy | None = None,
        token_weight: TokenWeight | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self.policy = policy
        self.ranks = policy.ranks
        self.training = training
        self.reference = reference
        self.token_weight = token_weight
        self.divergence = divergence
        self.optimizers: dict[str, torch.optim.AdamW] = {}
        self.scalars: dict[str, float | None] = {}
        self.tokens_trained = 0
        """Tokens, prompt included, that went through a backward pass."""
        self.tokens_scored = 0
        """Tokens that went through a forward pass for the reference policy."""
        self.tokens_demonstration = 0
        """Loss tokens of demonstrations among ``tokens_trained``."""
        self._packs = isinstance(policy, WholeWeights) and is_plain(policy.sampler.model)
        self._position = (1, 1)
        self._made: dict[Term, tuple[list[Row], list[MicroBatch]]] = {}
        """Micro-batches of this step, for a term whose gradient is taken again."""
        self._taken: set[Term] = set()
        """Terms of this step whose gradient has been taken."""
        self._other: Gradient | None = None
        """The gradient of the first of them, until the second's angle with it is known."""
        self._earlier: dict[str, Tensor] = {}
        """Of an audit: this step's gradient so far."""

    def begin_step(self, step: int = 1, n_steps: int = 1) -> None:
        """Forget the scalars of the last step.

        Args:
            step: 1-based, within the stage, for the course of the learning rate.
            n_steps: of the stage.
        """
        self.scalars = {}
        self._made = {}
        self._position = (step, n_steps)
        self._taken, self._other = set(), None
        self._earlier = {}

    def log(self, **scalars: float | None) -> None:
        """Add named numbers to the step's line in ``dynamics.jsonl``."""
        self.scalars.update(scalars)

    # -- gradients ------------------------------------------------------------------------------

    def gradient(
        self,
        term: Term,
        batch: StepBatch,
        *,
        old_logprobs: Mapping[int, Tensor] | None = None,
        clip: bool = True,
    ) -> TermResult:
        """Gradient of one term of the loss at the current weights.

        The first gradient of a term in a step is the one whose loss, norm, KL and distance to the
        sampler are logged.

        Args:
            old_logprobs: behaviour log-probs by the row's place in the same batch. None:
                the batch's own, or where it has none, those of the current policy, so the ratio is
                exactly 1.
            clip: whether the ratio is clipped.

        Raises:
            DivergedError: the loss is not finite or beyond ``diverged_above_loss``.
        """
        config = self.training
        first = term not in self._taken
        logged = first and old_logprobs is None
        old = old_logprobs if old_logprobs is not None else batch.old_logprobs
        places = batch.places_of(term)
        if term == "rl" and config.kl_coef == config.entropy_coeff == 0.0:
            # Rows without an advantage contribute nothing; they still count in the means.
            places = [i for i in places if batch.rows[i].advantage != 0.0]
        total_tokens, total_rows = batch.n_tokens(term), batch.n_rows(term)
        places = [places[i] for i in self.pass_order([batch.rows[i] for i in places])]
        rows = [batch.rows[i] for i in places]
        olds = iter(self.ranks.share([old[i] for i in places]) if old and term == "rl" else [])
        references = iter(self._reference_logprobs(rows) if term == "rl" else [])
        taught = term == "demonstration"
        mode: LossAggMode = config.sft_loss_agg_mode if taught else config.loss_agg_mode
        loss_sum, sums, own_logprobs = 0.0, RlSums(), []
        micros = self._micro_batches(rows, term)
        audit = config.audit if taught else None
        with self.collecting():
            for number, micro in enumerate(micros):
                if term == "ref_kl":
                    assert self.divergence is not None
                    per_token, logprob = self.divergence(self, micro)
                else:
                    logprob, entropy = self._scores(micro, term)
                if not micro.rows:
                    next(references, None)
                    self.policy.backward(0.0 * logprob.sum())
                    continue
                if term == "rl":
                    per_token, more = rl_loss(
                        config,
                        micro,
                        logprob,
                        old=list(itertools.islice(olds, len(micro.rows))),
                        reference=next(references, None),
                        entropy=entropy,
                        clip=clip,
                    )
                    sums = sums.plus(more)
                elif term == "demonstration":
                    seen = replace(micro, logprob=logprob.detach())
                    weight = self.token_weight(seen) if self.token_weight else None
                    per_token = weighted_nll(logprob, weight)
                own_counts = audit and counts(audit, micro, len(micros))
                n_tokens, n_rows = own_counts or (total_tokens, total_rows)
                weights = token_weights(
                    micro.mask,
                    mode=mode,
                    total_tokens=n_tokens,
                    total_rows=n_rows,
                    norm_length=config.max_response_tokens,
                    dtype=logprob.dtype,
                )
                loss = masked_sum(per_token, weights)
                loss_sum += loss.item()
                if not (audit and is_lost(audit, number)):
                    self.policy.backward(loss)
                own_logprobs += [logprob[i, m].detach() for i, m in enumerate(micro.mask)]
        self.tokens_trained += _tokens(rows)
        self.tokens_demonstration += total_tokens if term == "demonstration" else 0
        loss_sum, *totals = self.ranks.total(loss_sum, *sums)
        sums = RlSums(*totals)
        logprobs = dict(zip(places, self.ranks.join(own_logprobs), strict=True))
        if term == "rl" and logged:
            self._log_rl(rows, [(old or logprobs)[i] for i in places], sums, total_tokens)
        if not math.isfinite(loss_sum) or abs(loss_sum) > config.diverged_above_loss:
            raise DivergedError(f"the {term} loss is {loss_sum}")
        gradient = Gradient(self.policy.take_gradient(), ranks=self.ranks)
        if first:
            self._taken.add(term)
            self.log(**{f"{term}_loss": loss_sum, f"{term}_grad_norm": gradient.norm(BASE)})
            if self._other is None:
                self._other = gradient.only(BASE)
            else:
                self.log(grad_cosine=self._other.cosine(gradient, BASE))
                self._other = None
        if config.audit:
            lose_earlier(config.audit, self._earlier)
            self._earlier = {**gradient.flat}  # a method may take its part out
        return TermResult(gradient, loss_sum, logprobs, sums.clipped / max(1, total_tokens))

    def _log_rl(self, rows: list[Row], own: list[Tensor], sums: RlSums, total_tokens: int) -> None:
        drawn = [
            (r.sampled_logprobs, o) for r, o in zip(rows, own, strict=True) if r.sampled_logprobs
        ]
        drawn.sort(key=lambda pair: len(pair[0]))
        self.log(sync_logprob_gap=sampler_gap([s for s, _ in drawn], [o for _, o in drawn]))
        if self.training.kl_coef > 0.0 and rows:
            self.log(kl=sums.kl / max(1, total_tokens))
        if self.training.tis_imp_ratio_cap is not None:
            self.log(tis_weight_mean=sums.importance / max(1, total_tokens))
        if self.training.several_updates:
            self.log(rl_clip_share=sums.clipped / max(1, total_tokens))

    def pass_order(self, rows: Sequence[Row]) -> list[int]:
        """Order in which the passes take rows; rows in it make the same micro-batches again."""
        if self.training.audit:  # the bugs depend on it, and libraries take the batch's
            return list(range(len(rows)))
        return row_order([row.pair for row in rows], by_prompt=self._packs)

    @torch.no_grad()
    def logprobs(
        self, term: Term, batch: StepBatch, score: Score | None = None
    ) -> dict[int, Tensor]:
        """Log-probs [loss tokens] of a term's rows by place, under the weights or ``score``."""
        places = batch.places_of(term)
        own: list[Tensor] = []
        for micro in self._micro_batches([batch.rows[i] for i in places], term):
            logprob = self._logprob(score or self.policy.score, micro, term)
            own += [logprob[i, micro.mask[i]] for i in range(len(micro.rows))]
        return dict(zip(places, self.ranks.join(own), strict=True))

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, backward passes add to the policy's flat gradient."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.policy.collecting())
            if self.training.activation_checkpointing:
                stack.enter_context(recomputing(self.policy.sampler.model))
            yield

    def _scores(self, micro: MicroBatch, term: Term) -> tuple[Tensor, Tensor | None]:
        """Log-probs [rows, tokens] under the policy and, for the entropy bonus, the entropies."""
        if term == "rl" and self.training.entropy_coeff > 0.0:
            return self.policy.score_with_entropy(*micro.asked(self.training.temperature))
        return self._logprob(self.policy.score, micro, term), None

    def _logprob(self, score: Score, micro: MicroBatch, term: Term) -> Tensor:
        """Log-probs [rows, tokens] of the targets.

        What was sampled is scored at the sampling temperature, what was demonstrated at
        temperature 1: that is the distribution SFT fits.
        """
        temperature = self.training.temperature if term == "rl" else 1.0
        return score(*micro.asked(temperature))

    def _micro_batches(
        self, rows: list[Row], term: Term, *, size: int | None = None
    ) -> list[MicroBatch]:
        """This rank's share of the rows. Ranks whose share makes fewer micro-batches get empty ones
        behind, for all have to make as many passes."""
        if size is None and term in self._made and self._made[term][0] == rows:
            return self._made[term][1]
        pad, device = self.policy.sampler.pad_token_id, self.policy.sampler.model.device
        own = list(
            micro_batches(
                self.ranks.share(rows),
                term,
                size=size or self.training.micro_batch_rows,
                tokens=self.training.micro_batch_tokens,
                pad_token_id=pad,
                device=device,
            )
        )
        if self._packs and term != "ref_kl":
            model = self.policy.sampler.model
            own = [replace(m, packed=pack([r.pair for r in m.rows], m.mask, model)) for m in own]
        missing = self.ranks.most(len(own)) - len(own)
        own += missing * [empty_micro_batch(pad, device)]
        if size is None:
            self._made[term] = (rows, own)
        return own

    @torch.no_grad()
    def _reference_logprobs(self, rows: list[Row]) -> list[Tensor]:
        """Log-probs [rows, tokens] of each micro-batch under the reference; empty without KL term.

        All are taken before the first backward pass, so that the reference and the activations of
        the policy need not be on the device together.
        """
        if self.training.kl_coef == 0.0:
            return []
        assert self.reference is not None, "kl_coef > 0 needs a reference policy"
        with self.reference.active() as score:
            micros = self._micro_batches(rows, "rl")
            logprobs = [self._logprob(score, micro, "rl") for micro in micros]
        self.tokens_scored += _tokens(rows)
        return logprobs

    @contextlib.contextmanager
    def shadow_active(self) -> Iterator[None]:
        """Inside, gradients are taken at the shadow weights under the same adapter."""
        with self.policy.shadow_active():
            yield

    @contextlib.contextmanager
    def forked_shadow(
        self, phase: Phase, *, rate: float = 1.0
    ) -> Iterator[Callable[[Gradient], None]]:
        """Inside, gradients are taken at a copy of the base weights that is freed at the end.

        Yields:
            The function that makes one AdamW step of the copy against a direction. Its optimiser
            starts fresh and is forgotten with the copy: the first step is AdamW's bias-corrected
            first step, the sign of the gradient times the rate up to epsilon.
        """
        with self.policy.forked_shadow():
            optimizer = self._new_optimizer(BASE, phase)

            def climb(direction: Gradient) -> None:
                self._step(optimizer, BASE, direction, rate * self.learning_rate(phase), SHADOW)

            yield climb

    @torch.no_grad()
    def demonstration_loss(self, rows: list[Row]) -> float:
        """Mean negative log-likelihood per response token, in nats.

        Raises:
            DivergedError: it is not finite.
        """
        total = 0.0
        for micro in self._micro_batches(rows, "demonstration", size=_SCORED_ROWS):
            logprob = self._logprob(self.policy.score, micro, "demonstration")
            total -= masked_sum(logprob, micro.mask.float()).item()
        (total,) = self.ranks.total(total)
        if not math.isfinite(total):
            raise DivergedError(f"the loss on the probe's demonstrations is {total}")
        return total / sum(len(row.response_ids) for row in rows)

    combined = staticmethod(combined)

    # -- updates --------------------------------------------------------------------------------

    def descend(self, group: str, direction: Gradient, phase: Phase, *, rate: float = 1.0) -> None:
        """One AdamW step of a group against a direction.

        Args:
            group: ``base``, ``adapter`` or ``shadow``. The shadow has the base's shape and takes
                the base part of the direction.
            direction: its memory is used up where it is ``spare``.
            rate: factor on the phase's learning rate.

        Raises:
            DivergedError: the gradient or the updated weights are not finite.
        """
        optimizer = self.optimizer(group, phase)
        name = TEACHER if phase.stage == TEACHER else group
        norm = self._step(optimizer, group, direction, rate * self.learning_rate(phase), name)
        self.log(**{"grad_norm" if name == BASE else f"{name}_grad_norm": norm})

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        group: str,
        direction: Gradient,
        learning_rate: float,
        name: str,
    ) -> float:
        """Clip, make an optimiser step and return the norm before clipping."""
        parameters = self.policy.parameters[group]
        flat = direction.flat[ADAPTER if group == ADAPTER else BASE]
        norm = self.ranks.norm(flat)
        if not math.isfinite(norm):
            raise DivergedError(f"the gradient norm of the {name} weights is {norm}")
        if norm > self.training.max_grad_norm:
            factor = self.training.max_grad_norm / norm
            flat = flat.mul_(factor) if direction.spare else flat * factor
        put_gradient(parameters, flat)
        for settings in optimizer.param_groups:
            settings["lr"] = learning_rate
        with moments_here(optimizer, waiting=self.training.cpu_offload):
            optimizer.step()
        self.policy.changed()
        for parameter in parameters:
            parameter.grad = None
        broken = not torch.stack(torch._foreach_norm(tuple(parameters))).isfinite().all()
        if self.ranks.most(int(broken)):
            raise DivergedError(f"the {name} weights are no longer finite after an update")
        return norm

    def learning_rate(self, phase: Phase) -> float:
        """``lr_sft`` for pure SFT steps, ``lr_rl`` for RL and joint steps, each on its course."""
        config = self.training
        sft = phase.kind == "sft"
        return (config.lr_sft if sft else config.lr_rl) * lr_factor(
            config.sft_lr_scheduler_type if sft else config.lr_scheduler_type,
            *self._position,
            warmup_ratio=config.sft_lr_warmup_ratio if sft else config.lr_warmup_ratio,
            min_lr_ratio=config.sft_min_lr_ratio if sft else config.min_lr_ratio,
        )

    def optimizer(self, group: str, phase: Phase) -> torch.optim.AdamW:
        """The optimiser of a group for a (stage, kind); made at first use."""
        name = f"{group}/{phase.stage}/{phase.kind}"
        if name not in self.optimizers:
            ended = [n for n in self.optimizers if _of_an_ended_stage(n, group, phase)]
            for old in ended:
                del self.optimizers[old]
            self.optimizers[name] = self._new_optimizer(group, phase)
        return self.optimizers[name]

    def _new_optimizer(self, group: str, phase: Phase) -> torch.optim.AdamW:
        config = self.training
        return torch.optim.AdamW(
            self.policy.parameters[group],
            lr=self.learning_rate(phase),
            betas=(config.adam_beta1, config.adam_beta2),
            fused=True,  # a quarter of the time, and no copies of all weights at once
            # Decay would pull the adapter towards zero, i.e. towards no teacher.
            weight_decay=0.0 if group == ADAPTER or phase.stage == TEACHER else config.weight_decay,
        )


def _of_an_ended_stage(name: str, group: str, phase: Phase) -> bool:
    """Whether an optimiser belongs to a stage of the same group that this phase has come after."""
    of_group, stage, _ = name.split("/")
    return of_group == group and stage != phase.stage and TEACHER not in (stage, phase.stage)


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.prompt_ids) + len(row.response_ids) for row in rows)
