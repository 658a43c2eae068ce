"""YAML and JSON: what is written twice or reads as something else; tests/unit/
test_hostile_configurations.py has the refusals of whole configurations."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.store.strict import strict_json, strict_yaml


def test_a_merge_takes_its_own_value_first_and_then_the_first_source() -> None:
    text = """
a: &a {x: 1, y: 1}
b: &b {y: 2, z: 2}
c: &c {<<: [*a, *b], z: 3}
d: {<<: *c, w: 4}
"""
    assert strict_yaml(text)["d"] == {"x": 1, "y": 1, "z": 3, "w": 4}


def test_an_alias_is_a_copy() -> None:
    read = strict_yaml("a: &a {x: {y: [1]}}\nb: *a\nc: {<<: *a}")
    for name in ("b", "c"):
        read[name]["x"]["y"].append(2)
        assert read["a"] == {"x": {"y": [1]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0", 0),
        ("+7", 7),
        ("1.0e-3", 1e-3),
        (".5", 0.5),
        ("True", True),
        ("null", None),
        ("", None),
        ("'no'", "no"),
        ("!!str 010", "010"),
        ("1.2.3", "1.2.3"),
        ("3e-4", "3e-4"),
    ],
)
def test_a_plain_value_is_what_it_looks_like(text: str, value: Any) -> None:
    read = strict_yaml(f"a: {text}")["a"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_json_with_a_key_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the key 'a' is given twice; keep one"):
        strict_json(text)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "[" * 100_000, "{", ""])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        strict_json(text)
    assert strict_json(b'{"a": [1.5, null]}') == {"a": [1.5, None]}
