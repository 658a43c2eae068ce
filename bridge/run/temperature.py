"""The sampling temperature at which the policy's tokens have a wanted entropy.

The rule of AceReason-Nemotron 1.1 (arXiv 2506.13284): entropy of softmax(z / T), a mean over the
tokens of answers drawn at that T, searched by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.run.experience import Collector
from bridge.step.rollouts import Prompt
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Problem

LOWEST, HIGHEST = 0.4, 1.4
PROMPTS = 64
HALVINGS = 7
"""The temperature is found to within 0.004."""


def calibrated_temperature(
    collector: Collector, problems: Sequence[Problem], *, target: float
) -> float:
    """Temperature in [0.4, 1.4] at which answers to the first 64 problems have this entropy.

    All temperatures use the same random numbers. What is drawn counts as the run's tokens.

    Args:
        target: nats per token. One that no temperature reaches gives the nearest bound.
    """
    low, high = LOWEST, HIGHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        if _entropy(collector, problems[:PROMPTS], middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _entropy(collector: Collector, problems: Sequence[Problem], temperature: float) -> float:
    """Mean entropy of sampled tokens in nats."""
    prompts = [
        Prompt(
            tuple(collector.policy.prompt_ids(problem.question)),
            (derive_seed("temperature", collector.seed, problem.id),),
        )
        for problem in problems
    ]
    drawn = collector.engine.generate(
        prompts, max_new_tokens=collector.training.max_response_tokens, temperature=temperature
    )
    entropies = [e for (answer,) in drawn for e in answer.entropies or ()]
    collector.tokens_prefilled += sum(len(prompt.ids) for prompt in prompts)
    collector.tokens_generated += len(entropies)
    return sum(entropies) / len(entropies)
