"""How long the rows of a run can be, in tokens, and how long they are on average."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.jobs.needs.shapes import ModelShape
from bridge.plan.grid import RunSpec

PROMPT_TOKENS = 256
"""A long problem with its chat template; a model of shorter context: a quarter of it."""
MEAN_PROMPT_TOKENS = 128
MEAN_SHARE = 0.3
"""Mean length of an answer and of a demonstration, as a share of the longest that is allowed."""


@dataclass(frozen=True)
class Rows:
    """Lengths in tokens."""

    prompt: int
    answer: int
    """The longest answer."""
    demonstration: int
    """The longest demonstration."""

    @property
    def longest(self) -> int:
        """The longest row of an update."""
        return self.prompt + max(self.answer, self.demonstration)

    @property
    def mean_answer(self) -> float:
        return MEAN_SHARE * self.answer

    @property
    def mean_demonstration(self) -> float:
        return MEAN_SHARE * self.demonstration

    @property
    def mean_prompt(self) -> float:
        return min(MEAN_PROMPT_TOKENS, self.prompt)


def rows_of(spec: RunSpec, shape: ModelShape) -> Rows:
    """The lengths of a run: limits of its configuration, and of its model's context."""
    context = shape.max_position_embeddings
    prompt = min(PROMPT_TOKENS, context // 4)
    answer = min(spec.training.max_response_tokens, context - prompt)
    demonstration = spec.dataset_options.get("max_demonstration_tokens") or answer
    return Rows(prompt, answer, min(demonstration, context - prompt))
