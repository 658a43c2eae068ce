"""``bridge train`` on two ranks from the command line: killed, stopped, and in the end the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.machine.interruption import EXIT_INTERRUPTED
from bridge.plan.grid import load_plan
from bridge.store.records import RunFolder, read_json
from tests.fixtures.tiny_run import DATASET, make_training

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
N_STEPS = 30
PATIENCE_S = 300


@pytest.fixture(scope="module")
def workspace(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite of two runs that differ in the number of processes only."""
    folder = tmp_path_factory.mktemp("workspace")
    training = make_training(checkpoint_every=2).model_dump(mode="json")
    two = {"stage": "zero2", "ranks": 2}
    suite: dict[str, Any] = {
        "title": "Faults",
        "models": {"tiny": {"source": "local", "path": str(base)}},
        "datasets": {"chains": {"family": "chains", "options": DATASET}},
        "training": training,
        "evaluation": {"max_response_tokens": 6, "n_samples": 0, "sampled_questions": 0},
        "methods": {
            name: {"method": "sft", "options": {"steps": N_STEPS}, "training": {"sharding": two}}
            for name in ("disturbed", "straight")
        },
        "grid": [
            {
                "models": ["tiny"],
                "datasets": ["chains"],
                "methods": ["disturbed", "straight"],
                "seeds": [0],
            }
        ],
    }
    (folder / "suites").mkdir()
    (folder / "suites" / "faults.yaml").write_text(yaml.safe_dump(suite))
    (folder / "config.yaml").write_text("suite: faults\n")
    return folder


def start(workspace: Path, label: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bridge", "train", "--model", "tiny", "--dataset", "chains"]
    return subprocess.Popen(
        [*command, "--method", label, "--seed", "0"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def under_way(workspace: Path, label: str, folder: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """Yield once the run has a new checkpoint; nothing of it is left behind."""
    before = {p.name for p in folder.resume.glob("step*")}
    process = start(workspace, label)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not {p.name for p in folder.resume.glob("step*")} - before:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def test_what_disturbs_a_run_of_two_ranks_is_one_sentence_and_costs_nothing(
    workspace: Path,
) -> None:
    plan = load_plan("faults", root=workspace)
    results = workspace / "results"
    disturbed = plan.run("tiny", "chains", "disturbed", 0).folder(results)
    straight = plan.run("tiny", "chains", "straight", 0).folder(results)

    # A rank dies: the other one is in the middle of a step and must not wait for it.
    with under_way(workspace, "disturbed", disturbed) as process:
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2
    sentences = [line for line in said.splitlines() if line.startswith("bridge: ")]
    assert len(sentences) == 1 and "rank 1 of 2 was ended by SIGKILL" in sentences[0]
    assert "Traceback" not in said
    assert "SIGKILL" in read_json(disturbed.failure)["reason"]
    assert not disturbed.done.exists()

    # A request to stop: all save at one step.
    with under_way(workspace, "disturbed", disturbed) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == EXIT_INTERRUPTED, said
    assert read_json(disturbed.failure)["status"] == "interrupted"
    steps = [read_json(p / "state.json")["step"] for p in disturbed.resume.glob("step*")]
    assert max(steps) > 2

    for label in ("disturbed", "straight"):
        process = start(workspace, label)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    for name in ("dynamics", "policy"):
        pair = [getattr(folder, name) for folder in (disturbed, straight)]
        files = [p / "model.safetensors" if p.is_dir() else p for p in pair]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert not disturbed.failure.exists()
