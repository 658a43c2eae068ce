"""Closed schemas, the YAML they are read from, and one-line errors.

What a run can be told is in :mod:`bridge.store.settings`, what a suite can hold in
:mod:`bridge.plan.config`. Options of a data set or of a method are declared beside their code.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bridge.store.strict import strict_yaml

M = TypeVar("M", bound=BaseModel)

_SHORT_FLOAT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+")


class ConfigError(ValueError):
    """A configuration that cannot be used; one sentence with the file, the key and the remedy."""


class Closed(BaseModel):
    """Base of all schemas: unknown keys are errors, values are frozen, types are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names of suites, models, data sets and rows: they are names of folders too."""
Name = Annotated[str, Field(pattern=NAME, max_length=64)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds."""
    try:
        raw = strict_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"{path}: no such file; files there: {known}.") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys at the top, got {type(raw).__name__}."
        )
    return raw


def merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Merge ``over`` into ``base`` in place: mappings key by key, everything else replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def typed(value: Any) -> Any:
    """Read text inside a value as YAML would: command lines hand numbers over as text."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return _number(value) if isinstance(value, str) else value


def _number(text: str) -> Any:
    """What YAML makes of a word; also ``3e-4``, which it takes for text."""
    try:
        return float(text) if _SHORT_FLOAT.fullmatch(text) else strict_yaml(text)
    except ValueError:
        return text


def validate(schema: type[M], raw: Any, where: Path | str, prefix: str = "") -> M:
    """Check a raw mapping against a schema.

    Raises:
        ConfigError: one line for the first problem found.
    """
    try:
        # YAML has lists where the schemas have tuples; JSON mode of pydantic knows that.
        return schema.model_validate(_tupled(raw))
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling says more.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        location = tuple(part for part in first["loc"] if part not in ("tiny", "local", "hub"))
        key = ".".join(str(part) for part in location)
        full_key = f"{prefix}.{key}".strip(".")
        sentence = f"{where}: {full_key}: {_explain(schema, first, location)}"
        raise ConfigError(" ".join(sentence.split())) from None


def _tupled(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {k: _tupled(v) for k, v in raw.items()}
    if isinstance(raw, list):
        return tuple(_tupled(v) for v in raw)
    return raw


def _explain(schema: type[BaseModel], error: Any, location: tuple[Any, ...]) -> str:
    if error["type"] == "extra_forbidden":
        valid = _keys_at(schema, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(sorted(valid))}."
        return f"unknown key; {hint}"
    if error["type"] == "missing":
        return "this key is required."
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], str) and _SHORT_FLOAT.fullmatch(error["input"]):
        message += f"; YAML needs a dot in a number: {re.sub('[eE]', '.0e', error['input'])}"
    if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float)):
        message += "; YAML reads this word as a value, so put it in quotes"
    return f"{message} (got {_cut(error['input'])})." if location else f"{message}."


def _cut(value: Any) -> str:
    """A value as an error shows it; a sentence does not repeat a megabyte."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _keys_at(schema: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Valid keys of the (nested) schema that a location points into."""
    current: list[Any] = [schema]
    for part in location:
        current = [inner for annotation in current for inner in _inside(annotation, part)]
    models = [
        m for annotation in current for m in _members(annotation) if hasattr(m, "model_fields")
    ]
    return [key for m in models for key in m.model_fields]


def _inside(annotation: Any, part: Any) -> list[Any]:
    """What stands at a key or an index of a model, a mapping or a list."""
    found: list[Any] = []
    for member in _members(annotation):
        arguments = typing.get_args(member)
        if typing.get_origin(member) is dict:
            found.append(arguments[1])
        elif typing.get_origin(member) is tuple:
            found.append(arguments[0])
        elif hasattr(member, "model_fields") and part in member.model_fields:
            found.append(member.model_fields[part].annotation)
    return found


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without annotations; anything else alone."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for argument in typing.get_args(annotation) for m in _members(argument)]
    return [annotation]
