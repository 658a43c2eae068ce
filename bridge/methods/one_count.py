"""One normaliser for both terms: each loss token of a step weighs the same, whoever wrote it.

The trainer divides each term by its own count; the weights here put both over the common one.
"""

from __future__ import annotations

from bridge.methods.base import StepStats, refuse
from bridge.store.settings import TrainingConfig


def check_one_count(where: str, training: TrainingConfig) -> None:
    """Refuse two ways of aggregation.

    Raises:
        ConfigError: one sentence that begins with ``where``.
    """
    modes = (training.loss_agg_mode, training.sft_loss_agg_mode)
    if modes[0] != modes[1]:
        raise refuse(
            where,
            f"the method has one normaliser, but loss_agg_mode is {modes[0]} and "
            f"sft_loss_agg_mode is {modes[1]}; set both to the same.",
        )


def common_count(training: TrainingConfig, stats: StepStats, *, rows: int) -> tuple[float, float]:
    """Weights (a, b) that put both terms over one count.

    Args:
        rows: of the update; a row with tokens of both terms is one.
    """
    rl, demonstration = (
        (stats.tokens if training.loss_agg_mode == "token-mean" else stats.rows)[term]
        for term in ("rl", "demonstration")
    )
    total = rl + demonstration if training.loss_agg_mode == "token-mean" else rows
    return rl / total, demonstration / total
