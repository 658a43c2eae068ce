"""Files of a checkpoint: several where one would be large, two checkpoints on the disk at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bridge.models import resuming
from bridge.models.resuming import find_checkpoint, read_checkpoint, save_checkpoint

TENSORS = {f"base|{i}": torch.arange(10.0) + i for i in range(5)}


@pytest.fixture
def two_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "FILE_BYTES", 80)


def save(folder: Path, step: int) -> Path:
    save_checkpoint(folder, step, {"step": step}, TENSORS.items())
    return folder / f"step{step:08d}"


@pytest.mark.usefixtures("two_a_file")
def test_large_states_are_spread_over_files_and_read_as_one(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    assert len(list(path.glob("*.safetensors"))) == 3
    assert find_checkpoint(tmp_path, identity={}) == path
    found = read_checkpoint(path)
    assert found.step == 3
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.usefixtures("two_a_file")
@pytest.mark.parametrize("name", ["tensors.safetensors", "tensors-2.safetensors"])
def test_each_file_is_checked(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = save(tmp_path, 1), save(tmp_path, 2)
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    assert find_checkpoint(tmp_path, identity={}) == before
    assert f"{name} does not match its checksum" in capsys.readouterr().err


def test_only_the_newest_lies_beside_the_one_that_is_written(tmp_path: Path) -> None:
    seen: list[str] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        seen.extend(sorted(p.name for p in tmp_path.iterdir()))
        yield "base|0", torch.ones(2)

    for step in (1, 2, 3):
        save(tmp_path, step)
    save_checkpoint(tmp_path, 4, {"step": 4}, tensors())
    assert seen == [".step00000004.tmp", "step00000003"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step00000003", "step00000004"]


def test_what_is_gathered_is_let_go_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host holds the tensors of one file, never the whole state."""
    monkeypatch.setattr(resuming, "FILE_BYTES", 80)
    written: list[str] = []

    def write(group: dict[str, Tensor], path: Path) -> None:
        written.extend(group)
        path.touch()

    monkeypatch.setattr(resuming, "save_file", write)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for i in range(6):
            # Two in the file that is filled; all before are written.
            assert len(written) >= i - 2
            yield str(i), torch.ones(10)

    save_checkpoint(tmp_path, 1, {"step": 1}, tensors())
    assert written == [str(i) for i in range(6)]
