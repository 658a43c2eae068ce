"""Whether the grader can read the user's gold answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bridge.grading import GradeItem, GraderPool
from bridge.tasks.base import Problem, ProblemError

_BOX = re.compile(r"\\(boxed|fbox)\b")


def check_golds(name: str, problems: Sequence[Problem]) -> None:
    """Refuse a gold answer that is a whole solution, or that the grader does not accept as its own
    answer.

    Raises:
        ProblemError: naming the set and the problem.
    """
    for problem in problems:
        if reason := _no_final_answer(problem.answer):
            raise ProblemError(
                f"{name}: problem '{problem.id}': the gold answer {reason}; put the final answer "
                "alone there, or name what it follows as answer_after."
            )
    with GraderPool() as pool:
        for problem, verdict in zip(problems, _self_verdicts(pool, problems), strict=True):
            if verdict != "correct":
                raise ProblemError(
                    f"{name}: problem '{problem.id}': the grader cannot read the gold answer "
                    f"{problem.answer[:60]!r}; repair it, remove the problem, or grade with a "
                    "reward function of your own."
                )


def _no_final_answer(answer: str) -> str | None:
    """What shows that a gold is a whole solution in the style of its origin; None if nothing."""
    if "####" in answer:
        return "is a solution that ends in '####'"
    if _BOX.search(answer):
        return "holds a box"
    if len(answer.strip().splitlines()) > 1:
        return "has several lines"
    return None


def _self_verdicts(pool: GraderPool, problems: Sequence[Problem]) -> Iterator[str]:
    """Verdict on each gold as the answer to its own question."""
    items = [GradeItem(f"\\boxed{{{p.answer}}}", p.answer) for p in problems]
    try:
        yield from [graded.verdict for graded in pool.grade(items)]
    except ValueError:  # a gold of which the library makes nothing; one by one, to name it
        for item in items:
            try:
                yield pool.grade([item])[0].verdict
            except ValueError:
                yield "unparsed"
