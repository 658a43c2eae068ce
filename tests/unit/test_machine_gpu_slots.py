"""Several processes want the GPUs of one machine; the GPUs are names, no process touches one."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.machine.gpu_slots import VARIABLE, SlotError, take, visible_gpus

ROOT = Path(__file__).resolve().parents[2]
SHOW = f"import os, sys; print(os.environ.get('{VARIABLE}'), flush=True); sys.stdin.read()"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands that hold n of two GPUs until their stdin ends."""
    started = []

    def begin(n: int, **variables: str) -> subprocess.Popen[str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        process = subprocess.Popen(
            [sys.executable, "-m", "bridge.machine.gpu_slots", str(n), sys.executable, "-c", SHOW],
            cwd=ROOT,
            env=plain | {"TMPDIR": str(tmp_path), VARIABLE: "4,7"} | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def shown(process: subprocess.Popen[str]) -> str:
    """What a command that was let start sees."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60.0)[0], "it was not let start"
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("", timeout=60)
    assert process.returncode == 0


@pytest.mark.slow
def test_no_gpu_is_given_twice_and_who_waits_gets_what_is_freed(start: Start) -> None:
    holders = {shown(process): process for process in (start(1), start(1))}
    assert set(holders) == {"4", "7"}
    waiting = [start(1), start(1)]
    for gpu in ("7", "4"):
        finish(holders.pop(gpu))
    assert {shown(process) for process in waiting} == {"4", "7"}


@pytest.mark.slow
def test_a_killed_holder_leaves_its_gpu(start: Start) -> None:
    holders = {shown(process): process for process in (start(1), start(1))}
    waiting = start(1)
    holders["7"].send_signal(signal.SIGKILL)
    assert shown(waiting) == "7"


@pytest.mark.slow
def test_who_needs_two_waits_for_two(start: Start) -> None:
    holders = {shown(process): process for process in (start(1), start(1))}
    pair = start(2)
    finish(holders["4"])
    single = start(1)
    # While the pair waits it holds nothing: one GPU is free, and the single job gets it.
    assert shown(single) == "4"
    finish(single)
    finish(holders["7"])
    assert shown(pair) == "4,7"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "variables"), [(0, {}), (1, {"SLURM_JOB_ID": "7"})], ids=["no GPU", "SLURM"]
)
def test_who_is_not_served_here_starts_at_once(
    start: Start, n: int, variables: dict[str, str]
) -> None:
    holders = [start(1), start(1)]
    assert {shown(process) for process in holders} == {"4", "7"}
    assert shown(start(n, **variables)) == "4,7"


@pytest.mark.slow
def test_too_few_gpus_are_one_sentence(start: Start) -> None:
    process = start(3)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("bridge: this job needs 3 GPUs and 2 can be seen (4, 7); ")
    assert said.count("\n") == 1


def test_without_a_list_the_driver_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    with pytest.raises(SlotError, match="needs 3 GPUs"):
        take(3, visible_gpus(), tmp_path)
