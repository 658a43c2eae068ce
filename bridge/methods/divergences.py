"""Divergences of a student from a teacher, per token and over the vocabulary.

With p the student's and q the teacher's distribution of the same next token, the gradient goes
through p alone, at a given prefix: what a token changes about later ones is not in it.

    form      value per token                                  gradient in the student's logits
    sampled   -sg[c] log p_y,  c = log q_y - log p_y           -c (1[v = y] - p_v)
    reverse   KL(p, q) = sum_v p (log p - log q)               p_v (d_v - sum p d),  d = log p / q
    forward   KL(q, p) = sum_v q (log q - log p)               p_v - q_v
    js        (1 - w) KL(p, m) + w KL(q, m),                   (1 - w) p_v (r_v - sum p r),
              m = (1 - w) p + w q                              r = log p / m

Imported by methods where they have tensors: the module needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bridge.step.batches import MicroBatch
from bridge.step.scoring import LOGITS_AT_ONCE, output_weight

Form = Literal["sampled", "reverse", "forward", "js"]


@dataclass(frozen=True)
class Divergence:
    """What is computed of two rows of logits."""

    form: Form
    js_weight: float = 0.5
    """w of ``js``, in (0, 1)."""
    temperature: float = 1.0
    """Both logits are divided by it."""
    support: int = 0
    """The teacher's so many likeliest tokens stand for the vocabulary; 0: all of it."""
    tail: bool = False
    """The other tokens are one more; otherwise both distributions are renormalised."""
    clip: float | None = None
    """A token's divergence above this is constant."""

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Per token: loss, log p of the target, and whether both have the same likeliest token.

        Args:
            student, teacher: logits [tokens, vocabulary].
            targets: [tokens], the sampled tokens.
        """
        p, q = (logits.div(self.temperature).log_softmax(-1) for logits in (student, teacher))
        taken, wanted = (x.gather(-1, targets[:, None])[:, 0] for x in (p, q))
        agrees = (student.argmax(-1) == teacher.argmax(-1)).to(p.dtype)
        if self.form == "sampled":
            return -(wanted - taken).detach() * taken, taken, agrees
        if 0 < self.support < p.shape[-1]:
            p, q = self._supported(p, q)
        loss = self._between(p, q.detach())
        loss = loss if self.clip is None else loss.clamp(max=self.clip)
        # A graph of its own would keep p of every chunk until the last one has gone backward.
        return loss, taken.detach(), agrees

    def _supported(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        places = q.topk(self.support, dim=-1).indices
        kept = [x.gather(-1, places) for x in (p, q)]
        if not self.tail:
            return kept[0].log_softmax(-1), kept[1].log_softmax(-1)
        tiny = torch.finfo(p.dtype).tiny
        rest = [(1.0 - x.exp().sum(-1, keepdim=True)).clamp(min=tiny).log() for x in kept]
        return torch.cat([kept[0], rest[0]], -1), torch.cat([kept[1], rest[1]], -1)

    def _between(self, p: Tensor, q: Tensor) -> Tensor:
        if self.form == "forward":
            return _kl(q, p)
        if self.form == "reverse":
            return _kl(p, q)
        w = p.new_tensor(self.js_weight)
        middle = torch.logaddexp(p + (1.0 - w).log(), q + w.log())
        return (1.0 - w) * _kl(p, middle) + w * _kl(q, middle)


def _kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left, right) of log-probs [tokens, vocabulary]; 0 log 0 is 0."""
    mass = left.exp()
    return (mass * (left - right).masked_fill(mass == 0, 0.0)).sum(-1)


def spread_divergence(
    divergence: Divergence,
    student: nn.Module,
    teacher: nn.Module,
    batch: MicroBatch,
    seen_by_teacher: MicroBatch,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, log-probs and agreement, each [rows, tokens] with zeros outside of the mask.

    Logits exist for a chunk of the loss tokens at a time, forward and backward.

    Args:
        seen_by_teacher: the same responses behind the teacher's prompts.
    """
    heads = output_weight(student), output_weight(teacher).detach()
    mine = _hidden(student, batch)
    with torch.no_grad():
        theirs = _hidden(teacher, seen_by_teacher)
    targets = batch.targets[batch.mask]

    def of_logits(h: Tensor, g: Tensor, y: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(h.dtype, torch.float32)
        return divergence((h @ weights[0].T).to(dtype), (g @ weights[1].T).to(dtype), y)

    at_once = max(1, LOGITS_AT_ONCE // (2 * len(heads[0])))
    chunks = [
        checkpoint(of_logits, *parts, *heads, use_reentrant=False)
        for parts in zip(*(x.split(at_once) for x in (mine, theirs, targets)), strict=True)
    ]
    columns = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    loss, logprob, agrees = (
        column.new_zeros(batch.mask.shape).masked_scatter(batch.mask, column) for column in columns
    )
    return loss, logprob, agrees


def _hidden(model: nn.Module, batch: MicroBatch) -> Tensor:
    """[loss tokens, width] of what the output layer gets at the positions that predict them."""
    base: Callable[..., tuple[Tensor, ...]] = model.base_model  # type: ignore[assignment]
    return base(input_ids=batch.input_ids, use_cache=False)[0][:, :-1][batch.mask]
