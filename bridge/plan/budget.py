"""What a run has spent, in each of the currencies in which budgets can be made equal.

A budget is counted by the run itself from its tokens, so the same seed ends at the same step on
every machine. Seconds are no currency: a clock inside a run would make its result depend on the
machine's load. Tables compare device time after the fact.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.store.settings import Budget


def flops(n_parameters: int, tokens: Mapping[str, int]) -> dict[str, int]:
    """FLOPs of training: 2 N per token of a forward pass, 6 N with its backward pass.

    Args:
        n_parameters: N, of the base weights.
        tokens: ``generated``, ``prefilled``, ``trained`` and ``scored``.
    """
    generate = 2 * n_parameters * (tokens["generated"] + tokens["prefilled"])
    train = 6 * n_parameters * tokens["trained"] + 2 * n_parameters * tokens["scored"]
    return {"generate": generate, "train": train, "total": generate + train}


def is_spent(budget: Budget | None, n_parameters: int, tokens: Mapping[str, int]) -> bool:
    """Whether a run has spent its budget; without one it never has."""
    if budget is None:
        return False
    if budget.currency == "flops":
        return flops(n_parameters, tokens)["total"] >= budget.amount
    return tokens[budget.currency.removesuffix("_tokens")] >= budget.amount
