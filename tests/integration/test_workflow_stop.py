"""Snakemake as make starts it: what Ctrl-C says and saves, and a home folder that is none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.store.records import read_json
from tests.fixtures.workflow import ROOT, Workspace

SFT = "results/few/runs/tiny-qwen/chains/sft/seed0"
FEW = ("--cores", "1", "--config", "suite=few")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace.make(tmp_path / "space")


@contextlib.contextmanager
def started(
    space: Workspace, *arguments: str, background: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """The workflow in a group of its own, as a shell starts it; ``background``: by ``&``."""
    words = [sys.executable, "-m", "bridge.jobs.workflow", *arguments]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if background else []
    known = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
    process = subprocess.Popen(
        [*ignoring, *words],
        cwd=space.path,
        env=known | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_for(path: Path) -> None:
    end_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end_s, f"{path} was not made"
        time.sleep(0.05)


def test_a_grid_in_the_background_begins_nothing_after_a_stop(space: Workspace) -> None:
    """Also where a failed job would not end it."""
    rows = ("base", "sft", "rl_zero")
    (space.path / "verdicts.txt").write_text("".join(f"{row}/seed0 wait\n" for row in rows))
    words = ("--keep-going", "--until", "train", "--cores", "1", *FEW[-2:])
    with started(space, *words, background=True) as process:
        wait_for(space.path / "waiting")
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    runs = (space.path / SFT).parents[1]
    assert len(list(runs.glob("*/seed0/failed.json"))) == 1


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_a_stop_says_in_two_lines_what_is_saved(space: Workspace, whole_group: bool) -> None:
    (space.path / "verdicts.txt").write_text("sft/seed0 wait\n")
    with started(space, f"{SFT}/scores.json", *FEW) as process:
        wait_for(space.path / "waiting")
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1  # Snakemake's
    assert said.splitlines()[-2:] == [
        "bridge: stopping; the runs under way save what they have (Ctrl-C again: at once).",
        "bridge: stopped with 0 of 3 runs done and 1 saved part of the way; the same command goes "
        "on from there.",
    ]
    assert "Error" not in said and "Traceback" not in said
    assert read_json(space.path / SFT / "failed.json")["status"] == "interrupted"


def test_without_a_stop_nothing_is_added(space: Workspace) -> None:
    with started(space, f"{SFT}/done.json", *FEW) as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "Finished jobid" in said and "bridge: " not in said
    with started(space, "-n", "--config", "suit=few") as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "bridge: --config: suit: unknown key; did you mean 'suite'?" in said


def test_bridge_run_tells_how_far_it_is(space: Workspace) -> None:
    """In lines of its own; what Snakemake says is in its log."""
    command = ("run", "--suite", "few", "--cores", "1", "--", "--until", "evaluate")
    done = space.bridge(*command)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    end = "base models 1 of 1; training 3 of 3; evaluation 3 of 3; about 0:00 left"
    assert lines[-2] == end and lines[-1].startswith("bridge: done after ")
    assert all(line.startswith("base models ") for line in lines[:-1]) and done.stdout == ""
    (log,) = (space.path / ".snakemake" / "log").glob("*.log")
    assert log.read_text().count("Finished jobid") == 7


def test_bridge_run_says_what_failed_and_why(space: Workspace) -> None:
    (space.path / "verdicts.txt").write_text("sft/seed0 fail\n")
    done = space.bridge("run", "--suite", "few", "--cores", "1", "--", "--until", "evaluate")
    assert done.returncode == 1
    assert "1 failed" in done.stderr
    said = f"failed: results/few/logs/train/{SFT.partition('runs/')[2]}.log\n"
    assert f"{said}    bridge: sft/seed0 cannot be trained; mend it." in done.stderr
    assert "Error in rule" not in done.stderr


def test_a_tracker_that_is_not_there_costs_a_line(space: Workspace) -> None:
    """The workflow starts it, says where its messages are, and ends as without it."""
    with (space.path / "config.yaml").open("a") as stream:
        stream.write("tracking: mlflow\n")
    done = space.snakemake(f"{SFT}/done.json", *FEW)
    assert done.returncode == 0, done.stderr
    log = space.path / "results" / "few" / "logs" / "tracking.log"
    assert "bridge: mlflow is sent what the runs log; its messages: results/few/logs" in done.stderr
    end_s = time.monotonic() + 60
    while "bridge: mlflow is not installed in " not in log.read_text():
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.1)


def test_a_home_folder_is_not_needed(space: Workspace) -> None:
    command = ("-m", "bridge.jobs.workflow", "-n", "--config", "suite=few")
    for home, said in (
        ("/dev/null/none", "bridge: /dev/null/none/.cache cannot be written; the cache is "),
        (str(space.path / "home"), ""),
    ):
        done = space.run(*command, HOME=home, XDG_CACHE_HOME="")
        assert done.returncode == 0, done.stderr
        assert "Job stats:" in done.stdout
        lines = [line for line in done.stderr.splitlines() if line.startswith("bridge: ")]
        assert [line.startswith(said) for line in lines] == [True] * bool(said)
