"""Clipped importance-ratio policy loss per token. KL terms are left out."""

from typing import NamedTuple

import torch
from torch import Tensor

from bridge.step.objectives._shapes import require_per_token

MAX_LOG_RATIO = 20.0
"""The log-ratio is clamped to +-20 (a ratio of 2e-9 to 4.9e8), where its gradient is zero."""


class ClipStats(NamedTuple):
    """What the clip did, for logging; every tensor is [rows, len] and detached."""

    ratio: Tensor
    """pi / pi_old after the clamp of the log-ratio."""
    clipped_low: Tensor
    """bool, A < 0 and ratio < 1 - clip_low: the token gets no gradient."""
    clipped_high: Tensor
    """bool, A > 0 and ratio > 1 + clip_high: the token gets no gradient."""


def clipped_policy_loss(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> tuple[Tensor, ClipStats]:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) with rho = pi / pi_old, per token.

    PPO (arXiv 1707.06347, eq. 7), with separate bounds as in DAPO (arXiv 2503.14476, eq. 8).
    With `dual_clip` c a token with A < 0 loses at most -c A (arXiv 1912.09729, eq. 5).
    `None` removes that bound; with both removed the loss is -rho A. The log-ratio is clamped to
    +-MAX_LOG_RATIO, so that rho stays finite in float32; a token outside that range gets no
    gradient, clipped or not. No gradient flows into `old_logprob` or `advantage`.

    Args:
        logprob: [rows, len], log pi of the sampled token, nats.
        old_logprob: [rows, len], log pi_old of the same token, nats.
        advantage: [rows, 1] or [rows, len].
        clip_low: lower clip distance in [0, 1], or None.
        clip_high: upper clip distance, at least 0, or None.
        dual_clip: bound on the ratio where the advantage is negative, above 1, or None.

    Returns:
        The loss per token, [rows, len], and the clip statistics.

    Raises:
        ValueError: shapes that do not fit, or a clip distance out of range.
    """
    if old_logprob.shape != logprob.shape:
        raise ValueError(
            f"old_logprob is {list(old_logprob.shape)}, logprob is {list(logprob.shape)}"
        )
    require_per_token("advantage", advantage, logprob)
    if clip_low is not None and not 0.0 <= clip_low <= 1.0:
        raise ValueError(f"clip_low must be in [0, 1] or None, got {clip_low}")
    if clip_high is not None and not clip_high >= 0.0:
        raise ValueError(f"clip_high must be at least 0 or None, got {clip_high}")
    if dual_clip is not None and not dual_clip > 1.0:
        raise ValueError(f"dual_clip must be above 1 or None, got {dual_clip}")
    lower = 0.0 if clip_low is None else 1.0 - clip_low
    upper = float("inf") if clip_high is None else 1.0 + clip_high

    advantage = advantage.detach()
    log_ratio = (logprob - old_logprob.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    per_token = -torch.minimum(ratio * advantage, ratio.clamp(lower, upper) * advantage)
    if dual_clip is not None:
        bounded = torch.minimum(per_token, -dual_clip * advantage)
        per_token = torch.where(advantage < 0, bounded, per_token)
    seen = ratio.detach()
    stats = ClipStats(
        ratio=seen,
        clipped_low=(advantage < 0) & (seen < lower),
        clipped_high=(advantage > 0) & (seen > upper),
    )
    return per_token, stats
