"""The real trackers, read back by their own readers. They have an environment of their own, which
`make .venv-tracking` sets up."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.plan.grid import RunSpec, load_plan
from bridge.store.records import RunFolder, jsonl, write_json
from tests.fixtures.workflow import ROOT

PYTHON = Path(os.environ.get("BRIDGE_TRACKING_PYTHON", ROOT / ".venv-tracking/bin/python"))
pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason="no trackers are installed: `make test-tracking`"
)
LINES = [{"step": n, "kind": "rl", "reward_mean": n / 10, "rl_loss": -1.5} for n in range(6)]
Told = Callable[..., str]


@pytest.fixture
def spec() -> RunSpec:
    return load_plan("smoke", root=ROOT).run("tiny-qwen", "chains", "sft", 0)


@pytest.fixture
def folder(spec: RunSpec, tmp_path: Path) -> RunFolder:
    found = spec.folder(tmp_path)
    write_json(found.spec, spec.as_dict())
    return found


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """Variables that keep all that the trackers write below a folder."""
    return {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def told(place: dict[str, str]) -> Told:
    """Run Python where the trackers are; its output."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [PYTHON, *words],
            cwd=ROOT,
            env=os.environ | place,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def send(told: Told, name: str, tmp_path: Path) -> str:
    words = ("track", "--suite", "smoke", "--results", str(tmp_path), "--to", name)
    return told("-m", "bridge", *words)


def send_in_two_parts(told: Told, name: str, folder: RunFolder) -> None:
    """A run that is stopped after its fourth step, cut back to the third, and resumed."""
    results = folder.path.parents[5]
    folder.dynamics.write_text(jsonl(LINES[:4]))
    assert f"4 steps sent to {name}" in send(told, name, results)
    folder.dynamics.write_text(jsonl(LINES[:3]))
    assert f"0 steps sent to {name}" in send(told, name, results)
    folder.dynamics.write_text(jsonl(LINES))
    write_json(folder.done, {})
    assert f"2 steps sent to {name}" in send(told, name, results)


def read(told: Told, code: str) -> object:
    """What a reader's code prints last, as JSON."""
    return json.loads(told("-c", code).strip().splitlines()[-1])


def test_trackio_has_one_run_with_each_step_once(
    told: Told, folder: RunFolder, spec: RunSpec
) -> None:
    send_in_two_parts(told, "trackio", folder)
    title = f"tiny-qwen/chains/sft/seed0 {spec.spec_hash[:8]}"
    code = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S;"
        "runs = [run.name for run in trackio.Api().runs('bridge-smoke')];"
        f"logs = S.get_logs('bridge-smoke', {title!r});"
        "print(json.dumps([runs, [[l['step'], l['reward_mean'], l['rl_loss']] for l in logs]]))"
    )
    expected = [[line["step"], line["reward_mean"], line["rl_loss"]] for line in LINES]
    assert read(told, code) == [[title], expected]


def test_tensorboard_reads_one_curve(
    told: Told, folder: RunFolder, spec: RunSpec, tmp_path: Path
) -> None:
    send_in_two_parts(told, "tensorboard", folder)
    place = tmp_path / "smoke/tracking/tensorboard/tiny-qwen/chains/sft"
    code = (
        "import json; from tensorboard.util.tensor_util import make_ndarray;"
        "from tensorboard.backend.event_processing import plugin_event_multiplexer as multiplexer;"
        f"m = multiplexer.EventMultiplexer().AddRunsFromDirectory({str(place)!r}).Reload();"
        "(run,) = m.Runs();"
        "events = m.Tensors(run, 'reward_mean');"
        "print(json.dumps([run, [[e.step, float(make_ndarray(e.tensor_proto))] for e in events]]))"
    )
    run, points = read(told, code)  # type: ignore[misc]
    assert run == f"seed0 {spec.spec_hash[:8]}"
    assert [p[0] for p in points] == [line["step"] for line in LINES]
    assert [p[1] for p in points] == pytest.approx([line["reward_mean"] for line in LINES])


def test_mlflow_has_one_run_with_each_step_once(told: Told, folder: RunFolder) -> None:
    send_in_two_parts(told, "mlflow", folder)
    code = (
        "import json; from mlflow import MlflowClient; c = MlflowClient();"
        "(run,) = c.search_runs([c.get_experiment_by_name('bridge-smoke').experiment_id]);"
        "history = c.get_metric_history(run.info.run_id, 'reward_mean');"
        "print(json.dumps([run.info.status, [[m.step, m.value] for m in history]]))"
    )
    expected = [[line["step"], line["reward_mean"]] for line in LINES]
    assert read(told, code) == ["FINISHED", expected]


def test_wandb_writes_one_id(told: Told, folder: RunFolder, tmp_path: Path, spec: RunSpec) -> None:
    """Offline: one file for each process, all of them of the same run."""
    send_in_two_parts(told, "wandb", folder)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert {f.stem for f in files} == {f"run-tiny-qwen-chains-sft-seed0-{spec.spec_hash[:8]}"}


def test_a_server_that_does_not_answer_is_a_line(
    folder: RunFolder, tmp_path: Path, told: Told, place: dict[str, str]
) -> None:
    """What is missing is sent when it does: trackio keeps it itself, MLflow is asked again."""
    folder.dynamics.write_text(jsonl(LINES))
    there = place["MLFLOW_TRACKING_URI"]
    nobody = "http://127.0.0.1:9"
    place |= {"MLFLOW_TRACKING_URI": nobody, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    said = send(told, "mlflow", tmp_path)
    assert "0 steps sent to mlflow" in said and "mlflow took nothing (" in said
    place["MLFLOW_TRACKING_URI"] = there
    assert "6 steps sent to mlflow" in send(told, "mlflow", tmp_path)
    place["TRACKIO_SERVER_URL"] = f"{nobody}/?write_token=x"
    assert "6 steps sent to trackio" in send(told, "trackio", tmp_path)
