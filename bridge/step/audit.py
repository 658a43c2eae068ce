"""Bugs of other libraries, on request: what they do to the gradient of the demonstrations.

arXiv 2604.23747 found them behind the baselines of several papers. With K micro-batches m of n_m
loss tokens each, N in all, the right gradient is the sum over all tokens over N.
"""

from __future__ import annotations

from torch import Tensor

from bridge.step.batches import MicroBatch
from bridge.store.settings import AuditConfig


def counts(audit: AuditConfig, micro: MicroBatch, n_micro: int) -> tuple[int, int] | None:
    """Tokens and rows to divide by in a micro-batch; None: those of the whole batch.

    Bug B divides by K n_m, so tokens of short answers weigh more.
    """
    if audit.reduction == "token_mean":
        return None
    return n_micro * max(1, int(micro.mask.sum())), n_micro * len(micro.rows)


def is_lost(audit: AuditConfig, number: int) -> bool:
    """Whether bug A drops the gradient of the micro-batch with a 0-based number."""
    return audit.accumulate == "first_only" and number > 0


def lose_earlier(audit: AuditConfig, earlier: dict[str, Tensor]) -> None:
    """Bug A': the backward call of the second term overwrites what the first one left."""
    if audit.accumulate == "last_term":
        for flat in earlier.values():
            flat.zero_()
