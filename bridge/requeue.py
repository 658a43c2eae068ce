"""Asks SLURM to put the job it runs in back into its queue, where nobody else does.

Who runs a job of a cluster again is one party only: SLURM (``docs/cluster.md`` says why). After a
preemption or a lost node it does so by itself. What it does not do is run a job again that was
warned of its time limit, saved and left: then the job asks for it here. A job that SLURM has
already cancelled, ended or requeued is no longer ``RUNNING``, and nothing is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys

VARIABLE = "BRIDGE_REQUEUE"
"""Set by the workflow in the jobs that it gave to SLURM; a batch script of somebody's own, with
``bridge train`` somewhere in it, must not be started again."""

_COMMAND_S = 60.0


def requeue_job(*, progressed: bool) -> bool:
    """Ask SLURM to run this job again; tell whether it will because of this.

    Args:
        progressed: whether this attempt got further. One that did not is requeued in its first
            life only: a step that takes longer than the time limit must not run for ever.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if VARIABLE not in os.environ or job is None:
        return False
    if not progressed and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0:
        _say(f"job {job} made no step in this attempt either; not requeued")
        return False
    state = _slurm("squeue", "--noheader", "--jobs", job, "--format", "%T")
    if state != "RUNNING":
        _say(f"job {job} is {state or 'unknown'}: SLURM decides what becomes of it")
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
