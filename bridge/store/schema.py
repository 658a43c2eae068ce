"""Closed schemas, the files they are read from, names, and one-line errors.

What a run can be told is in :mod:`bridge.store.settings`, what a suite can hold in
:mod:`bridge.plan.config`. Options of a data set or of a method are declared beside their code.
"""

from __future__ import annotations

import copy
import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bridge.store.strict import strict_yaml

M = TypeVar("M", bound=BaseModel)

_SHORT_FLOAT = re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_VALUE = 100
"""Characters of a value that an error repeats."""


class ConfigError(ValueError):
    """A configuration that cannot be used; one sentence with the file, the key and the remedy."""


class Closed(BaseModel):
    """Base of all schemas: unknown keys are errors, values are frozen, types are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def check_name(name: str) -> str:
    """Return a name of a suite, model, dataset or row, which is also a folder's name.

    Raises:
        ConfigError: it could lead out of its folder, or differs from what can be typed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{shown(name)} is no name; take letters, digits, '.', '_' and '-', at most 64, the "
            "first one a letter or a digit"
        )
    return name


def check_suite_name(name: str) -> str:
    """Return the name of a suite, see :func:`check_name`; some folders are taken.

    Raises:
        ConfigError: it is no name, or that of a folder in ``results/`` that no suite owns.
    """
    if check_name(name).lower() in ("cached", "published"):
        raise ConfigError(f"results/{name} holds what is committed; give the suite another name")
    return name


Name = Annotated[str, AfterValidator(check_name)]
SuiteName = Annotated[str, AfterValidator(check_suite_name)]

Steps = Annotated[int, Field(ge=1, le=100_000)]
StepsOrZero = Annotated[int, Field(ge=0, le=100_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Rows, prompts, questions, tokens."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
"""Of something that may be left out."""
LAST_SEED = 2**31 - 1
Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]
MOST_THREADS = 1024
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds.

    Raises:
        ConfigError: there is no such file, or :func:`bridge.store.strict.strict_yaml` refuses it.
    """
    try:
        raw = strict_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"{path}: no such file; files there: {known}.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as YAML: {cut(str(error), 300)}") from None
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
            base[key] = copy.deepcopy(value)


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
        location = _location(first["loc"])
        key = ".".join(cut(str(part), _LONGEST_VALUE) for part in location)
        full_key = ".".join(part for part in (prefix, key) if part)
        sentence = f"{where}: {full_key}: {_explain(schema, first, location)}"
        raise ConfigError(" ".join(sentence.split())) from None


def shown(value: Any) -> str:
    """A value as an error repeats it: Python's form of it, cut where it is long."""
    try:
        return cut(repr(value), _LONGEST_VALUE)
    except ValueError:
        return "a number of thousands of digits"


def cut(text: str, most: int) -> str:
    """Text on one line, no longer than an error should be."""
    cut = " ".join(text[:most].split())
    return cut if len(text) <= most else f"{cut}... ({len(text):,} characters)"


def _location(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a mistake is, without what pydantic adds: the kind of a model, the mark of a key."""
    if parts[:1] == ("models",) and parts[2:3] in (("tiny",), ("local",), ("hub",)):
        parts = (*parts[:2], *parts[3:])
    return parts[:-1] if parts[-1:] == ("[key]",) else parts


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
    value = error["input"]
    if isinstance(value, str) and _SHORT_FLOAT.fullmatch(value):
        message += f"; YAML needs a dot in a number: {re.sub('[eE]', '.0e', value)}"
    if error["type"] == "string_type" and not isinstance(value, (dict, tuple)):
        message += "; put it in quotes"
    if not location or message.startswith(shown(value)):
        return f"{message}."
    return f"{message} (got {shown(value)})."


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
