"""Starts the ranks of one run as processes of this machine, and ends them together.

Each rank is the same command with the variables that ``torchrun`` sets. What one of them cannot go
on with is the run's failure, told once and in the words of the rank that failed first: the others
only notice that it is gone. Left out: several machines; there the cluster's own launcher starts
``bridge train`` with these variables on each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bridge.machine.interruption import EXIT_INTERRUPTED, Interrupted
from bridge.store.records import BusyError, RecordError, read_json, write_json

_REPORTS = "BRIDGE_RANK_REPORTS"
GRACE_S = 20.0
"""How long the other ranks may take to notice that one is gone, before they are ended."""
_POLL_S = 0.1


class RankError(RuntimeError):
    """A rank ended before its time; one sentence with what is known of the cause."""


def is_rank() -> bool:
    """Whether this process was started as one rank of several."""
    return "RANK" in os.environ


def launch(command: Sequence[str], ranks: int, *, stopping: Callable[[], object]) -> None:
    """Run a command as so many ranks and wait for all of them.

    Args:
        stopping: whether the run was asked to stop; it is passed on to the ranks as SIGTERM, once.

    Raises:
        RankError: a rank failed.
        Interrupted: the ranks were asked to stop, saved and left.
        BusyError: another process trains this run.
    """
    with tempfile.TemporaryDirectory(prefix="bridge-ranks-") as reports:
        shared = {
            **os.environ,
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            _REPORTS: reports,
        }
        processes = [
            subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(ranks)
        ]
        try:
            ended_here = _wait(processes, stopping)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        codes = [process.returncode for process in processes]
        if any(codes):
            raise _failure(codes, ended_here, Path(reports))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: Sequence[subprocess.Popen[bytes]], stopping: Callable[[], object]) -> set[int]:
    """Wait until all have ended; return the ranks that had to be ended here."""
    told, failed_at = False, None
    while None in (codes := [process.poll() for process in processes]):
        if stopping() and not told:
            told = True
            for process in processes:
                process.terminate()
        if failed_at is None and any(codes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            left = {r for r, code in enumerate(codes) if code is None}
            for rank in left:
                processes[rank].kill()
                processes[rank].wait()
            return left
        time.sleep(_POLL_S)
    return set()


def _failure(codes: Sequence[int], ended_here: set[int], reports: Path) -> BaseException:
    """What to raise: the failure that came first, and a clear one before what it led to."""
    told = sorted(
        (read_json(path) for path in reports.glob("*.json")), key=lambda report: report["at"]
    )
    for report in told:
        if report["kind"] == "busy":
            return BusyError(report["reason"])
        if report["kind"] == "clear":
            return RankError(report["reason"])
    if told and all(report["kind"] == "interrupted" for report in told):
        return Interrupted(told[0]["reason"], progressed=told[0]["progressed"])
    return RankError(_unclear(codes, ended_here, told))


def _unclear(codes: Sequence[int], ended_here: set[int], told: Sequence[dict[str, Any]]) -> str:
    for rank, code in enumerate(codes):
        if code < 0 and rank not in ended_here:
            return (
                f"rank {rank} of {len(codes)} was ended by {signal.Signals(-code).name} (too "
                "little memory is the usual cause); start the run again, it continues from its "
                "last checkpoint."
            )
    told = [report for report in told if report["kind"] == "defect"]
    if told:
        print(told[0]["traceback"], file=sys.stderr)
        return f"rank {told[0]['rank']} of {len(codes)} failed: {told[0]['reason']}"
    return f"a rank of {len(codes)} ended with exit code {max(codes)}; the log above says more."


@contextlib.contextmanager
def reporting(is_clear: Callable[[Exception], bool]) -> Iterator[None]:
    """In a rank: leave the reason of a failure for the process that started it, and end.

    A rank also ends here when all went well: a thread that gloo still has while the interpreter
    shuts down ends the process by SIGABRT now and then, and a finished run would count as failed.

    Args:
        is_clear: whether the message says what to do; of other errors the traceback is kept, which
            otherwise each rank would print.
    """
    try:
        yield
    except (Exception, Interrupted) as error:
        folder = os.environ.get(_REPORTS)
        if folder is None:
            raise
        report = {"rank": int(os.environ["RANK"]), "at": time.time(), **_told(error, is_clear)}
        with contextlib.suppress(RecordError, OSError):
            write_json(Path(folder) / f"{report['rank']}.json", report)
        # Not by sys.exit: a library's clean-up could wait for the ranks that are gone.
        _leave(EXIT_INTERRUPTED if isinstance(error, Interrupted) else 1)
    if _REPORTS in os.environ:
        _leave(0)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _told(error: BaseException, is_clear: Callable[[Exception], bool]) -> dict[str, Any]:
    reason = " ".join(str(error).split())
    if isinstance(error, Interrupted):
        return {"kind": "interrupted", "reason": reason, "progressed": error.progressed}
    assert isinstance(error, Exception)
    if is_clear(error):
        return {"kind": "busy" if isinstance(error, BusyError) else "clear", "reason": reason}
    named = f"{type(error).__name__}: {reason}"
    return {"kind": "defect", "reason": named, "traceback": traceback.format_exc()}
