"""What one step is made of: phases, requests for rollouts, rows of the update, groups.

Imports no torch, so that method files can use it where a suite is planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bridge.tasks.base import Problem, ProblemError

if TYPE_CHECKING:
    from bridge.models.checkpoint import Policy

StepKind = Literal["sft", "rl", "joint"]
RowKind = Literal["rollout", "demonstration", "hybrid"]
Term = Literal["rl", "demonstration", "ref_kl"]
"""A term of the loss; ``ref_kl`` is a divergence from what a teacher would do."""
TERMS: tuple[Term, ...] = ("rl", "demonstration", "ref_kl")


@dataclass(frozen=True)
class Phase:
    """What a step is. Each (stage, kind) keeps an optimiser state of its own, which is dropped when
    another stage begins: a stage that has ended does not return."""

    kind: StepKind
    stage: str = "main"


@dataclass(frozen=True)
class Request:
    """A wish for rollouts: ``n`` samples of a problem after a given part of its demonstration."""

    problem: Problem
    n: int
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One sequence of the update."""

    kind: RowKind
    problem: Problem
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    prefix_tokens: int = 0
    """Leading response tokens that were given, not sampled (hybrid rows): they belong to the
    demonstration term."""
    reward: float | None = None
    advantage: float = 0.0
    truncated: bool = False
    sampled_logprobs: tuple[float, ...] = ()
    """Log-probs of the sampled tokens under the engine that drew them."""
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Further numbers of each loss token by name, see :mod:`bridge.methods.columns`."""
    teacher_prompt_ids: tuple[int, ...] = ()
    """Prompt under which a teacher scores the same response; with one, the tokens that were not
    given belong to the term ``ref_kl``."""
    skipped_tokens: int = 0
    """So many of these, the first, are left out of it."""

    @property
    def pair(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt ids and response ids."""
        return self.prompt_ids, self.response_ids


@dataclass(frozen=True)
class Group:
    """The rollouts of one problem in one step."""

    problem: Problem
    rows: tuple[Row, ...]
    demonstration: Row | None = None
    """The problem's demonstration with its graded reward, where it has one."""

    @property
    def rewards(self) -> list[float]:
        return [row.reward for row in self.rows if row.reward is not None]


def demonstration_row(policy: Policy, problem: Problem) -> Row:
    """Return the row that teaches a problem's demonstration."""
    if problem.demonstration is None:
        raise ProblemError(
            f"problem '{problem.id}' has no demonstration, but the method asks for one; give it "
            "one or choose a method that needs none."
        )
    return Row(
        kind="demonstration",
        problem=problem,
        prompt_ids=tuple(policy.prompt_ids(problem.question)),
        response_ids=tuple(policy.completion_ids(problem.demonstration)),
    )
