"""Two processes on one results folder: one waits, takes what the other made, deletes nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.machine.requeue import WORKFLOW_VARIABLE, patience_s
from bridge.models import preparing
from bridge.run.loop import train_run
from bridge.store.records import BusyError, exclusive, read_json, write_json
from bridge.store.settings import TinyModel
from tests.fixtures.tiny_run import make_spec

MODEL = TinyModel(
    source="tiny",
    architecture="qwen2",
    families=("chains",),
    hidden=16,
    layers=1,
    heads=2,
    skill_steps=2,
    habit_steps=1,
)


def test_only_jobs_of_a_workflow_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKFLOW_VARIABLE, raising=False)
    assert patience_s() == 0.0
    monkeypatch.setenv(WORKFLOW_VARIABLE, "1")
    assert patience_s() > 86400


def test_a_second_run_takes_what_the_first_has_finished(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_workers: None
) -> None:
    spec = make_spec(base, "sft")
    folder = spec.folder(tmp_path)
    with exclusive(folder), pytest.raises(BusyError, match="is being written by another process"):
        train_run(spec, results=tmp_path, threads=1)
    assert train_run(spec, results=tmp_path, threads=1) == "done"
    finished = folder.done.read_bytes()
    monkeypatch.setenv(WORKFLOW_VARIABLE, "1")
    code = (
        "import sys, time; from pathlib import Path;"
        "from bridge.store.records import RunFolder, exclusive\n"
        "with exclusive(RunFolder(Path(sys.argv[1]))):\n"
        "    print('held', flush=True); time.sleep(1.5)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert train_run(spec, results=tmp_path, threads=1) == "done"
        assert other.wait() == 0
    assert folder.done.read_bytes() == finished, "it was not trained a second time"


def test_two_that_make_one_base_model_both_end_well(tmp_path: Path) -> None:
    """The second one waits; the model is made once and whole."""
    made = []
    original = preparing._make

    def counted(*arguments: Any) -> dict[str, Any]:
        made.append(arguments)
        time.sleep(1.0)
        return original(*arguments)

    preparing._make = counted
    errors: list[BaseException] = []

    def job() -> None:
        try:
            preparing.prepare_base("m", MODEL, tmp_path / "m", 1, wait_s=60.0)
        except BaseException as error:
            errors.append(error)

    try:
        threads = [threading.Thread(target=job) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        preparing._make = original
    assert errors == [] and len(made) == 1
    assert read_json(tmp_path / "m" / "base.json")["n_parameters"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m.lock", "m"]


def test_another_configuration_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_json(tmp_path / "m" / "base.json", {"config_hash": "another"})
    preparing.prepare_base("m", MODEL, tmp_path / "m", 1)
    assert read_json(tmp_path / "m" / "base.json")["config_hash"] != "another"
