"""Asks SLURM to put the job it runs in back into its queue, where nobody else does.

Who runs a job of a cluster again is one party only: SLURM (``docs/cluster.md`` says why). After a
preemption or a lost node it does so by itself. What it does not do is run a job again that was
warned of its time limit, saved and left: then the job asks for it here. A job that SLURM has
already cancelled, ended or requeued is no longer ``RUNNING`` in the life that asks, and nothing is
asked.

A node that only lost its daemon still runs its job while SLURM starts that job elsewhere. The new
life waits for the old one to let go of the run's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys

VARIABLE = "BRIDGE_SLURM_LIFE"
"""How often SLURM has started this job again; set by the workflow in jobs that it gave to SLURM.
A batch script of somebody's own, with ``bridge train`` in it, must not be requeued by it."""

WORKFLOW_VARIABLE = "BRIDGE_WORKFLOW"
"""Set by the workflow in all of its jobs."""

_COMMAND_S = 60.0
_FOR_EVER_S = 30 * 86400.0


def patience_s() -> float:
    """How long to wait for a folder that another process holds.

    A job of a workflow waits for as long as that process lives: Snakemake deletes the outputs of a
    job that fails, also where another checkout on the same results has just finished them. What a
    person started by hand says at once who holds the folder.
    """
    return _FOR_EVER_S if {VARIABLE, WORKFLOW_VARIABLE} & set(os.environ) else 0.0


def requeue_job(*, progressed: bool) -> bool:
    """Ask SLURM to run this job again; tell whether it will because of this.

    Args:
        progressed: whether this attempt got further. One that did not is requeued in its first
            life only: a step that takes longer than the time limit must not run for ever.
    """
    job = os.environ.get("SLURM_JOB_ID")
    life = os.environ.get(VARIABLE)
    if life is None or job is None:
        return False
    if not progressed and life != "0":
        _say(f"job {job} made no step in this attempt either; not requeued")
        return False
    found = _slurm("squeue", "--noheader", "--jobs", job, "--Format", "State:20,RestartCnt:20")
    if found is None or found.split() != ["RUNNING", life]:
        _say(f"job {job} (restart {life}) is {found!r}: SLURM decides what happens to it")
        return False
    answer = _slurm("scontrol", "requeue", job)
    _say(f"job {job} goes back into the queue" if answer == "" else f"job {job} is not requeued")
    return answer == ""


def _slurm(*command: str) -> str | None:
    """Output of a SLURM command, or None where it fails; its complaint goes to stderr."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, timeout=_COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"{command[0]}: {error}")
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _say(text: str) -> None:
    print(f"bridge: {text}", file=sys.stderr, flush=True)
