"""Images cannot be built here: their files are linted, parsed and compared with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "containers" / "Dockerfile"
APPTAINER = ROOT / "containers" / "bridge.def"
INSTALL = ROOT / "containers" / "install.sh"


def sections(text: str) -> dict[str, str]:
    """The header and the sections of an Apptainer definition."""
    parts = re.split(r"^(%\w+).*\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint: `make .venv`")
    done = subprocess.run([program, str(DOCKER)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_are_made_alike() -> None:
    docker, definition = DOCKER.read_text(), sections(APPTAINER.read_text())
    known = {"", "%arguments", "%files", "%post", "%environment", "%runscript", "%test"}
    assert definition.keys() == known
    image = re.search(r"^FROM (\S+)$", docker, re.MULTILINE)
    assert image and f"From: {image[1]}\n" in definition[""]
    for name, default in re.findall(r"^ARG (\w+)=(\S+)$", docker, re.MULTILINE):
        assert f"{name}={default}" in definition["%arguments"]
        assert f"{{{{ {name} }}}}" in definition["%post"]
    packages = re.search(r"--no-install-recommends (.*?) \\", docker)
    assert packages and f"--no-install-recommends {packages[1]}\n" in definition["%post"]


def test_the_shell_parts_parse() -> None:
    definition = sections(APPTAINER.read_text())
    texts = [
        INSTALL.read_text(),
        *(definition[name] for name in ("%post", "%environment", "%test")),
    ]
    for text in texts:
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["laptop", "gpu", "nonsense"])
def test_an_image_installs_pins_that_are_there(kind: str, tmp_path: Path) -> None:
    """The script in a folder of its own, with a stand-in for Python that notes how it is called."""
    (tmp_path / "envs").mkdir()
    for name in ("laptop.lock", "gpu.txt", "core.txt"):
        shutil.copy(ROOT / "envs" / name, tmp_path / "envs")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    fake = f'#!/usr/bin/env bash\necho "$*" >> {tmp_path}/calls\n[[ "$*" != *nonsense* ]]\n'
    for program in (tmp_path / "python3", venv / "bin" / "python"):
        program.write_text(fake)
        program.chmod(0o755)
    script = INSTALL.read_text().replace("/opt/venv", str(venv))
    done = subprocess.run(
        ["bash", "-s", kind, "https://example.org/cpu"],
        input=script,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    calls = (tmp_path / "calls").read_text()
    assert (done.returncode == 0) == (kind != "nonsense"), done.stderr
    assert ("--index-url https://example.org/cpu torch==" in calls) == (kind == "laptop")
    pins = {"laptop": "envs/laptop.lock", "gpu": "envs/gpu.txt"}
    assert kind not in pins or f"install -r {pins[kind]}\n" in calls
