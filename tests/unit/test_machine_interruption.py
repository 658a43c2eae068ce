"""Signals as requests to stop, in processes of their own; and who asks SLURM for another life."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.machine import requeue
from bridge.machine.interruption import EXIT_INTERRUPTED
from bridge.machine.requeue import VARIABLE, requeue_job

ROOT = Path(__file__).resolve().parents[2]

# A job that ends when it is asked to, and one whose step never ends.
PATIENT = """
import sys, time
from bridge.machine import interruption
interruption._REPEATED_S = float(sys.argv[1])
interruption.catch_signals(at_once=False)
print("ready", flush=True)
while True:
    time.sleep(0.01)
    name = interruption.requested()
    if name is not None and {ends}:
        time.sleep(0.3)  # Saving; the same request may arrive again meanwhile.
        print(name)
        sys.exit(interruption.EXIT_INTERRUPTED)
"""
# A library that takes every Exception for a failed item.
AT_ONCE = """
import time
from bridge.jobs import cli
from bridge.machine import interruption
interruption.catch_signals(at_once=True)
def job(args):
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass
cli.doctor = job
cli.main(["doctor"])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program and wait until it has its handlers."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(number: signal.Signals) -> None:
    process = start(PATIENT.format(ends=True), "2")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED == 75
    assert out.strip() == number.name
    assert f"{number.name}: saving after this step" in err


@pytest.mark.slow
def test_the_same_request_may_arrive_twice() -> None:
    process = start(PATIENT.format(ends=True), "20")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    process = start(PATIENT.format(ends=False), "0")
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: saving" in process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number


@pytest.mark.slow
def test_a_job_without_steps_ends_where_it_is() -> None:
    process = start(AT_ONCE)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED
    assert err == "bridge: stopped by SIGTERM; the next attempt starts this job again\n"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7"},
        {VARIABLE: "0"},
        {VARIABLE: "1", "SLURM_JOB_ID": "7"},
    ],
    ids=["no cluster", "a batch script of somebody's own", "no job", "no step in a second life"],
)
def test_nobody_is_asked(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a cluster, what is asked and what comes of it: ``tests/cluster``."""
    for name in (VARIABLE, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(requeue, "_slurm", lambda *command: asked.append(command))
    assert not requeue_job(progressed=False)
    assert not asked


def test_without_the_commands_the_job_just_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(VARIABLE, "0")
    assert not requeue_job(progressed=True)
    assert "squeue" in capsys.readouterr().err
