"""Hashes of large files: read once, and never a stale one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.store import hashes
from bridge.store.hashes import remembered_hashes
from bridge.store.records import file_hash


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(hashes, "file_hash", counted)
    return names


def test_only_a_changed_file_is_read_again(tmp_path: Path, read: list[str]) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    memory = tmp_path / "memory" / "known.json"
    first = remembered_hashes(paths, memory)
    assert first == {path.name: file_hash(path) for path in paths} and read == ["a", "b"]
    assert remembered_hashes(paths, memory) == first and read == ["a", "b"]
    times = os.stat(paths[0])
    paths[0].write_text("A")
    os.utime(paths[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert remembered_hashes(paths, memory)["a"] != first["a"], "same size and mtime, other bytes"
    assert read == ["a", "b", "a"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}', '{"a": {"mark": []}}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: str) -> None:
    path, memory = tmp_path / "a", tmp_path / "known.json"
    path.write_text("x")
    memory.write_text(damage)
    assert remembered_hashes([path], memory) == {"a": file_hash(path)}


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    assert remembered_hashes([path], path / "known.json") == {"a": file_hash(path)}
