"""A SLURM cluster of two nodes on this machine: loopback only, its files in one temporary folder.

Needs root and Debian's packages slurm-wlm and munge. The daemons run in the foreground as children
of this process and die with it. One link lies outside of the folder, where SLURM's commands look
for a configuration that nobody named: Snakemake's executor takes ``SLURM_CONF`` out of the
environment of a job's step. Left out: accounting (``sacct``), cgroups, GPUs.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged", "setpriv")
NODES = ("n1", "n2")
PARTITION, URGENT = "main", "urgent"
NODE_SILENT_S = 10
"""After this many seconds without its slurmd, a node is down and its jobs are requeued."""

FOUND = Path("/run/slurm/conf/slurm.conf")
"""Where SLURM looks, besides /etc/slurm, without ``SLURM_CONF``."""
_MARK = "BRIDGE_TEST_CLUSTER"
"""Variable that all processes of a cluster have, daemons and jobs; its value is the folder."""

_CONFIG = """
ClusterName=bridge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
MinJobAge=600
SlurmdTimeout={silent_s}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory={memory_mb}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory={memory_mb}
PartitionName={partition} Nodes=ALL Default=YES PriorityTier=1
PartitionName={urgent} Nodes=ALL PriorityTier=2
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "slurmd and munged need root"
    for path in (Path("/etc/slurm/slurm.conf"), FOUND):
        if path.exists() and not path.is_symlink():
            return f"this machine belongs to a cluster: {path}"
    return "another test's cluster runs here" if _processes() else None


class Cluster:
    """The running cluster; leave the ``with`` block to end every process of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        (self.folder / "state").mkdir(parents=True)
        self.config.write_text(
            _CONFIG.format(
                host=socket.gethostname(),
                folder=self.folder,
                ports=_free_ports(3),
                silent_s=NODE_SILENT_S,
                memory_mb=memory_mb // 2,
                partition=PARTITION,
                urgent=URGENT,
            )
        )
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        try:
            FOUND.parent.mkdir(parents=True, exist_ok=True)
            FOUND.unlink(missing_ok=True)  # Of a cluster whose test was killed.
            FOUND.symlink_to(self.config)
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D", "-c")
            for node in NODES:
                self.start_node(node)
            wait_for(lambda: self.states().keys() >= set(NODES), "the nodes to register")
            wait_for(lambda: set(self.states().values()) == {"idle"}, "both nodes to be idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead SLURM's commands to this cluster."""
        known = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SNAKEMAKE"))}
        return known | {"SLURM_CONF": str(self.config), _MARK: str(self.folder)}

    def run(self, *command: str) -> str:
        """Output of one of SLURM's commands."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """State of each node, without the marks for special conditions."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format", "%N %t").splitlines()
        return {name: state.rstrip("*~#!%$@^-") for name, state in (li.split() for li in lines)}

    def jobs(self) -> dict[str, str]:
        """State of each job that has not ended, by its id."""
        lines = self.run("squeue", "--noheader", "--format", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says of one job."""
        text = self.run("scontrol", "show", "job", job_id)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def state(self, job_id: str) -> str:
        """State of one job, in SLURM's words."""
        return self.job(job_id)["JobState"]

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of a node with SIGKILL; what it started lives on."""
        daemon = self._daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """End all that this cluster started, jobs included."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        end_all()

    def processes(self) -> list[int]:
        """Ids of the living processes, daemons and jobs, that belong to this cluster."""
        return _processes()

    def _start_munge(self) -> None:
        folder = self.folder
        self._start(
            "munged",
            "munged",
            "--foreground",
            "--force",  # The socket may lie in a folder that only root can enter.
            f"--socket={folder}/munge.socket",
            f"--key-file={folder}/munge.key",
            f"--log-file={folder}/munged.log",
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munged.seed",
        )
        wait_for((folder / "munge.socket").exists, "munged to listen")

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                # Should this process be killed, they go too.
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


def wait_for(ready: Callable[[], Any], what: str, limit_s: float = 120.0) -> Any:
    """Ask until the answer is true, and return it."""
    end_s = time.monotonic() + limit_s
    while not (answer := ready()):
        assert time.monotonic() < end_s, f"waited {limit_s:.0f} s for {what}"
        time.sleep(0.2)
    return answer


def _free_ports(n: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _processes() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # No process, or it ended meanwhile.
        if any(variable.startswith(f"{_MARK}=".encode()) for variable in variables):
            found.append(int(entry.name))
    return found


def end_all() -> None:
    """Kill every process of a cluster on this machine, also of one whose test was killed."""
    # Job steps are no children of slurmd. Those that start while we look are found next time.
    while pids := _processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if FOUND.is_symlink():
        FOUND.unlink()


if __name__ == "__main__":
    end_all()
