"""The commit in a record is that of the code that made the number."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bridge.machine.provenance import CODE, git_state

EDITED = (
    "bridge/methods/sft.py",
    "bridge/step/objectives/kl.py",
    "bridge/grading/pool.py",
    "studies/coupling/arms.py",
    "suites/laptop.yaml",
    "rules/train.smk",
    "envs/train.lock",
    "claims.yaml",
    "config.yaml",
    "Snakefile",
)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one file of each kind that can change a number."""
    for name in (*EDITED, "bridge/__init__.py", "docs/page.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_checkout_gives_its_commit(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"commit": head, "dirty": False, "changed": []}


@pytest.mark.parametrize("name", EDITED)
def test_an_edit_of_what_can_change_a_number_is_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("b\n")
    state = git_state(checkout)
    assert state["dirty"] is True and state["changed"] == [name]


@pytest.mark.parametrize("name", ["bridge/methods/new.py", "suites/new.yaml"])
def test_a_new_file_is_dirty_too(checkout: Path, name: str) -> None:
    (checkout / name).write_text("b\n")
    assert git_state(checkout)["dirty"] is True


def test_a_page_changes_no_number(checkout: Path) -> None:
    (checkout / "docs/page.md").write_text("b\n")
    (checkout / "README.md").write_text("b\n")
    assert git_state(checkout)["dirty"] is False


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    state = git_state(tmp_path)
    assert state["commit"] is None and state["dirty"] is None
    assert state["reason"] == "the code is not in a git checkout"


def test_the_repository_around_an_installed_package_is_not_the_code(checkout: Path) -> None:
    installed = checkout / "venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "bridge").mkdir()
    (installed / "bridge" / "__init__.py").write_text("")
    state = git_state(installed)
    assert state["commit"] is None and "does not hold the code" in state["reason"]


def test_without_git_it_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert git_state(checkout)["commit"] is None


def test_every_place_that_holds_code_is_looked_at(root: Path) -> None:
    """A folder or file at the root that is neither named nor known to change no number."""
    harmless = {
        ".ci",
        ".dockerignore",
        ".git",
        ".git_archival.txt",
        ".gitattributes",
        ".github",
        ".gitignore",
        ".pre-commit-config.yaml",
        ".snakemake-workflow-catalog.yml",
        "AGENTS.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "LOG.md",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "benchmarks",
        "containers",  # the same pins; records hold the versions
        "docs",
        "examples",
        "mkdocs.yml",
        "report",
        "results",
        "skills",
        "tests",
    }
    tracked = {line.split("/")[0] for line in git(root, "ls-files").splitlines()}
    assert tracked - harmless - set(CODE) == set()
