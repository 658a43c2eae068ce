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


def install(kind: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in a folder of its own, with a stand-in for Python that notes how it is called."""
    (folder / "envs").mkdir()
    for name in ("laptop.lock", "gpu.txt", "core.txt"):
        shutil.copy(ROOT / "envs" / name, folder / "envs")
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    fake = f'#!/usr/bin/env bash\necho "$*" >> {folder}/calls\n[[ "$*" != *nonsense* ]]\n'
    for program in (folder / "python3", venv / "bin" / "python"):
        program.write_text(fake)
        program.chmod(0o755)
    return subprocess.run(
        ["bash", "-s", kind, "https://example.org/cpu"],
        input=INSTALL.read_text().replace("/opt/venv", str(venv)),
        cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("kind", ["laptop", "gpu", "nonsense"])
def test_an_image_installs_pins_that_are_there(kind: str, tmp_path: Path) -> None:
    done = install(kind, tmp_path)
    calls = (tmp_path / "calls").read_text()
    assert (done.returncode == 0) == (kind != "nonsense"), done.stderr
    assert ("--index-url https://example.org/cpu torch==" in calls) == (kind == "laptop")
    pins = {"laptop": "envs/laptop.lock", "gpu": "envs/gpu.txt"}
    assert kind not in pins or f"install -r {pins[kind]}\n" in calls


def test_files_that_an_image_leaves_out_make_no_edited_clone(tmp_path: Path) -> None:
    """The version is made by git: a file that was edited still counts."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    for name in ("figure.png", "code.py"):
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "all")
    (tmp_path / "figure.png").unlink()
    assert git("describe", "--always", "--dirty").endswith("-dirty")
    assert install("laptop", tmp_path).returncode == 0
    assert not git("describe", "--always", "--dirty").endswith("-dirty")
    (tmp_path / "code.py").write_text("2\n")
    assert git("describe", "--always", "--dirty").endswith("-dirty")
