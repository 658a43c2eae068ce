"""The RL term per token: clipped policy gradient, KL term, entropy bonus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bridge.step.batches import MicroBatch
from bridge.step.objectives.aggregation import masked_sum
from bridge.step.objectives.kl import kl_per_token
from bridge.step.objectives.policy_gradient import clipped_policy_loss
from bridge.store.settings import TrainingConfig


class RlSums(NamedTuple):
    """Sums over a micro-batch's RL tokens, for logging."""

    clipped: float = 0.0
    kl: float = 0.0
    """k1 estimates of KL(policy to reference), nats."""
    importance: float = 0.0
    """Truncated ratios of trainer and engine."""

    def plus(self, other: RlSums) -> RlSums:
        """The sums of both."""
        return RlSums(*(a + b for a, b in zip(self, other, strict=True)))


def rl_loss(
    config: TrainingConfig,
    micro: MicroBatch,
    logprob: Tensor,
    *,
    old: Sequence[Tensor],
    reference: Tensor | None,
    entropy: Tensor | None,
    clip: bool,
) -> tuple[Tensor, RlSums]:
    """Loss per token [rows, tokens], and what is logged of it.

    Args:
        logprob: [rows, tokens] under the policy.
        old: log-probs [response tokens] of each row under the policy that the ratio is taken to;
            empty: the policy itself, so the ratio is exactly 1.
        reference: [rows, tokens] under the policy of the KL term; None without it.
        entropy: [rows, tokens], with its gradient path; None without the bonus.
        clip: whether the ratio is clipped.
    """
    behaviour = spread(old, micro, logprob.detach())
    per_token, stats = clipped_policy_loss(
        logprob,
        behaviour,
        micro.advantage.to(logprob.dtype),
        clip_low=config.clip_ratio_low if clip else None,
        clip_high=config.clip_ratio_high if clip else None,
        dual_clip=config.clip_ratio_c if clip else None,
    )
    clipped = ((stats.clipped_low | stats.clipped_high) & micro.mask).sum().item()
    mask = micro.mask.to(logprob.dtype)
    kl_sum, importance_sum = 0.0, 0.0
    if config.tis_imp_ratio_cap is not None:
        sampled = spread([torch.tensor(r.sampled_logprobs) for r in micro.rows], micro, behaviour)
        importance = (behaviour - sampled).exp().clamp(max=config.tis_imp_ratio_cap)
        per_token = importance * per_token
        importance_sum = masked_sum(importance, mask).item()
    if reference is not None:
        per_token = per_token + config.kl_coef * kl_per_token(
            logprob, reference, config.kl_estimator
        )
        kl = kl_per_token(logprob.detach(), reference, "k1")
        kl_sum = masked_sum(kl, micro.mask.float()).item()
    if entropy is not None:
        per_token = per_token - config.entropy_coeff * entropy
    return per_token, RlSums(float(clipped), kl_sum, importance_sum)


def spread(values: Sequence[Tensor], micro: MicroBatch, otherwise: Tensor) -> Tensor:
    """Values of each row's loss tokens, put in their places [rows, tokens].

    Args:
        values: one tensor per row; an empty one, or none at all, leaves ``otherwise`` there.
    """
    if not values:
        return otherwise
    out = otherwise.clone()
    for i, row in enumerate(values):
        if len(row):
            out[i, micro.mask[i]] = row.to(out)
    return out


def sampler_gap(sampled: Sequence[Sequence[float]], own: Sequence[Tensor]) -> float | None:
    """Mean |sampler's - trainer's log-prob| in nats, in the worst quarter of the answers.

    It is the rounding between two forward passes, unless the sampler had other weights. Eight rows
    across all lengths are read. Their quarters are taken apart, so that a fault that begins at late
    positions is not averaged away.

    Args:
        sampled, own: log-probs of each row's sampled tokens, rows in the order of their lengths.
    """
    if not own:
        return None
    chosen = sorted({round(i * (len(own) - 1) / 7) for i in range(8)})
    quarters: list[list[Tensor]] = [[], [], [], []]
    for i in chosen:
        gap = (torch.tensor(sampled[i]) - own[i].cpu()).abs()
        for quarter, part in zip(quarters, gap.tensor_split(4), strict=True):
            quarter.append(part)
    means = [torch.cat(quarter).mean().item() for quarter in quarters if sum(map(len, quarter))]
    return max(means)
