"""What the task files in ``tasks/`` call: questions from our families, scores from our grader.

lm-eval imports these functions by name (``!function bridge.evaluation.questions...``), so this
module must be importable wherever a task file is used. Scores here are for lm-eval's own command
line; the runner grades by itself, because lm-eval tells a scoring function neither the number of
tokens nor whether the answer was cut.
"""

from __future__ import annotations

import atexit
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bridge.grading import GradeItem, GraderPool
from bridge.store.records import canonical_json
from bridge.store.schema import validate
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Problem, ProblemError, check_problems
from bridge.tasks.registry import load_family

if TYPE_CHECKING:
    from datasets import Dataset


def load_questions(
    family: str,
    benchmark: str,
    family_options: Mapping[str, Any] | None = None,
    questions: int | None = None,
    **ignored: Any,
) -> dict[str, Dataset]:
    """Return the questions of one benchmark as the split ``test``.

    Args:
        family, benchmark: from ``dataset_kwargs`` of the task file.
        family_options: options of the family; its defaults when left out. On the command line:
            ``--metadata '{"family_options": {"questions_scale": 0.1}}'``.
        questions: how many of them, see :func:`drawn`; None: all.
        ignored: lm-eval also passes the task's metadata and the arguments of the model.

    Raises:
        ConfigError: unknown family or option.
        ProblemError: an empty question or gold answer, or an id that occurs twice.
    """
    options = canonical_json(dict(family_options or {}))
    return {"test": _dataset(family, benchmark, options, questions)}


@functools.cache
def _dataset(family: str, benchmark: str, options_json: str, limit: int | None) -> Dataset:
    """One table for the greedy and the sampled task: drawing the questions takes its time."""
    # Here and not above: datasets takes half a second that the command line's help should not.
    from datasets import Dataset

    source = load_family(family)
    where = f"family_options of the lm-eval task for {benchmark}"
    options = validate(source.Options, json.loads(options_json), where)
    problems = source.benchmark(benchmark, options)
    check_problems(benchmark, problems)
    if not problems:
        raise ProblemError(f"{benchmark}: there are no questions; check the family's options.")
    return Dataset.from_list(
        [
            {"id": p.id, "question": p.question, "answer": p.answer, "difficulty": p.difficulty}
            for p in drawn(benchmark, problems, limit)
        ]
    )


def drawn(benchmark: str, problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    """``limit`` problems in their own order, the same ones always: a larger limit adds to them."""
    ranked = sorted(problems, key=lambda p: derive_seed("asked", benchmark, p.id))
    kept = {p.id for p in ranked[:limit]}
    return [p for p in problems if p.id in kept]


def keep_all(answers: Sequence[Sequence[str]], docs: object) -> Sequence[Sequence[str]]:
    """Filter that keeps each repeat. lm-eval's default filter drops all but the first."""
    return answers


def score_greedy(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return ``exact_match`` of the one greedy answer, as the grader sees it."""
    (answers,) = results
    if len(answers) != 1:
        raise ValueError(
            f"a greedy task got {len(answers)} answers per question; use its _sampled variant"
        )
    return {"exact_match": float(_correct(doc, answers)[0])}


def score_samples(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the share of correct answers (``avg_at_n``) and whether any is (``pass_at_n``)."""
    (answers,) = results
    correct = _correct(doc, answers)
    return {"avg_at_n": sum(correct) / len(correct), "pass_at_n": float(any(correct))}


def _correct(doc: Mapping[str, Any], answers: Iterable[str]) -> list[bool]:
    graded = _shared_pool().grade([GradeItem(text, doc["answer"]) for text in answers])
    return [g.verdict == "correct" for g in graded]


@functools.cache
def _shared_pool() -> GraderPool:
    """One pool per process; lm-eval scores question by question and has no hook at the end."""
    pool = GraderPool()
    atexit.register(pool.close)
    return pool
