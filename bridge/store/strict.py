"""YAML and JSON as this project reads them: written once, plainly, and of a size to be read.

PyYAML and :mod:`json` take more than anybody means. Of two equal keys they take the last one; to
YAML 1.1 ``no`` is False, ``010`` is 8 and ``1:30`` is 90; an alias makes two rows one object, and
aliases of aliases make billions of values out of a few lines. Here each of these is refused with
its line, but for the alias, which is read as a copy.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_CHARACTERS = 200_000
"""Length of a configuration; PyYAML needs seconds for that many."""
MOST_VALUES = 100_000
"""Values in a configuration, each alias counted as often as it is used."""

_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_KINDS = {"bool": "a truth value", "null": "nothing", "timestamp": "a date"}


class _RefusedError(ValueError):
    """A value that means something else than it seems to; the sentence names its line."""


def strict_yaml(text: str) -> Any:
    """What YAML text says, every alias as a value of its own.

    Raises:
        ValueError: it is not YAML, holds a key twice or a word that YAML reads as something else,
            or is more than any configuration.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"more than {MOST_CHARACTERS:,} characters")
    try:
        return _copied(_Loader(text).get_single_data(), itertools.count())
    except _RefusedError:
        raise
    except RecursionError:
        raise ValueError("nested too deeply, or an alias that holds itself") from None
    except Exception as error:  # odd scalars make PyYAML raise nearly every class there is
        words = str(error) if isinstance(error, yaml.YAMLError) else type(error).__name__
        raise ValueError(words) from error


def strict_json(text: str | bytes) -> Any:
    """What JSON text says.

    Raises:
        ValueError: it is not JSON (NaN and Infinity are not), is nested too deeply for Python's
            parser, or holds a key twice.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{twice[:80]}' is given twice; keep one")
    return found


# Made once: to make it takes as long as to read a line of answers.
_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)


class _Loader(yaml.SafeLoader):
    """Mappings, lists, texts, numbers, true, false and null, and nothing that has two readings."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._merged: dict[yaml.MappingNode, bool] = {}
        self._n_merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve ``<<`` in place; what a mapping says itself wins, then the first one merged."""
        if node in self._merged:
            if not self._merged[node]:
                raise _refused(node, "an alias that holds itself")
            return
        self._merged[node] = False
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if (name := _key(key)) in own:
                raise _refused(key, f"the key '{name[:80]}' is given twice; keep one")
            own[name] = (key, value)
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if "<<" in own and own["<<"][0].tag == f"{_TAG}merge":
            for source in _sources(own.pop("<<")[1]):
                self.flatten_mapping(source)
                self._n_merged += len(source.value)
                if self._n_merged > MOST_VALUES:
                    raise _refused(node, f"more than {MOST_VALUES:,} values")
                for pair in source.value:
                    found.setdefault(pair[0].value, pair)
        node.value = list((found | own).values())
        self._merged[node] = True

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        if node.value.lower() not in ("true", "false"):
            raise _refused(
                node,
                f"YAML reads {node.value[:80]} as a truth value; write true or false, or put it in "
                "quotes",
            )
        return bool(super().construct_yaml_bool(node))

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 100:
            raise _refused(node, f"a number of {len(node.value):,} characters")
        if not _WHOLE.fullmatch(node.value):
            raise _misread(node, int(super().construct_yaml_int(node)))
        return int(node.value)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = float(super().construct_yaml_float(node))
        if ":" in node.value or "_" in node.value:
            raise _misread(node, value)
        return value

    def construct_date(self, node: yaml.ScalarNode) -> None:
        raise _refused(node, f"YAML reads {node.value[:80]} as a date; put it in quotes")


_Loader.yaml_constructors = {
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": _Loader.construct_yaml_bool,
    f"{_TAG}int": _Loader.construct_yaml_int,
    f"{_TAG}float": _Loader.construct_yaml_float,
    f"{_TAG}timestamp": _Loader.construct_date,
    None: yaml.SafeLoader.construct_undefined,
}


def _refused(node: yaml.Node, what: str) -> _RefusedError:
    return _RefusedError(f"line {node.start_mark.line + 1}: {what}")


def _misread(node: yaml.ScalarNode, value: float) -> _RefusedError:
    return _refused(node, f"YAML reads {node.value[:80]} as {value:.6g}; write it plainly")


def _key(node: yaml.Node) -> str:
    """The text of a key; any other key is refused."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refused(node, "a key has to be a text, not a list or a mapping")
    kind = node.tag.removeprefix(_TAG)
    if kind not in ("str", "merge"):
        raise _refused(
            node,
            f"YAML reads the key {node.value[:80]} as {_KINDS.get(kind, 'a number')}; put it in "
            "quotes",
        )
    return str(node.value)


def _sources(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that ``<<`` names."""
    found = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(source, yaml.MappingNode) for source in found):
        raise _refused(node, "<< takes a mapping or a list of mappings")
    return list(found)


def _copied(value: Any, seen: Iterator[int]) -> Any:
    """A copy in which no two places share an object."""
    if next(seen) >= MOST_VALUES:
        raise _RefusedError(f"more than {MOST_VALUES:,} values")
    if isinstance(value, dict):
        return {key: _copied(inner, seen) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner, seen) for inner in value]
    return value
