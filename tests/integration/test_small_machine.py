"""Jobs on a machine with one core and 4 GB of memory, whatever OMP_NUM_THREADS says there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bridge.store.records import ROOT, RunFolder
from tests.fixtures.tiny_run import DATASET

SUITE = """
title: One run
models: {mine: {source: local, path: BASE}}
datasets: {chains: {family: chains, options: OPTIONS}}
training:
  prompts_per_step: 2
  n: 2
  max_response_tokens: 6
  sft_batch_size: 2
  lr_sft: 1.0e-3
  lr_rl: 1.0e-3
  probe_every: 2
  probe_size: 2
  checkpoint_every: 2
evaluation: {max_response_tokens: 6, n_samples: 2, sampled_questions: 2, batch_size: 8}
methods: {bridge: {options: {steps: 2}}}
grid: [{models: [mine], datasets: [chains], methods: [bridge], seeds: [0]}]
"""
RUN = ("--model", "mine", "--dataset", "chains", "--method", "bridge", "--seed", "0")
GIB = 2**30


def small() -> None:
    """One core, and address space of 4 GB for each process."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB))


def bridge(
    folder: Path, command: str, threads: str | None, limit: Callable[[], None] | None
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS")
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    done = subprocess.run(
        [sys.executable, "-m", "bridge", command, "--suite", "one", *RUN],
        cwd=folder,
        env=environment,
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def checkout(folder: Path, base: Path) -> Path:
    """A folder with the suite."""
    options = yaml.safe_dump(DATASET, default_flow_style=True).strip()
    suite = SUITE.replace("BASE", str(base)).replace("OPTIONS", options)
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / "one.yaml").write_text(suite)
    (folder / "config.yaml").write_text("suite: one\n")
    return folder


def written(folder: Path) -> tuple[bytes, bytes]:
    """What must be the same on every machine of a kind."""
    run = RunFolder(folder / "results" / "one" / "runs" / "mine" / "chains" / "bridge" / "seed0")
    return run.dynamics.read_bytes(), (run.policy / "model.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="cores and address space of a Linux process")
def test_a_run_is_the_same_there(base: Path, tmp_path: Path) -> None:
    usual = checkout(tmp_path / "usual", base)
    bridge(usual, "train", None, None)
    folder = checkout(tmp_path / "small", base)
    bridge(folder, "train", "100000", small)
    assert written(folder) == written(usual)
    bridge(folder, "evaluate", "-1", small)
    plan = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--cores", "all"],
        cwd=folder,
        preexec_fn=small,
        capture_output=True,
        text=True,
    )
    assert plan.returncode == 0, plan.stderr
