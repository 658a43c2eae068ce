"""Prompts that show the model a demonstration of the answer it is asked for.

``sdft`` and ``opsd`` have a teacher read the policy's answers behind such a prompt;
``hinted_decoding`` rewrites demonstrations behind it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bridge.methods.base import refuse
from bridge.tasks.base import Problem, ProblemError

if TYPE_CHECKING:
    from bridge.models.checkpoint import Policy

TEMPLATE = (
    "{question}\n\nHere is an example of an answer to this question:\n\n{demonstration}\n\n"
    "Now write an answer of your own, with its reasoning."
)
_PLACES = re.compile(r"\{question\}|\{demonstration\}")


def check_template(template: str, where: str) -> None:
    """Refuse a template without the question.

    Raises:
        ConfigError: one sentence that begins with ``where``.
    """
    if "{question}" not in template:
        raise refuse(where, "options.teacher_template must hold {question}.")


def hinted_prompt(policy: Policy, template: str, problem: Problem, shown: str) -> tuple[int, ...]:
    """Token ids of the prompt whose question is the template with both texts in their places."""
    found = {"{question}": problem.question, "{demonstration}": shown}
    return tuple(policy.prompt_ids(_PLACES.sub(lambda place: found[place[0]], template)))


def check_length(
    policy: Policy, problem: Problem, prompt: tuple[int, ...], max_response_tokens: int
) -> None:
    """Refuse a prompt that leaves no room for the answer: to cut it would drop the question.

    Raises:
        ProblemError: naming the problem.
    """
    needed, limit = len(prompt) + max_response_tokens, policy.model.config.max_position_embeddings
    if needed > limit:
        raise ProblemError(
            f"problem '{problem.id}' needs {needed} tokens behind the teacher's prompt, but the "
            f"model's context is {limit}; remove it or shorten teacher_template."
        )
