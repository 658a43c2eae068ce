"""The whole smoke grid through ``sbatch``: the same bytes as without a cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import Submit
from tests.fixtures.workflow import Workspace

pytestmark = pytest.mark.cluster


def test_the_smoke_grid_through_sbatch(
    cluster: Cluster, space: Workspace, submit: Submit, local_smoke: Path, tmp_path: Path
) -> None:
    log = tmp_path / "snakemake.log"
    status = submit(log, "--config", "suite=smoke").wait()
    said = log.read_text()
    assert status == 0, said[-3000:]
    print("\n".join(re.findall(r".*SLURM jobid.*|.*steps? \(.*", said)))

    assert cluster.jobs() == {}
    # One for the base model, three of at most four short runs, one that collects, one that shows.
    assert len(re.findall(r"submitted with SLURM jobid \d+", said)) == 6
    made = space.path / "results" / "smoke"
    runs = sorted(p.parent.relative_to(made) for p in made.glob("runs/*/*/*/*/done.json"))
    assert len(runs) == 10
    for run in runs:
        for name in ("dynamics.jsonl", "answers.jsonl"):
            assert (made / run / name).read_bytes() == (local_smoke / run / name).read_bytes()
        mine, theirs = (
            json.loads((r / run / "scores.json").read_text()) for r in (made, local_smoke)
        )
        assert mine["benchmarks"] == theirs["benchmarks"]
        for job in ("train", "evaluate"):
            assert (made / "logs" / job / f"{run.relative_to('runs')}.log").is_file()
    for name in ("main.csv", "differences.csv"):
        table = made / "tables" / name
        assert table.read_bytes() == (local_smoke / "tables" / name).read_bytes()
    assert (made / "report.html").is_file()
