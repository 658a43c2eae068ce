"""A run that was asked to stop keeps every step and ends with an undisturbed run's bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.collect.status import run_state
from bridge.engines.native import NativeEngine
from bridge.evaluation import runner
from bridge.machine.interruption import EXIT_INTERRUPTED, SIGNALS, Interrupted, catch_signals
from bridge.models.checkpoint import CheckpointError
from bridge.plan.grid import RunSpec, load_plan
from bridge.run.experience import Collector
from bridge.run.loop import Run, train_run
from bridge.step.trainer import Trainer
from bridge.store.records import CARD, RunFolder, read_json
from tests.fixtures.evaluation import finish
from tests.fixtures.evaluation import make_spec as make_evaluation_spec
from tests.fixtures.tiny_run import make_spec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def signals() -> Iterator[Callable[..., None]]:
    """The function that makes this process a job; afterwards it is a test again."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield catch_signals
    catch_signals(at_once=False)  # Forgets a request.
    for number, handler in before.items():
        signal.signal(number, handler)


def results_of(folder: RunFolder) -> dict[str, bytes]:
    files = {"dynamics.jsonl": folder.dynamics, "policy": folder.policy / "model.safetensors"}
    return {name: path.read_bytes() for name, path in files.items()}


def train(spec: RunSpec, results: Path) -> RunFolder:
    assert train_run(spec, results=results, threads=1) == "done"
    return spec.folder(results)


def signal_at(
    step: int, owner: type, name: str, monkeypatch: pytest.MonkeyPatch, current: list[int]
) -> None:
    """Let a function of the run be interrupted by a real SIGTERM in a step."""
    original = getattr(owner, name)

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current[-1] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps begun so far."""
    begun = [0]
    original = Run.step

    def noted(self: Run) -> dict[str, Any]:
        begun.append(self.counters.step + 1)
        return original(self)

    monkeypatch.setattr(Run, "step", noted)
    return begun


# Where the signal comes: in a rollout, while answers are graded, in an update.
PLACES = {
    "bridge": (NativeEngine, "generate"),
    "alternating": (Collector, "groups"),
    "cold_start": (Trainer, "descend"),
    "luffy": (NativeEngine, "generate"),
    "sft": (Trainer, "gradient"),
}


@pytest.mark.parametrize("method", PLACES)
def test_a_stopped_run_ends_with_the_same_bytes(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_workers: None,
    signals: Callable[..., None],
    current: list[int],
    method: str,
) -> None:
    # No checkpoint of its own falls due: what is continued is what the signal saved.
    spec = make_spec(base, method, kl_coef=0.01, checkpoint_every=100)
    n_steps = 6 if method in ("cold_start", "alternating") else 3
    expected = results_of(train(spec, tmp_path / "straight"))
    stop = n_steps - 1
    with monkeypatch.context() as patch:
        signal_at(stop, *PLACES[method], patch, current)
        signals(at_once=False)
        with pytest.raises(
            Interrupted, match=f"SIGTERM after step {stop} of {n_steps};"
        ) as stopped:
            train_run(spec, results=tmp_path / "stopped", threads=1)
    assert stopped.value.progressed
    folder = spec.folder(tmp_path / "stopped")
    assert [p.name for p in folder.resume.iterdir()] == [f"step{stop:08d}"]
    assert not folder.done.exists() and not folder.heartbeat.exists()
    signals(at_once=False)
    current.clear()
    assert results_of(train(spec, tmp_path / "stopped")) == expected
    assert current == [n_steps]


def test_a_request_before_the_first_step_costs_nothing(
    base: Path, tmp_path: Path, no_workers: None, signals: Callable[..., None]
) -> None:
    spec = make_spec(base, "sft")
    signals(at_once=False)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="after step 0 of 3") as stopped:
        train_run(spec, results=tmp_path, threads=1)
    assert not stopped.value.progressed
    assert not spec.folder(tmp_path).resume.exists()


def test_a_request_in_the_last_step_changes_nothing(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_workers: None,
    signals: Callable[..., None],
    current: list[int],
) -> None:
    signal_at(3, Trainer, "descend", monkeypatch, current)
    signals(at_once=False)
    train(make_spec(base, "sft"), tmp_path)


# -- what was finished before ----------------------------------------------------------------------


def test_what_cannot_be_set_up_keeps_what_was_finished(
    base: Path, tmp_path: Path, no_workers: None
) -> None:
    """The same run again, with its base model gone bad meanwhile."""
    mine = tmp_path / "base"
    shutil.copytree(base, mine)
    spec = make_spec(mine, "sft")
    folder = train(spec, tmp_path / "results")
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    os.truncate(mine / "model.safetensors", 100)
    with pytest.raises(CheckpointError):
        train_run(spec, results=tmp_path / "results", threads=1)
    assert {p: p.read_bytes() for p in before} == before


def test_the_weights_are_on_the_disk_before_the_record(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    spec = make_spec(base, "sft")
    folder = train(spec, tmp_path)
    record = next(i for i, name in enumerate(synced) if name.startswith(".done.json"))
    policy = synced.index(".policy.tmp")
    weights = {p.name for p in folder.policy.iterdir()} - {CARD}  # the card follows the scores
    assert weights <= set(synced[:policy])
    assert folder.path.name in synced[policy:record]


# -- whole processes -------------------------------------------------------------------------------

SUITE = """
title: Interrupted
models: {{tiny: {{source: local, path: {base}}}}}
datasets:
  chains:
    family: chains
    options: {{train_size: 24, validation_size: 8, demonstrations: 10, questions_scale: 0.02}}
training:
  prompts_per_step: 6
  n: 6
  max_response_tokens: 6
  sft_batch_size: 3
  lr_sft: 2.0e-4
  lr_rl: 1.0e-3
  probe_every: 40
  probe_size: 4
  checkpoint_every: 100
evaluation: {{max_response_tokens: 6, n_samples: 0, sampled_questions: 0}}
methods: {{bridge: {{options: {{steps: 40}}}}}}
grid: [{{models: [tiny], datasets: [chains], methods: [bridge], seeds: [0]}}]
"""


def command(name: str, results: str) -> list[str]:
    run = ["--model", "tiny", "--dataset", "chains", "--method", "bridge", "--seed", "0"]
    return [sys.executable, "-m", "bridge", name, "--suite", "s", "--results", results, *run]


def test_a_signalled_process_is_continued_by_the_same_command(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("suite: s\n")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.yaml").write_text(SUITE.format(base=base))
    spec = load_plan("s", root=tmp_path).runs[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def begin(results: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command("train", results),
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    straight, process = begin("straight"), begin("stopped")
    folder = spec.folder(tmp_path / "stopped")
    while not folder.heartbeat.exists() and process.poll() is None:
        time.sleep(0.01)
    # As a cluster does: to every process of the job, the graders too, and twice.
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "Traceback" not in said
    record = read_json(folder.failure)
    assert (record["status"], record["stage"]) == ("interrupted", "train")
    state = run_state(spec, tmp_path / "stopped")
    assert state.word == "interrupted" and state.detail.startswith(
        "train: stopped by SIGTERM after"
    )
    for other in (begin("stopped"), straight):
        _, said = other.communicate(timeout=300)
        assert other.returncode == 0, said
    assert results_of(folder) == results_of(spec.folder(tmp_path / "straight"))
    assert not folder.failure.exists()
    assert run_state(spec, tmp_path / "stopped").word == "trained"


def test_a_stopped_evaluation_leaves_no_scores_and_is_repeated(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: Callable[..., None]
) -> None:
    spec = make_evaluation_spec(max_response_tokens=6)
    finish(spec, tmp_path, base)
    folder = spec.folder(tmp_path)
    assert runner.evaluate_run(spec, results=tmp_path, threads=1) == "done"
    expected = folder.answers.read_bytes()
    scores = json.loads(folder.scores.read_text())
    load = runner.load_policy

    def interrupted(*args: Any) -> Any:
        policy = load(*args)
        policy.generate_until = lambda requests: os.kill(os.getpid(), signal.SIGTERM)
        return policy

    folder.scores.unlink()
    signals(at_once=True)
    with pytest.raises(Interrupted):
        runner.evaluate_run(spec, results=tmp_path, threads=1, load=interrupted)
    assert not folder.scores.exists()
    assert runner.evaluate_run(spec, results=tmp_path, threads=1) == "done"
    assert folder.answers.read_bytes() == expected
    again = json.loads(folder.scores.read_text())
    assert again["benchmarks"] == scores["benchmarks"]
