"""Stopping a job from outside: Ctrl-C, ``scancel``, a preempted node, a time limit that comes near.

The first SIGTERM or SIGINT asks the job to stop. Training saves at its next step boundary, the
other jobs end where they are; both leave with ``EXIT_INTERRUPTED``. A second signal ends the
process at once. Left out: SIGKILL, which nobody can catch; the next attempt then continues from the
last checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType

EXIT_INTERRUPTED = 75
"""Exit code of a job that was asked to stop and did: ``EX_TEMPFAIL``, "try again later"."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_REPEATED_S = 2.0
"""SLURM signals the processes of a job and its ``srun``, which passes the signal on: the same
request arrives twice. Only a signal later than this is a second one."""


class Interrupted(BaseException):
    """The job was asked to stop. No ``Exception``: no library may take it for a failed item.

    Args:
        reason: one sentence.
        progressed: whether this attempt left the run further than it found it.
    """

    def __init__(self, reason: str, *, progressed: bool) -> None:
        super().__init__(reason)
        self.progressed = progressed


@dataclass
class _Request:
    name: str | None = None
    at_s: float = 0.0


_request = _Request()


def requested() -> str | None:
    """Name of the signal that asked this process to stop, or None.

    It is this process's own view. Ranks that train together must agree before one of them leaves
    the loop: reduce ``requested() is not None`` by maximum over all of them.
    """
    return _request.name


def stop_waiting() -> None:
    """End a wait for what another process writes, where this one was asked to stop.

    Raises:
        Interrupted: it was.
    """
    if (name := requested()) is not None:
        raise Interrupted(
            f"stopped by {name} while another process wrote what this one needs", progressed=False
        )


def catch_signals(*, at_once: bool) -> None:
    """Take SIGTERM and SIGINT for requests from now on, until the process ends.

    Args:
        at_once: raise ``Interrupted`` where the program is, instead of waiting for the program to
            ask :func:`requested`.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if _request.name is not None:
            if now_s - _request.at_s > _REPEATED_S:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        _request.name, _request.at_s = signal.Signals(number).name, now_s
        if at_once:
            raise Interrupted(
                f"stopped by {_request.name}; the next attempt starts this job again",
                progressed=False,
            )
        # Not print: the handler may have interrupted one.
        os.write(
            sys.stderr.fileno(),
            f"{_request.name}: saving after this step; a second signal ends at once\n".encode(),
        )

    _request.name = None
    for number in SIGNALS:
        signal.signal(number, handle)
