"""`bridge status` tells the state of a run from its files alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.collect.status import WIDTH, State, doctor_text, grid_text, run_state
from bridge.plan.grid import Plan, RunSpec, load_plan
from bridge.store.records import base_folder, read_json, write_json
from tests.fixtures.run_folders import (
    write_divergence,
    write_evaluation,
    write_failure,
    write_heartbeat,
    write_training,
)

NOW = 1_800_000_000.0


@pytest.fixture
def plan(root: Path) -> Plan:
    return load_plan("smoke", root=root)


@pytest.fixture
def spec(plan: Plan) -> RunSpec:
    return plan.run("tiny-qwen", "chains", "bridge", 0)


@pytest.fixture
def dead_pid() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_nothing_is_there_yet(spec: RunSpec, tmp_path: Path) -> None:
    assert run_state(spec, tmp_path) == State("waiting")


def test_a_living_process_is_running(spec: RunSpec, tmp_path: Path) -> None:
    write_heartbeat(spec, tmp_path, pid=os.getpid(), host=socket.gethostname(), at=NOW - 30)
    state = run_state(spec, tmp_path, now=NOW)
    assert state == State("running", "step 45 of 200, 1:32 left", "45/200")


def test_a_dead_process_has_stopped(spec: RunSpec, tmp_path: Path, dead_pid: int) -> None:
    write_heartbeat(spec, tmp_path, pid=dead_pid, host=socket.gethostname(), at=NOW - 30)
    assert run_state(spec, tmp_path, now=NOW).word == "stopped"


def test_a_process_elsewhere_is_judged_by_the_clock(spec: RunSpec, tmp_path: Path) -> None:
    write_heartbeat(spec, tmp_path, pid=1, host="another-machine", at=NOW - 30)
    assert run_state(spec, tmp_path, now=NOW).word == "running"
    assert run_state(spec, tmp_path, now=NOW + 10_000).word == "stopped"


def test_a_trained_run_waits_for_its_evaluation(spec: RunSpec, tmp_path: Path) -> None:
    write_training(spec, tmp_path)
    assert run_state(spec, tmp_path).word == "trained"
    write_evaluation(spec, tmp_path)
    assert run_state(spec, tmp_path) == State("done")


def test_a_divergence_is_told_with_its_reason(spec: RunSpec, tmp_path: Path) -> None:
    write_divergence(spec, tmp_path)
    assert run_state(spec, tmp_path) == State("diverged", "step 3: the loss is NaN")


def test_a_failure_is_told_until_the_next_attempt_runs(spec: RunSpec, tmp_path: Path) -> None:
    write_failure(spec, tmp_path, "the checkpoint is missing")
    assert run_state(spec, tmp_path) == State("failed", "train: the checkpoint is missing")
    write_heartbeat(spec, tmp_path, pid=os.getpid(), host=socket.gethostname(), at=NOW)
    assert run_state(spec, tmp_path, now=NOW).word == "running"


def test_records_of_another_configuration_say_nothing(spec: RunSpec, tmp_path: Path) -> None:
    write_training(spec, tmp_path)
    write_evaluation(spec, tmp_path)
    measured = replace(spec, evaluation=spec.evaluation.model_copy(update={"temperature": 0.5}))
    trained = replace(spec, training=spec.training.model_copy(update={"temperature": 0.5}))
    assert run_state(measured, tmp_path).word == "trained"
    assert run_state(trained, tmp_path).word == "waiting"


@pytest.mark.parametrize("name", ["done", "scores", "heartbeat", "failure"])
def test_a_damaged_record_does_not_stop_the_status(
    plan: Plan, spec: RunSpec, tmp_path: Path, name: str
) -> None:
    path: Path = getattr(spec.folder(tmp_path), name)
    path.parent.mkdir(parents=True)
    path.write_text('{"status": ')
    assert run_state(spec, tmp_path).word == "waiting"
    assert "10 waiting" in grid_text(plan, results=tmp_path)


def test_a_failure_shows_its_log_and_what_the_reason_leaves_out(
    plan: Plan, spec: RunSpec, tmp_path: Path
) -> None:
    write_failure(spec, tmp_path, "ZeroDivisionError: a defect")
    log = spec.folder(tmp_path).log("train")
    log.parent.mkdir(parents=True)
    place = '  File "loop.py", line 16, in train_run\n    1 / 0\n'
    log.write_text(f"Traceback (most recent call last):\n{place}ZeroDivisionError: a defect\n")
    lines = grid_text(plan, results=tmp_path).splitlines()
    start = lines.index("failed")
    assert lines[start + 1 : start + 5] == [
        "  tiny-qwen/chains/bridge/seed0: train: ZeroDivisionError: a defect",
        f"    log: {log}",
        '        File "loop.py", line 16, in train_run',
        "          1 / 0",
    ]
    # A log of an older attempt says nothing about this one.
    os.utime(log, (0, 0))
    assert run_state(spec, tmp_path).log is None


def test_a_run_that_was_killed_shows_its_log(spec: RunSpec, tmp_path: Path, dead_pid: int) -> None:
    write_heartbeat(spec, tmp_path, pid=dead_pid, host=socket.gethostname(), at=NOW - 30)
    log = spec.folder(tmp_path).log("train")
    assert run_state(spec, tmp_path, now=NOW).log is None
    log.parent.mkdir(parents=True)
    log.write_text("Killed\n")
    assert run_state(spec, tmp_path, now=NOW).log == log


@pytest.fixture
def mixed(plan: Plan, tmp_path: Path) -> Path:
    """Results with a run in every state."""
    runs = {(s.label, s.seed): s for s in plan.runs}
    for seed in (0, 1):
        write_training(runs["base", seed], tmp_path)
        write_evaluation(runs["base", seed], tmp_path)
    write_training(runs["sft", 0], tmp_path)
    write_divergence(runs["rl_zero", 0], tmp_path)
    write_failure(runs["bridge", 1], tmp_path, "a long reason " * 40)
    write_json(base_folder(tmp_path, "smoke", "tiny-qwen") / "base.json", {"hash": "aa"})
    host = socket.gethostname()
    at = (tmp_path / "smoke").stat().st_mtime
    write_heartbeat(runs["cold_start", 1], tmp_path, pid=os.getpid(), host=host, at=at)
    return tmp_path


def test_the_grid_counts_and_explains(plan: Plan, mixed: Path) -> None:
    text = grid_text(plan, results=mixed)
    lines = text.splitlines()
    assert lines[0] == (
        "suite smoke: 10 runs: 2 done, 1 diverged, 1 running, 1 trained, 1 failed, 4 waiting"
    )
    assert "base model tiny-qwen: ready" in lines
    cold_start = next(line for line in lines if line.startswith("cold_start"))
    assert re.sub(" +", " ", cold_start) == "cold_start seed0 waiting seed1 running 45/200"
    seconds = {line.index("seed1") for line in lines if " seed1 " in line}
    assert len(seconds) == 1, "the columns of a block are aligned"
    assert "  tiny-qwen/chains/cold_start/seed1: step 45 of 200, 1:32 left" in lines
    assert "  tiny-qwen/chains/rl_zero/seed0: step 3: the loss is NaN" in lines
    assert "  tiny-qwen/chains/bridge/seed1: train: a long reason" in text


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_the_grid_is_at_most_100_columns_wide(root: Path, mixed: Path, name: str) -> None:
    plan = load_plan(name, root=root)
    assert max(map(len, grid_text(plan, results=mixed).splitlines())) <= WIDTH == 100


def test_many_seeds_wrap(root: Path, tmp_path: Path) -> None:
    grid = {"grid": [{**_block(root), "seeds": list(range(20))}]}
    text = grid_text(load_plan("smoke", root=root, overrides=grid), results=tmp_path)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("seed19 waiting") == 5


def _block(root: Path) -> dict[str, list[str]]:
    block = load_plan("smoke", root=root).suite.grid[0]
    return {
        "models": list(block.models),
        "datasets": list(block.datasets),
        "methods": list(block.methods),
    }


def test_colours_only_where_asked(plan: Plan, mixed: Path) -> None:
    plain = grid_text(plan, results=mixed)
    coloured = grid_text(plan, results=mixed, colour=True)
    assert "\x1b" not in plain
    assert coloured != plain
    assert re.sub(r"\x1b\[\d*m", "", coloured) == plain


def test_asking_writes_nothing(plan: Plan, mixed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in mixed.rglob("*")}
    grid_text(plan, results=mixed)
    doctor_text(plan, results=mixed)
    assert {p: p.stat().st_mtime_ns for p in mixed.rglob("*")} == before


def test_the_doctor_names_versions_and_the_plan(plan: Plan, mixed: Path) -> None:
    facts = dict(line.split("  ", 1) for line in doctor_text(plan, results=mixed).splitlines())
    said = {name.strip(): value.strip() for name, value in facts.items()}
    assert said["python"].startswith(sys.version.split()[0])
    assert said["pydantic"][0].isdigit()
    assert said["runs"] == "10, of which 2 done"
    assert "GiB free" in said["disk"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["status", "--suite", "smoke"], ("torch", "numpy", "pandas")),
        (["--help"], ("pydantic", "yaml", "bridge.store", "bridge.plan")),
    ],
)
def test_asking_imports_little(root: Path, words: list[str], unwanted: tuple[str, ...]) -> None:
    code = (
        "import contextlib, sys; from bridge.jobs.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n"
        f"print([m for m in {unwanted} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_heartbeat_names_what_the_trainer_writes(spec: RunSpec, tmp_path: Path) -> None:
    """The fixture and the trainer have to agree on the keys."""
    telemetry = pytest.importorskip("bridge.machine.telemetry")
    folder = spec.folder(tmp_path)
    progress = telemetry.Progress(folder, name="run", step=0, n_steps=5)
    progress.update(1, "reward 0.5")
    written = set(read_json(folder.heartbeat))
    progress.close()
    write_heartbeat(spec, tmp_path, pid=1, host="h", at=NOW)
    assert written == set(read_json(folder.heartbeat))
