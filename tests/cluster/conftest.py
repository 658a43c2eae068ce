"""The cluster and the workflow on it, one for all tests; without SLURM, a skip that says why."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, missing
from tests.fixtures.workflow import ROOT, Workspace

# What differs from a real cluster: nodes of one core, no accounting to ask, and questions every few
# seconds instead of minutes.
SNAKEMAKE = (sys.executable, "-m", "snakemake")
QUICK = (
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=3",
    "--latency-wait=10",
    "--cores=1",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Minutes on a machine of two cores: only where they are asked for."""
    if config.option.markexpr != "cluster":
        asked = pytest.mark.skip(reason="a SLURM cluster: `make test-cluster`")
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(asked)


Submit = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = missing()
    if reason is not None:
        pytest.skip(f"no SLURM cluster on this machine: {reason}")
    # Asked to stop, pytest ends its fixtures first, the cluster among them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running
    assert running.processes() == []


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow in a folder of its own, with its real jobs."""
    return Workspace.make(tmp_path_factory.mktemp("workflow") / "space", stand_ins=False)


@pytest.fixture(scope="session")
def submit(cluster: Cluster, space: Workspace) -> Iterator[Submit]:
    """Starts ``snakemake --profile profiles/slurm`` in the background, its output in a file."""
    started = []

    def begin(log: Path, *arguments: str) -> subprocess.Popen[str]:
        with log.open("w") as out:
            process = subprocess.Popen(
                [*SNAKEMAKE, "--profile", "profiles/slurm", *QUICK, *arguments],
                cwd=space.path,
                env=cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def local_smoke() -> Path:
    """Results of the smoke suite in the repository itself, made on this machine without SLURM."""
    done = subprocess.run(
        [*SNAKEMAKE, "results/smoke/tables/main.csv", "--cores", "2", "--config", "suite=smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return ROOT / "results" / "smoke"


def copy_models(source: Path, suite: str, space: Workspace) -> None:
    """Give a suite the base models of another one: they depend on no name."""
    target = space.path / "results" / suite / "models"
    shutil.copytree(source / "models", target, dirs_exist_ok=True)
