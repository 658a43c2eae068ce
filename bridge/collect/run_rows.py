"""One run's folder -> its rows of the tidy tables, checked.

Nothing is repaired here. A record that is missing, damaged, cut off or made with another
configuration is refused with file, line and remedy. ``partial`` turns only runs that are not there
yet under the suite's configuration, or failed, into a row without numbers.
:mod:`bridge.collect.collecting` puts the rows together.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bridge.plan.grid import RunSpec
from bridge.store.columns import COSTS, KEY, TIDY, Column
from bridge.store.records import (
    RESULTS,
    RecordError,
    RunFolder,
    canonical_json,
    suite_folder,
    text_without_places,
)
from bridge.store.shapes import (
    AnswerRow,
    Done,
    Failure,
    Scores,
    Step,
    Timing,
    read_record,
    read_rows,
)
from bridge.tasks.base import Problem
from bridge.tasks.registry import load_family

TABLES = tuple(TIDY)
LONGEST_ANSWER = 4_000
"""Characters of an answer that are kept; the run folder has all of them."""
_SURROGATE = re.compile("[\ud800-\udfff]")

TidyRow = dict[str, Any]


@dataclass
class Collected:
    """Rows of one run, by table."""

    runs: list[TidyRow]
    scores: list[TidyRow]
    dynamics: list[TidyRow]
    costs: list[TidyRow]
    answers: list[TidyRow]


def run_name(spec: RunSpec) -> str:
    """A run as its folder names it."""
    return f"{spec.model}/{spec.dataset}/{spec.label}/seed{spec.seed}"


def collect_run(spec: RunSpec, results: Path, *, partial: bool) -> Collected:
    """Return the rows of one run."""
    folder = spec.folder(results)
    if not (folder.done.is_file() and folder.scores.is_file()):
        if not partial:
            absent = folder.scores if folder.done.is_file() else folder.done
            raise RecordError(
                f"run {run_name(spec)} is not finished: {absent} is missing; run snakemake again, "
                "or collect with --partial."
            )
        return _without_numbers(spec, results)
    done, scores = read_record(folder.done, Done), read_record(folder.scores, Scores)
    stale = _stale(spec, folder, done, scores)
    if stale is not None:
        if not partial:
            raise RecordError(f"{stale}; run snakemake again.")
        return _without_numbers(spec, results)
    status = str(done["status"])
    if status == "done":
        status = str(scores["status"])
    reason = done.get("reason") or scores.get("reason")
    rows = Collected([_run_row(spec, status, reason, results, done, scores)], [], [], [], [])
    if status in RESULTS:
        rows.dynamics = _dynamics(spec, results, done)
        rows.costs = [_cost_row(spec, done, scores, folder.done)]
    # A collapsed policy's answers show what became of it.
    if status in ("done", "collapsed"):
        answers = _read_answers(folder.answers)
        if status == "done":
            rows.scores = _score_rows(spec, folder.answers, answers, folder.scores, scores)
        rows.answers = _answer_rows(spec, folder.answers, answers)
    return rows


def _key(spec: RunSpec) -> TidyRow:
    values = (spec.suite, spec.model, spec.dataset, spec.label, spec.seed)
    return dict(zip(KEY, values, strict=True))


def _without_numbers(spec: RunSpec, results: Path) -> Collected:
    folder = spec.folder(results)
    status, reason = "missing", None
    failure = read_record(folder.failure, Failure) if folder.failure.is_file() else {}
    if failure.get("spec_hash") == spec.spec_hash:
        status, reason = str(failure["status"]), failure.get("reason")
    return Collected([_run_row(spec, status, reason, results, {}, {})], [], [], [], [])


def _stale(spec: RunSpec, folder: RunFolder, done: TidyRow, scores: TidyRow) -> str | None:
    """What is wrong if the records are of another configuration than the suite's."""
    for path, record, name, expected in (
        (folder.done, done, "train_hash", spec.train_hash),
        (folder.scores, scores, "spec_hash", spec.spec_hash),
    ):
        if record.get(name) != expected:
            return (
                f"{path} of run {run_name(spec)} was made with another configuration ({name} "
                f"{record.get(name)}, the suite says {expected})"
            )
    return None


def _value(record: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in record:
        raise RecordError(f"{path} lacks the key '{key}'; delete it and run its job again.")
    return record[key]


def _run_row(
    spec: RunSpec, status: str, reason: str | None, results: Path, done: TidyRow, scores: TidyRow
) -> TidyRow:
    git, hashes, versions = (done.get(name) or {} for name in ("git", "hashes", "versions"))
    path = spec.folder(results).path.relative_to(suite_folder(results, spec.suite))
    return _key(spec) | {
        "status": status,
        "reason": reason and text_without_places(reason),
        "spec_hash": spec.spec_hash,
        "train_hash": spec.train_hash,
        "implementation": spec.method,
        "world": spec.world,
        "lr_sft": spec.training.lr_sft,
        "lr_rl": spec.training.lr_rl,
        "commit": git.get("commit") or ("no checkout" if git.get("reason") else None),
        "dirty": git.get("dirty"),
        "device": done.get("device"),
        "torch_version": versions.get("torch"),
        "python_version": versions.get("python"),
        "n_parameters": done.get("n_parameters"),
        "n_steps": done.get("n_steps"),
        "train_s": (done.get("seconds") or {}).get("total"),
        "evaluate_s": (scores.get("seconds") or {}).get("total"),
        "started_at": done.get("started_at"),
        "base_model_hash": hashes.get("base_model"),
        "data_hash": hashes.get("data"),
        "grader_version": scores.get("grader_version") or hashes.get("grader_version"),
        "demo_reward": done.get("demo_reward"),
        "folder": path.as_posix(),
    }


def _cost_row(spec: RunSpec, done: TidyRow, scores: TidyRow, path: Path) -> TidyRow:
    for name in ("seconds", "tokens", "flops"):
        _value(done, name, path)
    _value(done["seconds"], "total", path)
    return _key(spec) | {c.name: _cost(c, done, scores) for c in COSTS}


def _cost(column: Column, done: TidyRow, scores: TidyRow) -> Any:
    """What the records have at the column's path; None where they have nothing."""
    source, _, keys = column.path.rpartition(":")
    value: Any = scores if source == "scores" else done
    for key in keys.split("."):
        value = (value or {}).get(key)
    # A large run has more FLOPs than a table's whole numbers go.
    return _float(value) if column.name.startswith("flops_") else value


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _dynamics(spec: RunSpec, results: Path, done: TidyRow) -> list[TidyRow]:
    """One row per step: the record's own numbers and the clock from the timings."""
    folder = spec.folder(results)
    steps, timings = read_rows(folder.dynamics, Step), read_rows(folder.timings, Timing)
    elapsed = {row["step"]: row.get("elapsed_s") for row in timings}
    for number, row in enumerate(steps):
        # Line n is step n: a line that was lost or written twice cannot hide.
        if row["step"] != number or number not in elapsed:
            raise RecordError(
                f"{folder.dynamics}, line {number + 1}: step {number} is missing here or in "
                f"{folder.timings.name}; delete {folder.path} and run its job again."
            )
    if done["status"] == "done" and len(steps) != done.get("n_steps", 0) + 1:
        raise RecordError(
            f"{folder.dynamics} ends at step {len(steps) - 1} of {done.get('n_steps')}; delete "
            f"{folder.path} and run its job again."
        )
    return [_key(spec) | {"elapsed_s": elapsed[row["step"]]} | _scalars(row) for row in steps]


def _scalars(row: TidyRow) -> TidyRow:
    return {k: v for k, v in row.items() if v is None or isinstance(v, (str, int, float))}


def _read_answers(path: Path) -> list[TidyRow]:
    rows = read_rows(path, AnswerRow)
    for row in rows:
        # The same words stand in the answers of every run; one object each is enough.
        for name in ("benchmark", "question_id", "verdict"):
            row[name] = sys.intern(row[name])
    return rows


def _score_rows(
    spec: RunSpec, path: Path, answers: Sequence[TidyRow], scores_path: Path, scores: TidyRow
) -> list[TidyRow]:
    """One row per question from all its answers, checked against the counts in the scores."""
    questions: dict[tuple[str, str], TidyRow] = {}
    sampled_tokens: dict[tuple[str, str], int] = {}
    for number, answer in enumerate(answers, 1):
        key = (answer["benchmark"], answer["question_id"])
        row = questions.setdefault(key, _question(spec, key, answer["difficulty"]))
        correct = answer["verdict"] == "correct"
        if answer["sample"] < 0:
            if row["greedy_verdict"] is not None:
                raise RecordError(f"{path}, line {number}: a second greedy answer to {key[1]}.")
            row["greedy_verdict"] = answer["verdict"]
            row["greedy_correct"] = int(correct)
            row["greedy_tokens"] = answer["tokens"]
        else:
            row["n_samples"] += 1
            row["n_sampled_correct"] += int(correct)
            sampled_tokens[key] = sampled_tokens.get(key, 0) + answer["tokens"]
    for key, total in sampled_tokens.items():
        questions[key]["sampled_tokens_mean"] = total / questions[key]["n_samples"]
    rows = list(questions.values())
    _check_counts(path, _value(scores, "benchmarks", scores_path), rows)
    order = list(dict.fromkeys(row["benchmark"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["benchmark"]), row["question_id"]))


def _answer_rows(spec: RunSpec, path: Path, answers: Sequence[TidyRow]) -> list[TidyRow]:
    """Every greedy answer beside its question and gold answer; long texts are cut."""
    problems = _problems(spec.family, canonical_json(spec.dataset_options))
    rows = []
    for number, answer in enumerate(answers, 1):
        if answer["sample"] >= 0:
            continue
        problem = problems.get((answer["benchmark"], answer["question_id"]))
        if problem is None:
            raise RecordError(
                f"{path}, line {number}: {answer['question_id']} is no question of "
                f"{answer['benchmark']}; delete the file and scores.json, and evaluate again."
            )
        text, extracted = answer["text"], answer["extracted"]
        rows.append(
            _key(spec)
            | {
                "benchmark": answer["benchmark"],
                "question_id": answer["question_id"],
                "question": problem.question,
                "gold": problem.answer,
                "difficulty": answer["difficulty"],
                "sample": answer["sample"],
                "text": storable(text[:LONGEST_ANSWER]),
                "length": len(text),
                "extracted": None if extracted is None else storable(extracted[:LONGEST_ANSWER]),
                "verdict": answer["verdict"],
            }
        )
    return rows


@cache
def _problems(family_name: str, options_json: str) -> dict[tuple[str, str], Problem]:
    family = load_family(family_name)
    options = family.Options.model_validate(json.loads(options_json))
    return {
        (benchmark, problem.id): problem
        for benchmark in family.benchmark_names(options)
        for problem in family.benchmark(benchmark, options)
    }


def storable(text: str) -> str:
    """Parquet is UTF-8, which has no lone surrogates."""
    return _SURROGATE.sub("\ufffd", text)


def _question(spec: RunSpec, key: tuple[str, str], difficulty: int) -> TidyRow:
    return _key(spec) | {
        "benchmark": key[0],
        "question_id": key[1],
        "difficulty": difficulty,
        "greedy_verdict": None,
        "greedy_correct": None,
        "greedy_tokens": None,
        "n_samples": 0,
        "n_sampled_correct": 0,
        "sampled_tokens_mean": None,
        "spec_hash": spec.spec_hash,
    }


def _check_counts(path: Path, benchmarks: Mapping[str, TidyRow], rows: Sequence[TidyRow]) -> None:
    """A file cut off between two lines is still readable; the counts give it away."""
    questions = Counter(row["benchmark"] for row in rows)
    greedy = Counter(row["benchmark"] for row in rows if row["greedy_verdict"] is not None)
    correct = Counter(row["benchmark"] for row in rows if row["greedy_correct"])
    for name in sorted({*benchmarks, *questions}):
        said = benchmarks.get(name, {})
        n, right = said.get("n", 0), said.get("correct", 0)
        if (questions[name], greedy[name], correct[name]) != (n, n, right):
            raise RecordError(
                f"{path} holds {greedy[name]} greedy answers to {questions[name]} questions of "
                f"{name}, {correct[name]} of them correct, but scores.json says {n} and {right}; "
                "delete both and evaluate again."
            )
