"""With an image named, every job runs in it; the program that would start it is a stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.workflow import Workspace

APPTAINER = """#!/usr/bin/env bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.0"; exit; fi
echo "$*" >> "$CALLS"
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
SCORES = "results/few/runs/tiny-qwen/chains/sft/seed0/scores.json"
FEW = ("--cores", "1", "--software-deployment-method", "apptainer", "--config", "suite=few")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    return Workspace.make(tmp_path / "space")


def test_jobs_run_in_the_image_of_the_configuration(space: Workspace, tmp_path: Path) -> None:
    (space.path / "bridge.sif").touch()
    with (space.path / "config.yaml").open("a") as stream:
        stream.write("container: bridge.sif\n")
    calls = tmp_path / "calls"
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = space.snakemake(SCORES, *FEW, PATH=path, CALLS=str(calls))
    assert done.returncode == 0, done.stderr
    lines = [line for line in calls.read_text().splitlines() if "exec --home" in line]
    assert [any(f"bridge {job} " in line for line in lines) for job in ("prepare", "train")]
    assert len(lines) == 3 and all("bridge.sif bash -c" in line for line in lines)


def test_without_an_image_jobs_do_not_run_outside_of_one(space: Workspace) -> None:
    done = space.snakemake(SCORES, "-n", *FEW)
    assert done.returncode == 2
    assert "bridge: config.yaml: container: name the image" in done.stderr
