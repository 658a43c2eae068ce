"""``jsonl``: your own problems, from three local files of JSON lines.

    {"id": "a", "question": "2 + 2 ?", "answer": "4", "difficulty": 1, "demonstration": "..."}

``difficulty`` (default 0) and ``demonstration`` (default none) may be left out. Each file is named
with its SHA-256, so that a changed file is a changed configuration: it is refused until the suite
says so, and then it has another hash.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from bridge.grading import GradeItem, GraderPool
from bridge.store.records import file_hash
from bridge.store.schema import Closed, ConfigError
from bridge.store.strict import strict_json
from bridge.tasks.base import (
    Dataset,
    Problem,
    ProblemError,
    canonical,
    check_problems,
    check_storable,
)

BENCHMARK = "jsonl_test"
_BOX = re.compile(r"\\(boxed|fbox)\b")


class JsonlFile(Closed):
    """One file."""

    path: str
    """Relative to the repository root, or absolute."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class JsonlOptions(Closed):
    """Options of the ``jsonl`` family."""

    train: JsonlFile
    validation: JsonlFile
    test: JsonlFile


class _Line(Closed):
    id: str = Field(min_length=1)
    question: str
    answer: str
    difficulty: int = 0
    demonstration: str | None = None


def read_problems(file: JsonlFile) -> tuple[Problem, ...]:
    """Return the problems of one file.

    Raises:
        ProblemError: the file is missing, is not the one that was named, or holds a line that is
            not a problem; the message names file and line.
    """
    path = Path(file.path)
    if not path.is_file():
        raise ProblemError(f"{path}: no such file; correct its path in the suite.")
    if (digest := file_hash(path)) != file.sha256:
        raise ProblemError(
            f"{path}: the file's SHA-256 is {digest}, not the one in the suite; if the change is "
            "meant, put the new value there."
        )
    lines = path.read_bytes().split(b"\n")
    found = [(n, _problem(path, n, line)) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ProblemError(f"{path}: the file has no line; give it at least one problem.")
    asked: dict[str, int] = {}
    for number, problem in found:
        first = asked.setdefault(canonical(problem.question), number)
        if first != number:
            raise ProblemError(
                f"{path}, line {number}: the question of line {first} again; keep one of them."
            )
        if reason := _no_final_answer(problem.answer):
            raise ProblemError(
                f"{path}, line {number} ('{problem.id}'): the gold answer {reason}; put the final "
                "answer alone there."
            )
    return tuple(problem for _, problem in found)


def _problem(path: Path, number: int, line: bytes) -> Problem:
    try:
        raw: Any = strict_json(line.decode("utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        words = " ".join(str(error).split())[:160]
        raise ProblemError(
            f"{path}, line {number}: not a JSON object ({words}); correct it."
        ) from None
    try:
        fields = _Line.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:60] for part in first["loc"]) or "line"
        raise ProblemError(f"{path}, line {number}: {key}: {first['msg']}; correct it.") from None
    problem = Problem(**fields.model_dump())
    check_problems(f"{path}, line {number}", [problem])
    check_storable(f"{path}, line {number}", problem)
    return problem


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


@functools.cache
def readable(file: JsonlFile) -> tuple[Problem, ...]:
    """The problems of a file whose golds the grader can read.

    Raises:
        ProblemError: also for a gold that the grader does not accept as its own answer.
    """
    problems = read_problems(file)
    with GraderPool() as pool:
        for problem, verdict in zip(problems, _self_verdicts(pool, problems), strict=True):
            if verdict != "correct":
                raise ProblemError(
                    f"{file.path}: problem '{problem.id}': the grader cannot read the gold answer "
                    f"{problem.answer[:60]!r}; repair it or remove the problem."
                )
    return problems


class Jsonl:
    """The ``jsonl`` family, see the module docstring."""

    name = "jsonl"
    Options = JsonlOptions
    answer_tokens = 128
    n_samples = 8

    def check(self, options: BaseModel, where: str) -> None:
        """Missing files, changed files and lines that are no problems."""
        assert isinstance(options, JsonlOptions)
        try:
            for file in (options.train, options.validation, options.test):
                read_problems(file)
        except ProblemError as error:
            raise ConfigError(f"{where}: {error}") from None

    def benchmark_names(self) -> tuple[str, ...]:
        return (BENCHMARK,)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, JsonlOptions)
        return Dataset(readable(options.train), readable(options.validation))

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, JsonlOptions)
        return readable(options.test)


FAMILY = Jsonl()
