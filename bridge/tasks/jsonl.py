"""``jsonl``: your own problems, from three local files of JSON lines.

    {"id": "a", "question": "2 + 2 ?", "answer": "4", "difficulty": 1, "demonstration": "..."}

``difficulty`` (default 0) and ``demonstration`` (default none) may be left out. Each file is named
with its SHA-256, so that a changed file is a changed configuration: it is refused until the suite
says so, and then it has another hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from bridge.store.records import file_hash
from bridge.store.schema import Closed, ConfigError
from bridge.tasks.base import Dataset, Problem, ProblemError

BENCHMARK = "jsonl_test"


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
    if (found := file_hash(path)) != file.sha256:
        raise ProblemError(
            f"{path}: the file's SHA-256 is {found}, not the one in the suite; if the change is "
            "meant, put the new value there."
        )
    lines = path.read_bytes().split(b"\n")
    return tuple(
        _problem(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
    )


def _problem(path: Path, number: int, line: bytes) -> Problem:
    try:
        raw: Any = json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ProblemError(
            f"{path}, line {number}: not a JSON object ({error}); mend it."
        ) from None
    try:
        fields = _Line.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "line"
        raise ProblemError(f"{path}, line {number}: {key}: {first['msg']}; mend it.") from None
    return Problem(**fields.model_dump())


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
        return Dataset(read_problems(options.train), read_problems(options.validation))

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, JsonlOptions)
        return read_problems(options.test)


FAMILY = Jsonl()
