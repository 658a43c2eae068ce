"""What a cluster does to jobs: each run comes to its end, is requeued once, and has the same bytes.

A grid of BRIDGE runs, one fault for each seed. In the first part SLURM starts the jobs again and
Snakemake does not notice; in the second the jobs are lost, and the same command goes on. A process
is stopped (SIGSTOP) where a fault would else come after the last step of these short runs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.collect.status import State, run_state
from bridge.plan.grid import Plan, RunSpec, load_plan
from bridge.store.records import RecordError, read_json
from tests.cluster.cluster import URGENT, Cluster, wait_for
from tests.cluster.conftest import Submit, copy_models
from tests.fixtures.workflow import Workspace

pytestmark = pytest.mark.cluster

SUITE = "faults"
STEPS = 40
GRID = """grid:
  - {models: [tiny-qwen], datasets: [chains], methods: [bridge], seeds: [0, 1, 2, 3, 4, 5]}
"""
WARNED, PREEMPTED, DRAINED, ORPHANED, CANCELLED, OVERRUN = range(6)
"""Seeds, by what happens to their runs."""
FAULTS = ("warned", "preempted", "drained", "node lost", "scancel", "time limit")


@dataclass(frozen=True)
class Hit:
    """A training process at the moment of its fault."""

    pid: int
    job: str
    node: str
    step: int


# One process for all runs: most of such a short run's time goes into imports.
ALL_RUNS = """
import sys
from pathlib import Path
from bridge.evaluation.runner import evaluate_run
from bridge.plan.grid import load_plan
from bridge.run.loop import train_run
for spec in load_plan(sys.argv[1], root=Path()).runs:
    for job in (train_run, evaluate_run):
        assert job(spec, results=Path("results"), threads=1) == "done"
"""


class Grid:
    """The grid of faults in a workspace."""

    def __init__(self, cluster: Cluster, space: Workspace) -> None:
        self.cluster, self.space = cluster, space
        self.results = space.path / "results"
        suite = (space.path / "suites" / "smoke.yaml").read_text().split("grid:")[0]
        # The only checkpoint is the one that a signal asks for.
        for old, new in (
            ("bridge: {options: {steps: 8}}", f"bridge: {{options: {{steps: {STEPS}}}}}"),
            ("checkpoint_every: 4", "checkpoint_every: 1000"),
            ("probe_every: 4", f"probe_every: {STEPS}"),
            ("questions_scale: 0.1", "questions_scale: 0.02"),
        ):
            assert old in suite
            suite = suite.replace(old, new)
        (space.path / "suites" / f"{SUITE}.yaml").write_text(suite + GRID)
        self.plan: Plan = load_plan(SUITE, root=space.path)
        self.hits: dict[int, Hit] = {}

    def spec(self, seed: int) -> RunSpec:
        return next(s for s in self.plan.runs if s.seed == seed)

    def state(self, seed: int) -> State:
        return run_state(self.spec(seed), self.results)

    def target(self, seed: int) -> str:
        return self.spec(seed).folder(Path("results")).scores.as_posix()

    def is_done(self, seed: int) -> bool:
        return self.spec(seed).folder(self.results).scores.is_file()

    def process(self, seed: int) -> Hit | None:
        """The process that trains a run now, once it has made a step."""
        try:
            record = read_json(self.spec(seed).folder(self.results).heartbeat)
            environment = Path(f"/proc/{record['pid']}/environ").read_bytes().decode()
        except (RecordError, OSError):
            return None
        variables = dict(v.split("=", 1) for v in environment.split("\0") if "=" in v)
        job, node = variables.get("SLURM_JOB_ID"), variables.get("SLURMD_NODENAME")
        return Hit(record["pid"], job, node, record["step"]) if job and node else None

    def first_step_of_last_life(self, seed: int) -> int:
        """From the log of the program, which each life writes anew."""
        run = self.spec(seed).folder(self.results).path.relative_to(self.results / SUITE / "runs")
        log = self.results / SUITE / "logs" / "train" / f"{run}.log"
        found = re.search(rf"step (\d+)/{STEPS}", log.read_text())
        assert found is not None, log
        return int(found[1])

    def restarts(self, seed: int) -> int:
        return int(self.cluster.job(self.hits[seed].job)["Restarts"])

    def restart_now(self, seed: int) -> None:
        """Wait until SLURM has requeued a job, and spare it the two minutes that it lets pass."""
        wait_for(lambda: self.restarts(seed) == 1, f"seed {seed} to be requeued")
        self.cluster.run("scontrol", "update", f"JobId={self.hits[seed].job}", "StartTime=now")

    def strike(
        self,
        snakemake: subprocess.Popen[str],
        faults: dict[int, Callable[[Hit], None]],
        *,
        freeze: bool = True,
    ) -> int:
        """Let each run meet its fault as it trains; returns Snakemake's exit status.

        The last fault named waits for the others.

        Args:
            freeze: stop each process as soon as it trains, for while one run meets its fault, the
                next could come to its end.
        """
        training: list[int] = []
        met: list[int] = []
        last = list(faults)[-1]
        found: queue.Queue[int] = queue.Queue()
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(set(faults), found, over, freeze))
        watch.start()
        end_s = time.monotonic() + 900
        try:
            while snakemake.poll() is None:
                assert time.monotonic() < end_s, f"Snakemake does not end; {self.cluster.jobs()}"
                with contextlib.suppress(queue.Empty):
                    training.append(found.get(timeout=0.1))
                for seed in [s for s in training if s != last or len(met) == len(faults) - 1]:
                    training.remove(seed)
                    faults[seed](self.hits[seed])
                    met.append(seed)
        finally:
            over.set()
            watch.join()
        never = faults.keys() - self.hits.keys()
        assert not never, f"these never trained: {never}"
        return snakemake.returncode

    def _watch(
        self, seeds: set[int], found: queue.Queue[int], over: threading.Event, freeze: bool
    ) -> None:
        """Report each run as soon as it trains."""
        while seeds and not over.wait(0.1):
            for seed in sorted(seeds):
                if (hit := self.process(seed)) is not None:
                    if freeze:
                        os.kill(hit.pid, signal.SIGSTOP)
                    self.hits[seed] = hit
                    seeds.discard(seed)
                    found.put(seed)

    def bytes_of(self, seed: int, results: Path) -> dict[str, bytes]:
        folder = self.spec(seed).folder(results)
        files = (folder.dynamics, folder.answers, folder.policy / "model.safetensors")
        return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def grid(cluster: Cluster, space: Workspace, local_smoke: Path) -> Grid:
    copy_models(local_smoke, SUITE, space)
    return Grid(cluster, space)


@pytest.fixture(scope="module")
def straight(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the same grid without a cluster and without faults."""
    other = Workspace.make(tmp_path_factory.mktemp("straight") / "space", stand_ins=False)
    suite = f"suites/{SUITE}.yaml"
    (other.path / suite).write_text((grid.space.path / suite).read_text())
    copy_models(grid.results / SUITE, SUITE, other)
    done = other.run("-c", ALL_RUNS, SUITE)
    assert done.returncode == 0, done.stderr[-2000:]
    show(other)
    return other.path / "results"


def show(space: Workspace) -> None:
    """Make the tables of the grid."""
    for command in ("collect", "tables"):
        done = space.bridge(command, "--suite", SUITE)
        assert done.returncode == 0, done.stderr[-2000:]


def submit_faults(submit: Submit, log: Path, *arguments: str) -> subprocess.Popen[str]:
    """One job of SLURM's for each run, so that a fault meets one run."""
    options = ("--group-components", "short=1", "--config", f"suite={SUITE}")
    return submit(log, *arguments, *options)


# -- jobs that SLURM starts again ------------------------------------------------------------------

REQUEUED = (WARNED, PREEMPTED, ORPHANED)


@pytest.fixture(scope="module")
def requeued(grid: Grid, submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Snakemake said while SLURM ended jobs and started them again."""
    cluster = grid.cluster

    def warn(hit: Hit) -> None:
        # SLURM looks at limits every half minute, and sends SIGCONT before the signal asked for.
        cluster.run("scontrol", "update", f"JobId={hit.job}", "TimeLimit=2")
        grid.restart_now(WARNED)
        cluster.run("scontrol", "update", f"JobId={hit.job}", "TimeLimit=30")

    def preempt(hit: Hit) -> None:
        urgent = ("sbatch", "-p", URGENT, "-w", hit.node, "-o", "/dev/null", "--wrap", "true")
        cluster.run(*urgent)
        grid.restart_now(PREEMPTED)

    def lose_node(hit: Hit) -> None:
        cluster.kill_node(hit.node)
        grid.restart_now(ORPHANED)
        # The old life goes on once the new one has started elsewhere; then the node comes back.
        wait_for(lambda: cluster.state(hit.job) == "RUNNING", "the next life", limit_s=400)
        os.kill(hit.pid, signal.SIGCONT)
        cluster.start_node(hit.node)

    log = tmp_path_factory.mktemp("requeued") / "snakemake.log"
    faults = {WARNED: warn, PREEMPTED: preempt, ORPHANED: lose_node}
    snakemake = submit_faults(submit, log, *(grid.target(seed) for seed in faults))
    status = grid.strike(snakemake, faults)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.mark.parametrize("seed", REQUEUED, ids=["warned", "preempted", "node lost"])
def test_slurm_requeues_once_and_snakemake_never(grid: Grid, requeued: str, seed: int) -> None:
    assert grid.restarts(seed) == 1
    assert len(re.findall("submitted with SLURM jobid", requeued)) == len(REQUEUED)
    assert "Trying to restart" not in requeued
    assert grid.state(seed).word == "done"


@pytest.mark.parametrize("seed", (WARNED, PREEMPTED), ids=["warned", "preempted"])
def test_the_next_life_goes_on_where_the_last_one_saved(
    grid: Grid, requeued: str, seed: int
) -> None:
    # The heartbeat is up to five seconds old.
    assert grid.first_step_of_last_life(seed) > grid.hits[seed].step


# -- jobs that are lost ----------------------------------------------------------------------------

LOST = (CANCELLED, OVERRUN)


def saved_step(state: State) -> int:
    """The step that ``bridge status`` says an interrupted run was stopped after."""
    found = re.search(rf"stopped by SIGTERM after step (\d+) of {STEPS}", state.detail)
    assert found is not None, state
    return int(found[1])


@pytest.fixture(scope="module")
def lost(grid: Grid, submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> dict[int, State]:
    """States of the runs whose jobs nobody started again."""
    cluster = grid.cluster

    def cancel(hit: Hit) -> None:
        cluster.run("scancel", hit.job)

    def overrun(hit: Hit) -> None:
        cluster.run("scontrol", "update", f"JobId={hit.job}", "EndTime=now+1")

    log = tmp_path_factory.mktemp("lost") / "snakemake.log"
    faults = {CANCELLED: cancel, OVERRUN: overrun}
    # Without the warning of the profile: the limit itself has to come.
    unwarned = ("--default-resources", "slurm_extra=''")
    snakemake = submit_faults(submit, log, *(grid.target(seed) for seed in faults), *unwarned)
    assert grid.strike(snakemake, faults) != 0
    return {seed: grid.state(seed) for seed in faults}


@pytest.mark.parametrize(
    ("seed", "end"), [(CANCELLED, "CANCELLED"), (OVERRUN, "TIMEOUT")], ids=["scancel", "time limit"]
)
def test_a_lost_job_saved_first_and_is_called_interrupted(
    grid: Grid, lost: dict[int, State], seed: int, end: str
) -> None:
    job = grid.cluster.job(grid.hits[seed].job)
    assert (job["JobState"], job["Restarts"]) == (end, "0")
    assert lost[seed].word == "interrupted"
    assert saved_step(lost[seed]) >= grid.hits[seed].step


@pytest.fixture(scope="module")
def finished(
    grid: Grid, submit: Submit, lost: dict[int, State], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """What Snakemake said as the same command went on, on a cluster that is being drained."""

    def drain(hit: Hit) -> None:
        grid.cluster.run("scontrol", "update", f"NodeName={hit.node}", "State=DRAIN", "Reason=test")

    log = tmp_path_factory.mktemp("finished") / "snakemake.log"
    targets = [grid.target(seed) for seed in (DRAINED, *LOST)]
    snakemake = submit_faults(submit, log, *targets)
    status = grid.strike(snakemake, {DRAINED: drain}, freeze=False)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.mark.parametrize("seed", LOST, ids=["scancel", "time limit"])
def test_the_same_command_goes_on(
    grid: Grid, lost: dict[int, State], finished: str, seed: int
) -> None:
    assert grid.first_step_of_last_life(seed) == saved_step(lost[seed]) + 1


def test_a_drained_node_finishes_what_it_runs(grid: Grid, finished: str) -> None:
    node = grid.hits[DRAINED].node
    assert grid.restarts(DRAINED) == 0
    assert grid.cluster.job(grid.hits[DRAINED].job)["NodeList"] == node
    assert grid.cluster.states()[node] == "drain"
    grid.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_all_runs_and_tables_are_those_of_a_grid_without_faults(
    grid: Grid, requeued: str, finished: str, straight: Path
) -> None:
    for seed in range(6):
        assert grid.bytes_of(seed, grid.results) == grid.bytes_of(seed, straight), seed
        assert grid.state(seed).word == "done"
    show(grid.space)
    for name in ("main.csv", "differences.csv"):
        tables = [results / SUITE / "tables" / name for results in (grid.results, straight)]
        assert tables[0].read_bytes() == tables[1].read_bytes()
    assert grid.cluster.jobs() == {}
    for seed, what in enumerate(FAULTS):
        job = grid.cluster.job(grid.hits[seed].job)
        print(
            f"{what}: at step {grid.hits[seed].step} of {STEPS}, job {job['JobId']} "
            f"{job['JobState']}, restarts {job['Restarts']}; its last life began with step "
            f"{grid.first_step_of_last_life(seed)}"
        )
