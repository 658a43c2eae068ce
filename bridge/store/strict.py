"""YAML and JSON as they are written: a key that is given twice is refused, and so is a bomb."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import yaml

MOST_VALUES = 100_000
"""Values in a configuration file, each alias counted as often as it is used."""
_SHOWN = 60


def strict_json(text: str | bytes) -> Any:
    """What JSON text says.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:_SHOWN]!r} is given twice; keep one")
        found[key] = value
    return found


def strict_yaml(text: str) -> Any:
    """What YAML text says, every alias a copy of its own, so that no two parts are one object.

    Raises:
        ValueError: it is not YAML, a mapping has a key twice or one that is no text, or it holds
            more than any configuration.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)  # derives from SafeLoader
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        raise
    except Exception as error:  # odd scalars make PyYAML raise nearly every class there is
        words = str(error) if isinstance(error, yaml.YAMLError) else type(error).__name__
        raise ValueError(words) from error
    return _copied(raw, [0], ())


def _copied(value: Any, count: list[int], above: tuple[int, ...]) -> Any:
    count[0] += 1
    if count[0] > MOST_VALUES or id(value) in above:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    if isinstance(value, dict):
        return {k: _copied(v, count, (*above, id(value))) for k, v in value.items()}
    if isinstance(value, list):
        return [_copied(v, count, (*above, id(value))) for v in value]
    return value


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, keys that are no texts, and merges that multiply."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                written = str(getattr(key_node, "value", key))[:_SHOWN]
                raise ValueError(
                    f"line {line}: the key {written} is no text for YAML but {key!r:.{_SHOWN}}; "
                    "put it in quotes"
                )
            if key in seen:
                raise ValueError(f"line {line}: the key '{key[:_SHOWN]}' is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
