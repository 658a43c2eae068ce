"""What is published: a wheel and an sdist, built, installed into empty environments and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.fixtures.workflow import ROOT, Workspace

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORCED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
PYTHONS = [
    text.rpartition(" ")[2]
    for text in PROJECT["project"]["classifiers"]
    if re.search(r"Python :: 3\.\d", text)
]


@dataclass(frozen=True)
class Built:
    """What a tree of source was built into."""

    wheel: Path
    sdist: Path | None

    @property
    def version(self) -> str:
        return self.wheel.name.split("-")[1]

    @property
    def files(self) -> set[str]:
        """In the wheel, without its metadata, which the version names."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if ".dist-info/" not in name}


def run(
    command: Sequence[str | Path], cwd: Path, *, alone: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program; ``alone``, it sees neither this checkout nor the tests' environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") if alone else ()
    known = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=known,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def build(source: Path, into: Path, *targets: str) -> Built:
    options = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", into, *options]
    done = run(command, source, alone=False)
    assert done.returncode == 0, done.stderr
    return Built(next(into.glob("*.whl")), next(into.glob("*.tar.gz"), None))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(ROOT, tmp_path_factory.mktemp("dist"), "sdist", "wheel")


def environment(python: Path | str, folder: Path, wheel: Path, *options: str) -> Path:
    """A new environment with the wheel in it; its folder of programs."""
    assert run([python, "-m", "venv", "--without-pip", folder], folder.parent).returncode == 0
    programs = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    options = ("-q", "--no-compile", *options)
    done = run([*pip, *options, wheel], folder.parent)
    if "No matching distribution" in done.stderr or "Temporary failure" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return programs


def test_the_wheel_holds_the_package_and_all_that_the_workflow_reads(built: Built) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "bridge", *FORCED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = set()
    for name in listed.stdout.splitlines():
        forced = [(src, dst) for src, dst in FORCED.items() if (name + "/").startswith(src + "/")]
        expected |= {dst + name.removeprefix(src) for src, dst in forced} or {name}
    assert built.files == expected
    assert {"bridge/py.typed", "bridge/workflow/rules/train.smk"} <= expected


def test_the_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """Without git: the version is what the sdist says of itself, and at last the fallback."""
    assert built.sdist is not None
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "again", "wheel")
    assert (again.version, again.files) == (built.version, built.files)
    (source / "PKG-INFO").unlink()
    fallback = PROJECT["tool"]["hatch"]["version"]["fallback-version"]
    assert build(source, tmp_path / "bare", "wheel").version == fallback


def test_the_release_is_said_alike_everywhere() -> None:
    fallback = PROJECT["tool"]["hatch"]["version"]["fallback-version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    (newest, day), *_ = re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert (newest, day) == (fallback, str(citation["date-released"]))
    assert citation["version"] == fallback
    urls = PROJECT["project"]["urls"]
    assert all(url.startswith(citation["repository-code"]) for url in urls.values())


def test_an_installed_package_plans_a_suite_in_an_empty_folder(
    built: Built, tmp_path: Path
) -> None:
    """The plan is that of the checkout, from the wheel's own files."""
    programs = environment(sys.executable, tmp_path / "env", built.wheel, "--no-deps")
    # What the package needs is taken from here, and the checkout, which is installed here, is not.
    libraries = next((tmp_path / "env").glob("lib/*/site-packages")) / "libraries.pth"
    libraries.write_text(sysconfig.get_path("purelib") + "\n")
    folder = tmp_path / "mine"
    folder.mkdir()
    where = run([programs / "python", "-c", "import bridge; print(bridge.__file__)"], folder)
    assert where.stdout.startswith(str(tmp_path / "env")), where
    version = run([programs / "bridge", "--version"], folder)
    assert version.stdout == f"bridge {built.version}\n"
    assert run([programs / "bridge", "init"], folder).returncode == 0
    plan = run([programs / "bridge", "run", "--suite", "smoke", "-n"], folder)
    assert plan.returncode == 0, plan.stderr
    here = Workspace(ROOT).snakemake("-n", "--forceall", "--config", "suite=smoke")
    assert jobs(plan.stdout + plan.stderr) == jobs(here.stdout + here.stderr)
    assert {p.name for p in (folder / "results").rglob("*") if p.is_file()} == {"choice.json"}
    default = run([programs / "bridge", "run", "-n"], folder)  # tuned by that choice
    assert default.returncode == 0, default.stderr


def jobs(text: str) -> dict[str, int]:
    table = text.split("Job stats:")[-1].split("\n\n")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.mark.parametrize("version", PYTHONS)
def test_the_package_needs_no_more_than_it_says(version: str, built: Built, tmp_path: Path) -> None:
    """On each Python of the classifiers that this machine has, with the declared dependencies."""
    candidates = [f"python{version}", *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    found = [
        path
        for path in candidates
        if (program := shutil.which(path)) and run([program, "-V"], tmp_path).returncode == 0
    ]
    if not found:
        pytest.skip(f"no Python {version} on this machine")
    programs = environment(found[0], tmp_path / "env", built.wheel)
    for words in (["--help"], ["init"], ["status", "--suite", "smoke"], ["doctor"]):
        done = run([programs / "bridge", *words], tmp_path)
        assert done.returncode == 0, done.stderr
    row = ["--suite", "smoke", "--model", "tiny-qwen", "--dataset", "chains", "--method", "sft"]
    own = ["--model", "m", "--train", "a.jsonl", "--test", "b.jsonl"]
    for words, library in (
        (["init", "mine", *own], "math-verify"),
        (["train", *row, "--seed", "0"], "torch"),
        (["summary"], "pandas"),
        (["run"], "Snakemake"),
    ):
        done = run([programs / "bridge", *words], tmp_path)
        sentence = f"bridge: {library} is not installed here; pip install 'bridge-harness[all]'.\n"
        assert (done.returncode, done.stderr) == (2, sentence), done.stderr
