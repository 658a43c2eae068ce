"""A project folder outside of the repository, and `bridge run` in it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge.collect import status
from bridge.jobs import cli, missing, project
from bridge.plan.grid import load_plan
from bridge.store.records import ROOT, SHIPPED, shipped


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments that Snakemake was started with."""
    calls: list[list[str]] = []

    def start(arguments: Sequence[str], *, told: bool) -> int:
        calls.append([*arguments, f"told={told}"])
        return 0

    monkeypatch.setattr(project, "run_snakemake", start)
    return calls


def test_a_checkout_ships_itself_and_an_installed_package_its_data(tmp_path: Path) -> None:
    assert shipped(ROOT) == SHIPPED == ROOT
    (tmp_path / "bridge" / "workflow").mkdir(parents=True)
    assert shipped(tmp_path) == tmp_path / "bridge" / "workflow"


def test_init_makes_a_folder_in_which_suites_can_be_planned(here: Path) -> None:
    cli.main(["init"])
    assert (here / "config.yaml").read_bytes() == (SHIPPED / "config.yaml").read_bytes()
    for suite in ("smoke", "zoo"):  # the zoo's settings are those that its trials chose
        assert load_plan(suite, root=here).hash == load_plan(suite, root=ROOT).hash


@pytest.mark.parametrize("name", ["config.yaml", "suites/zoo.yaml"])
def test_init_writes_over_nothing(
    here: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["init"])
    assert f"{name} is there already" in capsys.readouterr().err
    assert [p.name for p in here.rglob("*") if p.is_file()] == [Path(name).name]


def test_init_wants_all_that_a_suite_needs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["mine"], ["--model", "x"], ["mine", "--model", "x", "--train", "a.jsonl"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["init", *words])
        assert "a suite needs a NAME, --model, --train and --test" in capsys.readouterr().err


def test_without_a_folder_the_way_to_one_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.plan.config.ROOT", here)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["status"])
    said = capsys.readouterr().err
    assert said.endswith("; make a project folder here with bridge init, or go to one.\n")


def test_run_starts_the_shipped_workflow(here: Path, asked: list[list[str]]) -> None:
    cli.main(["init"])
    cli.main(["run", "--suite", "smoke", "--cores", "2", "--", "--forceall"])
    cli.main(["run", "--dry-run"])
    whole, dry = asked
    start = ["--snakefile", str(SHIPPED / "Snakefile"), "--cores"]
    assert whole == [
        *(*start, "2", "--rerun-incomplete", "--config", "suite=smoke"),
        *("--forceall", "told=True"),
    ]
    assert dry[-3:] == ["suite=laptop", "--dry-run", "told=False"]


def test_run_says_what_is_not_installed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["init"])
    monkeypatch.setattr(project.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run"])
    assert "Snakemake is not installed here; pip install" in capsys.readouterr().err


def test_a_library_that_is_not_installed_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module that no extra brings is a defect, and keeps its traceback."""

    def lacks(name: str) -> None:
        def job(args: argparse.Namespace) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(cli, "pin", job)

    declared = ["pyyaml>=6", "matplotlib>=3.10; extra == 'report'"]
    monkeypatch.setattr(missing.metadata, "requires", lambda name: declared)
    lacks("matplotlib.figure")
    with pytest.raises(SystemExit) as stop:
        cli.main(["pin"])
    said = "bridge: matplotlib is not installed here; pip install 'bridge-harness[all]'.\n"
    assert (stop.value.code, capsys.readouterr().err) == (2, said)
    lacks("bridge.jobs.pining")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["pin"])


def test_watching_ends_with_the_grid(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["init"])
    n_runs = len(load_plan("smoke", root=here).runs)
    looks = iter(["waiting"] * (n_runs + 1) + ["done"] * 1000)
    monkeypatch.setattr(status, "run_state", lambda *_, **__: status.State(next(looks)))  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "WATCH_EVERY_S", 0.0)
    cli.main(["status", "--suite", "smoke", "--watch"])
    assert capsys.readouterr().out.count("suite smoke: ") == 2
