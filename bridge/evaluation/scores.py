"""What ``scores.json`` says: counts, costs, and when there is nothing to say."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bridge.evaluation import EvaluationError
from bridge.grading import GRADER_VERSION
from bridge.plan.grid import RunSpec
from bridge.store.records import Status

if TYPE_CHECKING:
    from bridge.evaluation.answers import Answer, TaskSet

TIMEOUT_SHARE = 0.05
"""More ungraded answers than this and the evaluation fails instead of reporting a score."""


def head(spec: RunSpec, status: Status, reason: str | None) -> dict[str, Any]:
    """The part that each run has, whatever became of it."""
    return {
        "status": status,
        "reason": reason,
        "spec_hash": spec.spec_hash,
        "grader_version": GRADER_VERSION,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of one benchmark; shares and intervals are the business of the analysis."""
    greedy = Counter(r["verdict"] for r in rows if r["sample"] < 0)
    drawn = [r for r in rows if r["sample"] >= 0]
    sampled = Counter(r["verdict"] for r in drawn)
    return {
        "n": greedy.total(),
        "correct": greedy["correct"],
        "verdicts": dict(greedy),
        "n_samples": len({r["sample"] for r in drawn}),
        "sampled_questions": len({r["question_id"] for r in drawn}),
        "sampled_correct": sampled["correct"],
        "sampled_verdicts": dict(sampled),
    }


def check_graded(verdicts: Counter[str]) -> None:
    """A score that rests on missing verdicts is not written. The answers are: one can look."""
    share = verdicts["timeout"] / verdicts.total()
    if share > TIMEOUT_SHARE:
        raise EvaluationError(
            f"{share:.0%} of the answers could not be graded in time, more than "
            f"{TIMEOUT_SHARE:.0%}; free the machine and evaluate again."
        )


def outcome(verdicts: Counter[str]) -> tuple[Status, str | None]:
    """Status of the evaluation and, where it is not ``done``, its reason."""
    if verdicts["correct"] + verdicts["wrong"] > 0:
        return "done", None
    return "collapsed", f"not one of {verdicts.total()} answers could be read ({words(verdicts)})"


def words(verdicts: Counter[str] | dict[str, int]) -> str:
    """Counts in words, for the log."""
    return ", ".join(f"{n} {word}" for word, n in sorted(verdicts.items()))


def cost(answers: Sequence[Answer], n_parameters: int) -> dict[str, Any]:
    """Tokens, FLOPs and peak memory (GiB) of this process."""
    tokens = sum(a.generated.tokens for a in answers)
    prompt_tokens = sum(a.generated.prompt_tokens for a in answers)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "tokens_generated": tokens,
        "tokens_prompt": prompt_tokens,
        "n_parameters": n_parameters,
        # A forward pass: 2 N D with D all tokens that pass the model, prompts included.
        "flops": 2 * n_parameters * (tokens + prompt_tokens),
        "memory_gib": {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30},
    }


def versions() -> dict[str, str]:
    """Versions of what decides the answers."""
    names = ("lm_eval", "transformers", "torch")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def decoding(task_set: TaskSet) -> dict[str, Any]:
    """Generation settings of a task set: one for all its benchmarks."""
    settings = [task.config.generation_kwargs for task in task_set.tasks.values()]
    if any(s != settings[0] for s in settings):
        raise EvaluationError("The task files of one family decode differently; make them equal.")
    return dict(settings[0])


def text_hash(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
