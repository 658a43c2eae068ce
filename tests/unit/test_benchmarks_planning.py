"""The benchmark of planning, from end to end on a small grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import planning
from bridge.plan.grid import load_plan
from bridge.store.records import ROOT, read_json

pytestmark = pytest.mark.slow


def test_every_measurement_of_a_small_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "REPEATS", 1)
    made = planning.measurements(tmp_path, ROOT, seeds={"24": 1}, finished=1)
    found = dict(made)
    kinds = {"help", "status", "cell", "plan_24", "plan_24_long", "status_5", "collect_5"}
    assert set(found) == kinds
    for numbers in found.values():
        assert numbers["cpu_s"] > 0 and numbers["peak_mib"] > 5
    assert len(load_plan("matrix", root=tmp_path / "24").runs) == 24
    long = load_plan("matrix", root=tmp_path / "long").runs
    assert {s.method_options.get("steps", planning.LONG) for s in long} == {planning.LONG}
    assert "evaluate" in (tmp_path / "24" / "said.log").read_text()
    assert len(read_json(tmp_path / "done/results/smoke/tidy/manifest.json")["runs"]) == 5


def test_a_program_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no config\.yaml"):
        planning.measure(("-m", "bridge", "status"), tmp_path, ROOT)
