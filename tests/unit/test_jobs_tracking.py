"""Runs are sent to a tracker once, step by step, whatever the tracker does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from bridge.jobs import arguments, cli, tracking
from bridge.jobs.trackers import Tracked, Values
from bridge.jobs.tracking import Follower, complete_lines, values_of
from bridge.plan.config import Tracker as TrackerName
from bridge.plan.config import load_user_config
from bridge.plan.grid import RunSpec, load_plan
from bridge.store.records import BusyError, RunFolder, holding, jsonl, write_json
from bridge.store.schema import ConfigError

LINES = [
    {"step": n, "kind": "rl", "reward_mean": n / 10, "heldout_accuracy": None if n % 2 else 0.5}
    for n in range(5)
]


class Notebook:
    """A tracker that remembers, or fails when told to."""

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[int, Values]]] = {}
        self.ended: list[str] = []
        self.dead = False

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        if self.dead:
            raise ConnectionError("nobody answers")
        self.sent.setdefault(run.title, []).extend(steps)

    def end(self, run: Tracked) -> None:
        self.ended.append(run.title)


@pytest.fixture
def spec(root: Path) -> RunSpec:
    return load_plan("smoke", root=root).run("tiny-qwen", "chains", "sft", 0)


@pytest.fixture
def folder(spec: RunSpec, tmp_path: Path) -> RunFolder:
    found = spec.folder(tmp_path)
    write_json(found.spec, spec.as_dict())
    return found


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def follower(tmp_path: Path, notebook: Notebook) -> Follower:
    return Follower("smoke", tmp_path, "trackio", notebook)


def title(spec: RunSpec) -> str:
    return f"tiny-qwen/chains/sft/seed0 {spec.spec_hash[:8]}"


def test_each_step_is_sent_once_under_the_names_of_the_log(
    spec: RunSpec, folder: RunFolder, tmp_path: Path, notebook: Notebook
) -> None:
    one = follower(tmp_path, notebook)
    folder.dynamics.write_text(jsonl(LINES[:2]))
    assert (one.look(), one.look()) == (2, 0)
    folder.dynamics.write_text(jsonl(LINES[:3]))
    assert one.look() == 1
    assert notebook.sent == {
        title(spec): [
            (0, {"reward_mean": 0.0, "heldout_accuracy": 0.5}),
            (1, {"reward_mean": 0.1}),
            (2, {"reward_mean": 0.2, "heldout_accuracy": 0.5}),
        ]
    }


def test_a_resumed_run_goes_on_in_the_same_curve(
    spec: RunSpec, folder: RunFolder, tmp_path: Path, notebook: Notebook
) -> None:
    """Cut back to its checkpoint, it writes step 2 again; another process sends the rest."""
    folder.dynamics.write_text(jsonl(LINES[:3]))
    follower(tmp_path, notebook).look()
    folder.dynamics.write_text(jsonl(LINES[:2]))
    assert follower(tmp_path, notebook).look() == 0
    folder.dynamics.write_text(jsonl(LINES))
    assert follower(tmp_path, notebook).look() == 2
    assert [step for step, _ in notebook.sent[title(spec)]] == [0, 1, 2, 3, 4]


def test_other_settings_are_another_run(
    spec: RunSpec, folder: RunFolder, tmp_path: Path, notebook: Notebook
) -> None:
    folder.dynamics.write_text(jsonl(LINES))
    one = follower(tmp_path, notebook)
    one.look()
    other = replace(spec, training=spec.training.model_copy(update={"temperature": 0.7}))
    write_json(folder.spec, other.as_dict())
    folder.dynamics.write_text(jsonl(LINES[:1]))
    assert one.look() == 1
    assert set(notebook.sent) == {title(spec), title(other)}


def test_a_dead_server_is_a_line_and_loses_nothing(
    folder: RunFolder, tmp_path: Path, notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.dynamics.write_text(jsonl(LINES))
    one, notebook.dead = follower(tmp_path, notebook), True
    assert tracking._looked(one, "trackio") == 0
    said = capsys.readouterr().err
    assert "trackio took nothing (ConnectionError: nobody answers); the runs go on" in said
    assert said.count("\n") == 1
    notebook.dead = False
    assert one.look() == 5


def test_a_run_that_is_done_is_ended_once(
    spec: RunSpec, folder: RunFolder, tmp_path: Path, notebook: Notebook
) -> None:
    folder.dynamics.write_text(jsonl(LINES))
    write_json(folder.done, {})
    one = follower(tmp_path, notebook)
    assert (one.look(), one.look()) == (5, 0)
    assert notebook.ended == [title(spec)]


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.jsonl"
    whole = jsonl(LINES[:2])
    for size in range(len(whole)):
        path.write_text(whole[:size])
        assert len(list(complete_lines(path))) == whole[:size].count("\n")


def test_words_and_gaps_are_no_values() -> None:
    line = {"step": 3, "kind": "rl", "a": 1, "b": None, "c": 0.5, "d": True}
    assert values_of(line) == {"a": 1.0, "c": 0.5}


def test_tracking_is_off_and_in_no_hash(root: Path, tmp_path: Path) -> None:
    assert load_user_config(root / "config.yaml").tracking is None
    path = tmp_path / "config.yaml"
    path.write_text("suite: smoke\ntracking: wandb\n")
    assert load_user_config(path).tracking == "wandb"
    assert get_args(TrackerName) == arguments.TRACKERS
    assert "tracking" not in load_plan("smoke", root=root).runs[0].as_dict()


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed .* pip install mlflow-skinny,"):
        tracking.track("smoke", tmp_path, "mlflow", follow=False)


def test_two_do_not_send_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: name)
    folder = tmp_path / "smoke" / "tracking"
    with holding(folder / ".wandb.lock", folder), pytest.raises(BusyError, match="being written"):
        tracking.track("smoke", tmp_path, "wandb", follow=False)


def test_the_command_needs_a_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["track"])
    assert "track: name a tracker by --to" in capsys.readouterr().err


@pytest.mark.slow
def test_it_ends_with_what_started_it(tmp_path: Path) -> None:
    """A parent that starts the follower and is gone leaves no process behind."""
    code = (
        "import sys; from pathlib import Path; from bridge.jobs import tracking;"
        "tracking.importlib.util.find_spec = lambda name: name;"
        "tracking._EVERY_S = 0.1;"
        "print(tracking.track('smoke', Path(sys.argv[1]), 'tensorboard', follow=True))"
    )
    parent = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]]); time.sleep(4)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, code, str(tmp_path)],
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    # The pipe is open as long as the follower lives.
    assert done.stdout == "0\n"
