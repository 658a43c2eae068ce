"""From rows under any column names to problems."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bridge.grading.extraction import last_boxed
from bridge.store.schema import Closed, ConfigError, validate
from bridge.tasks.base import Problem, ProblemError, canonical, check_problems, check_storable
from bridge.tasks.own_data.sources import OwnSource, Row, rows_of


class _Turn(Closed):
    role: Literal["system", "user", "assistant"]
    content: str


class _Fields(Closed):
    """The values of a row under our names; at least a question and a way to an answer."""

    question: str | None = None
    answer: str | int | None = None
    demonstration: str | tuple[str, ...] | None = None
    messages: tuple[_Turn, ...] | None = None
    id: str | int | None = None
    difficulty: int = 0


@functools.cache
def read_problems(source: OwnSource, instruction: str) -> tuple[Problem, ...]:
    """The problems of a source.

    Args:
        instruction: follows every question.

    Raises:
        ProblemError: the source is missing, is not the one that was named, or holds a row that is
            not a problem; naming the file and the line.
    """
    rows = rows_of(source)
    _check_columns(source, rows)
    found = [(where, _problem(source, where, raw, instruction)) for where, raw in rows]
    asked: dict[str, str] = {}
    for where, problem in found:
        first = asked.setdefault(canonical(problem.question), where)
        if first != where:
            raise ProblemError(
                f"{where}: the question of {first.rpartition(', ')[2]} again; keep one of them, "
                "with a list of demonstrations if there are several."
            )
    return tuple(problem for _, problem in found)


def _check_columns(source: OwnSource, rows: Sequence[Row]) -> None:
    """Refuse a mapping to a column that no row has."""
    there = {name for _, raw in rows for name in raw}
    named = {} if source.columns is None else source.columns.model_dump(exclude_none=True)
    for field, column in named.items():
        if column not in there:
            raise ProblemError(
                f"{source.name}: columns.{field}: there is no column '{column}'; there are: "
                f"{', '.join(sorted(there))[:200]}."
            )


def _problem(source: OwnSource, where: str, raw: dict[str, Any], instruction: str) -> Problem:
    fields = _fields(source, where, raw)
    question, demonstrations = fields.question, _texts(fields.demonstration)
    if fields.messages is not None:
        if question is not None:
            raise ProblemError(f"{where}: it has a question and messages; name one of the two.")
        question, spoken = _spoken(where, fields.messages)
        demonstrations = demonstrations or spoken
    if question is None:
        raise ProblemError(f"{where}: question: this key is required, or messages.")
    answer = _answer(source, where, fields.answer, demonstrations)
    if source.append_box:
        demonstrations = tuple(_boxed(text, answer) for text in demonstrations)
    problem = Problem(
        id=str(fields.id) if fields.id is not None else _place(source, where),
        question=question + instruction if question.strip() else question,
        answer=answer,
        difficulty=fields.difficulty,
        demonstration=demonstrations[0] if demonstrations else None,
        more_demonstrations=demonstrations[1:],
    )
    check_problems(where, [problem])
    check_storable(where, problem)
    return problem


def _boxed(text: str, answer: str) -> str:
    return text if last_boxed(text) is not None else f"{text.rstrip()}\n\\boxed{{{answer}}}"


def _place(source: OwnSource, where: str) -> str:
    """An id for a row without one: the file's name and the row's number."""
    stem = Path(source.path).stem if source.path else str(source.repo).partition("/")[2]
    return f"{stem}/{where.rpartition(' ')[2]}"


def _fields(source: OwnSource, where: str, raw: Mapping[str, Any]) -> _Fields:
    if source.columns is None:
        found = dict(raw)
    else:
        named = source.columns.model_dump(exclude_none=True)
        found = {field: raw[column] for field, column in named.items() if column in raw}
    if source.path is not None and Path(source.path).suffix == ".csv" and "difficulty" in found:
        level = found["difficulty"]
        found["difficulty"] = int(level) if level.isascii() and level.isdigit() else level
    try:
        return validate(_Fields, found, where)
    except ConfigError as error:
        remedy = "" if source.columns else " (or name the columns to read under `columns`)"
        raise ProblemError(f"{str(error).rstrip('.')}{remedy}; correct it.") from None


def _texts(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _spoken(where: str, turns: tuple[_Turn, ...]) -> tuple[str, tuple[str, ...]]:
    """Question and demonstrations of a chat."""
    roles = [turn.role for turn in turns]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if roles not in (["user"], ["user", "assistant"]):
        raise ProblemError(
            f"{where}: messages: expected a user's turn and at most one answer behind it, with or "
            f"without a system turn in front, not {', '.join(t.role for t in turns)[:100]}."
        )
    texts = [turn.content for turn in turns if turn.role != "assistant"]
    return "\n\n".join(texts), tuple(t.content for t in turns if t.role == "assistant")


def _answer(
    source: OwnSource, where: str, given: str | int | None, demonstrations: tuple[str, ...]
) -> str:
    """The gold answer; where no column has one, what the first demonstration puts in its box."""
    if given is None:
        boxed = last_boxed(demonstrations[0]) if demonstrations else None
        if boxed is None:
            raise ProblemError(
                f"{where}: answer: this key is required, or a demonstration that ends in a box."
            )
        return boxed
    text = str(given)
    if source.answer_after is None:
        return text
    _, found, answer = text.rpartition(source.answer_after)
    if not found:
        raise ProblemError(f"{where}: answer: it has no '{source.answer_after}'; correct it.")
    return answer.strip()
