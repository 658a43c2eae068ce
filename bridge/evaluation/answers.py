"""From a policy to graded answers, through lm-eval's own loop and our tasks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.api.task
import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from bridge.evaluation import EvaluationError
from bridge.evaluation.model import Generated
from bridge.evaluation.tasks import task_name, write_tasks
from bridge.grading import GradeItem, GraderPool
from bridge.store.records import content_hash
from bridge.store.settings import EvaluationConfig
from bridge.tasks.registry import load_family

GREEDY = -1
"""Sample index of the greedy answer; sampled answers count from 0."""


@dataclass(frozen=True)
class Answer:
    """One answer, not yet graded."""

    benchmark: str
    question_id: str
    difficulty: int
    gold: str
    question: str
    sample: int
    text: str
    generated: Generated


@dataclass(frozen=True)
class TaskSet:
    """Loaded lm-eval tasks of the benchmarks of a family, greedy or sampled."""

    tasks: Mapping[str, Any]
    """Benchmark -> lm-eval task."""

    def describe(self) -> dict[str, dict[str, Any]]:
        """Task name -> version of its file, hash of its questions, golds and decoding."""
        return {
            task.config.task: {
                "version": task.VERSION,
                "hash": content_hash(
                    {
                        "questions": [
                            [doc["id"], doc["question"], doc["answer"]]
                            for doc in task.eval_docs.to_list()
                        ],
                        "generation": task.config.generation_kwargs,
                        "repeats": task.config.repeats,
                    }
                ),
            }
            for task in self.tasks.values()
        }


def load_tasks(
    family: str,
    family_options: Mapping[str, Any],
    evaluation: EvaluationConfig,
    *,
    sampled: bool,
) -> TaskSet:
    """The tasks of a family's benchmarks, with what the configuration decides."""
    source = load_family(family)
    options = source.Options.model_validate(dict(family_options))
    names = {b: task_name(b, sampled=sampled) for b in source.benchmark_names(options)}
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder), {family: options})
        # Without lm-eval's own 14,000 task files, which take seconds to index.
        manager = TaskManager(
            include_path=folder,
            include_defaults=False,
            metadata={"family_options": dict(family_options), "questions": evaluation.questions},
        )
        loaded = manager.load(list(names.values()))["tasks"]
    decoding: dict[str, Any] = {"max_gen_toks": evaluation.max_response_tokens}
    if sampled:
        decoding["temperature"] = evaluation.temperature
    for task in loaded.values():
        task.set_config("generation_kwargs", decoding, update=True)
        task.set_config("process_results", _leave_ungraded)
        if sampled:
            task.set_config("repeats", evaluation.n_samples)
    return TaskSet({benchmark: loaded[name] for benchmark, name in names.items()})


def ask(lm: Any, task_set: TaskSet, *, limit: int | None, seed: int) -> Iterator[Answer]:
    """Answer the first ``limit`` questions of each benchmark (all when None), as configured.

    Args:
        lm: an lm-eval model with what it ``generated`` last, see :mod:`bridge.evaluation.model`.
        seed: of the random numbers that sampling draws; greedy decoding draws none.

    Raises:
        EvaluationError: lm-eval lost an answer.
    """
    torch.manual_seed(seed)
    tasks = {task.config.task: task for task in task_set.tasks.values()}
    # No request cache (pickled files), no bootstrap, no second copy of all answers.
    with _without_bars():
        evaluate(
            lm=lm,
            task_dict={"tasks": tasks},
            limit=limit,
            cache_requests=False,
            bootstrap_iters=0,
            log_samples=False,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
        )
    notes = iter(lm.generated)
    for benchmark, task in task_set.tasks.items():
        repeats = task.config.repeats
        greedy = not task.config.generation_kwargs["do_sample"]
        for instance in task.instances:
            if len(instance.resps) != repeats:
                raise EvaluationError(
                    f"lm-eval returned {len(instance.resps)} answers to question "
                    f"{instance.doc['id']} where {repeats} were asked for; its version does not "
                    "fit, install the pinned one."
                )
            for sample, text in enumerate(instance.resps):
                yield Answer(
                    benchmark=benchmark,
                    question_id=instance.doc["id"],
                    difficulty=instance.doc["difficulty"],
                    gold=instance.doc["answer"],
                    question=instance.doc["question"],
                    sample=GREEDY if greedy else sample,
                    text=text,
                    generated=next(notes),
                )
    if next(notes, None) is not None:
        raise EvaluationError("The model described more answers than lm-eval returned.")


def grade(
    answers: Sequence[Answer], pool: GraderPool, *, thinking: bool = False
) -> list[dict[str, Any]]:
    """Return one row of ``answers.jsonl`` per answer: by benchmark, question, then sample."""
    order: dict[tuple[str, str], int] = {}
    for answer in answers:
        order.setdefault((answer.benchmark, answer.question_id), len(order))
    ranked = sorted(answers, key=lambda a: (order[a.benchmark, a.question_id], a.sample))
    verdicts = pool.grade(
        [GradeItem(a.text, a.gold, a.generated.truncated, thinking, a.question) for a in ranked]
    )
    return [
        {
            "benchmark": a.benchmark,
            "question_id": a.question_id,
            "difficulty": a.difficulty,
            "sample": a.sample,
            "text": a.text,
            "extracted": graded.extracted,
            "verdict": graded.verdict,
            "tokens": a.generated.tokens,
            "truncated": a.generated.truncated,
        }
        for a, graded in zip(ranked, verdicts, strict=True)
    ]


def _leave_ungraded(doc: object, results: object) -> dict[str, float]:
    """Keeps lm-eval from scoring: the runner grades with what only it knows."""
    return {}


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """lm-eval draws one bar per task for a moment's work; in a log that is noise."""

    def plain(items: Iterable[Any], **_: object) -> Iterable[Any]:
        return items

    drawn = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = plain
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = drawn
