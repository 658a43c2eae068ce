"""What must be true of records that another process wrote, before anything is made of them.

Each shape lists the keys that are used, with their types; other keys pass. What is read may have
been cut, edited or made by another version: the answer to that is one sentence with file and key,
here, and not an exception somewhere later. Nothing is converted or filled in.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bridge.store.records import RecordError, Status, read_json, read_jsonl

Count = Annotated[int, Field(ge=0, lt=2**63)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What a table can hold."""
Seconds = Annotated[float, Field(ge=0)]


def _text(value: Any) -> Any:
    # Not ``str``: what a model wrote may hold lone surrogates, which pydantic refuses.
    if not isinstance(value, str):
        raise ValueError("it should be a text")
    return value


def _scalar(value: Any) -> Any:
    """A number that a table can hold, nothing, or something that no table shows."""
    if value is None or isinstance(value, (bool, list, dict)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise ValueError("it should be a finite number")


Text = Annotated[Any, AfterValidator(_text)]
Scalar = Annotated[Any, AfterValidator(_scalar)]


class Shape(BaseModel):
    """Base of all shapes."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    remedy: ClassVar[str] = "delete it and run its job again"


class Git(Shape):
    commit: str | None = None
    dirty: bool | None = None
    reason: Text | None = None


class StageSeconds(Shape):
    """Seconds per stage (:data:`bridge.store.columns.STAGES`) and in all."""

    __pydantic_extra__: dict[str, Seconds | None]
    total: Seconds | None = None


class Tokens(Shape):
    generated: Count | None = None
    trained: Count | None = None


class Flops(Shape):
    generate: float | None = None
    train: float | None = None
    total: float | None = None


class Memory(Shape):
    allocated: float | None = None
    reserved: float | None = None
    device: float | None = None
    host: float | None = None


class Versions(Shape):
    torch: str | None = None
    python: str | None = None


class Hashes(Shape):
    base_model: str | None = None
    prompt: str | None = None
    data: str | None = None
    grader_version: str | None = None


class Done(Shape):
    """``done.json``."""

    status: Status
    reason: str | None = None
    policy: str | None = None
    train_hash: str | None = None
    n_steps: Count | None = None
    seconds: StageSeconds = StageSeconds()
    tokens: Tokens = Tokens()
    flops: Flops = Flops()
    memory_gib: Memory | None = None
    memory_by_stage_gib: dict[str, dict[str, float]] = {}
    device_hours: float | None = None
    demo_reward: float | None = None
    device: str | None = None
    versions: Versions | None = None
    git: Git | None = None
    hashes: Hashes | None = None
    n_parameters: Count | None = None
    started_at: str | None = None


class BenchmarkCounts(Shape):
    n: Count = 0
    correct: Count = 0


class Scores(Shape):
    """``scores.json``."""

    status: Status
    reason: str | None = None
    spec_hash: str | None = None
    grader_version: str | None = None
    benchmarks: dict[str, BenchmarkCounts] = {}
    seconds: StageSeconds = StageSeconds()


class Failure(Shape):
    """``failed.json``."""

    status: Status
    reason: str | None
    stage: str
    spec_hash: str


class Heartbeat(Shape):
    """``heartbeat.json``."""

    step: Count
    n_steps: Count
    seconds_left: float
    pid: Annotated[int, Field(gt=0, lt=2**22 + 1)]
    host: str
    updated_at: float


class Step(Shape):
    """A line of ``dynamics.jsonl``; what a method adds is a number."""

    __pydantic_extra__: dict[str, Scalar]
    step: Count
    kind: str | None = None
    stage: str | None = None


class Timing(Shape):
    """A line of ``timings.jsonl``."""

    step: Count
    elapsed_s: Seconds | None = None


class AnswerRow(Shape):
    """A line of ``answers.jsonl``."""

    remedy: ClassVar[str] = "delete the file and scores.json, and evaluate again"
    benchmark: str
    question_id: str
    difficulty: Whole
    sample: Whole
    text: Text
    extracted: Annotated[Any, AfterValidator(lambda v: v if v is None else _text(v))]
    verdict: str
    tokens: Count


def read_record(path: Path, shape: type[Shape]) -> dict[str, Any]:
    """Return a JSON object that has a shape.

    Raises:
        RecordError: missing, damaged or of another shape; names the file and the key.
    """
    value = read_json(path)
    _check(value, shape, str(path))
    record: dict[str, Any] = value
    return record


def read_rows(path: Path, shape: type[Shape]) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file, each of which has a shape.

    Raises:
        RecordError: missing, damaged or of another shape; names file, line and key.
    """
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        _check(row, shape, f"{path}, line {number}")
    return rows


def _check(value: Any, shape: type[Shape], where: str) -> None:
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if not key:
            raise RecordError(f"{where}: not a JSON object; {shape.remedy}.") from None
        if first["type"] == "missing":
            raise RecordError(f"{where} lacks the key '{key}'; {shape.remedy}.") from None
        words = first["msg"].removeprefix("Value error, ")
        sentence = f"{where}: {key}: {words}; {shape.remedy}."
        raise RecordError(" ".join(sentence.split())) from None
