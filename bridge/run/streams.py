"""Order of prompts and demonstrations: a pure function of the run's seed and a counter.

Both streams depend on the seed only, not on the method, so two methods with the same seed see the
same prompts and the same demonstrations in the same order, and a resumed run needs a counter only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from bridge.models.checkpoint import Policy
from bridge.step.rows import demonstration_row
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Problem, ProblemError


@lru_cache(maxsize=8)
def _order(name: str, seed: int, epoch: int, size: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(derive_seed("order", name, seed, epoch)).shuffle(order)
    return tuple(order)


def positions(name: str, seed: int, *, start: int, n: int, size: int) -> list[int]:
    """Return indices ``start .. start + n`` of an endless, per-epoch shuffled stream."""
    return [_order(name, seed, i // size, size)[i % size] for i in range(start, start + n)]


def check_lengths(
    policy: Policy,
    problems: Sequence[Problem],
    *,
    max_response_tokens: int,
    context_tokens: int,
    with_prefixes: bool = False,
) -> None:
    """Refuse prompts or demonstrations that do not fit the model's context.

    Args:
        with_prefixes: whether an answer may follow its demonstration or a part of it.

    Raises:
        ProblemError: naming the first problem that does not fit.
    """
    for problem in problems:
        needed = len(policy.prompt_ids(problem.question)) + max_response_tokens
        for row in (demonstration_row(policy, one) for one in problem.demonstrated()):
            own = max_response_tokens if with_prefixes else 0
            needed = max(needed, len(row.prompt_ids) + len(row.response_ids) + own)
        if needed > context_tokens:
            raise ProblemError(
                f"problem '{problem.id}' needs {needed} tokens with its answer, but the model's "
                f"context is {context_tokens}; remove it or lower max_response_tokens."
            )
