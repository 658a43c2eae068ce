"""The suites with real models and data are planned on a bare machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.plan.grid import load_plan
from tests.fixtures.workflow import Workspace


@pytest.mark.parametrize("suite", ["paper", "single_gpu"])
def test_every_run_is_planned_once(tmp_path: Path, root: Path, suite: str) -> None:
    runs = len(load_plan(suite, root=root).runs)
    planned = Workspace.make(tmp_path).planned("--config", f"suite={suite}")
    assert planned["train"] == planned["evaluate"] == runs
    assert "prepare" not in planned, "models of the hub are linked by the run itself"
