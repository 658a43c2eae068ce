"""``bridge pin``: write the SHA-256 of a suite's own data files into the suite.

The text of the suite is edited where a hash belongs and nowhere else, so comments and layout stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from bridge.store.records import file_hash, write_text
from bridge.store.schema import ConfigError, read_yaml


def pin_suite(path: Path) -> list[str]:
    """Write the hash of every data file that the suite names beside its path; return a line of
    words for each.

    Raises:
        ConfigError: the suite cannot be read, or a file is not there.
    """
    read_yaml(path)  # what is no suite is refused in the words of every other command
    text = path.read_text(encoding="utf-8")
    edits, words = [], []
    for name, old in _files(yaml.compose(text, Loader=yaml.SafeLoader)):
        file = Path(name.value)
        if not file.is_file():
            line = name.start_mark.line + 1
            raise ConfigError(f"{path}, line {line}: {file}: no such file; correct its path.")
        digest = file_hash(file)
        same = old is not None and old.value == digest
        words.append(f"{file}: {digest}" + (" (as before)" if same else ""))
        if old is not None:
            edits.append((old.start_mark.index, old.end_mark.index, digest))
        else:
            place = name.end_mark.index
            edits.append((place, place, _separator(text, name) + f"sha256: {digest}"))
    if not words:
        raise ConfigError(f"{path}: no data set of it names a local file, so nothing is pinned.")
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    write_text(path, text)
    return words


def _files(
    node: yaml.Node | None, inside: bool = False
) -> Iterator[tuple[yaml.ScalarNode, yaml.Node | None]]:
    """(path, hash or None) of each mapping below ``datasets`` with a path of a data file."""
    if not isinstance(node, yaml.MappingNode):
        return
    values = {key.value: value for key, value in node.value}
    path = values.get("path")
    if inside and isinstance(path, yaml.ScalarNode) and path.value.endswith((".jsonl", ".csv")):
        yield path, values.get("sha256")
    for key, value in values.items():
        if inside or key == "datasets":
            yield from _files(value, inside=True)


def _separator(text: str, path: yaml.Node) -> str:
    """What goes between a path and a new key: a comma, or a line of the same indentation."""
    line = text.rfind("\n", 0, path.start_mark.index) + 1
    before = text[line : path.start_mark.index]
    flow = before.count("{") > before.count("}")
    return ", " if flow else "\n" + " " * (len(before) - len(before.lstrip()))
