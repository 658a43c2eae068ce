"""The parent's end of one worker process: start it, write to it, read from it, kill it.

Nothing here blocks except the reaping of a killed process. Policy (which answer next, what a death
means) is in ``dispatch``. Left out: ``multiprocessing``. Its spawn method imports the caller's main
module in every worker, which would load torch into each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil

from bridge.grading.verdicts import GraderError

_ROOT: Final = str(Path(__file__).parents[2])
_READ_BYTES: Final = 65_536

# Signals no answer can raise in its own worker: somebody else sent them.
_FROM_OUTSIDE: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGXCPU,
    }
)


def _path() -> str:
    """Where the worker finds this package, also when it is not installed."""
    return os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))


class WorkerLost(Exception):
    """The process ended. ``from_outside`` tells a kill by others from a crash of its own."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"exit status {returncode}")
        self.returncode = returncode
        self.from_outside = -returncode in _FROM_OUTSIDE


class Worker:
    """One process. ``job`` is what it works on since ``assigned_s``; ``deadline_s`` is when to look
    whether it is late.

    Times are of ``time.monotonic``. Raises ``GraderError`` when the process cannot be started.
    """

    def __init__(self, memory_gib: float, deadline_s: float, reward: str | None = None) -> None:
        command = [
            sys.executable,
            "-P",  # keep the working folder off sys.path: its files must not shadow other modules
            "-m",
            "bridge.grading.program",
            str(int(memory_gib * 2**30)),
            str(os.getpid()),
            *([] if reward is None else [reward]),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # Sympy orders by hash in places: the same verdict from every worker and run.
                env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": _path()},
            )
        except OSError as error:
            raise GraderError(f"a grading worker could not be started: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._outgoing, self._incoming = b"", b""
        self.pid = self._process.pid
        self.ready = False
        self.job: tuple[str, str, str] | None = None
        self.deadline_s = deadline_s
        self.assigned_s = 0.0
        self._cpu_before_s = 0.0

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    @property
    def reads_from(self) -> int:
        """Descriptor on which replies arrive."""
        return self._stdout.fileno()

    @property
    def writes_to(self) -> int | None:
        """Descriptor to wait on before more of the request can be written; None if all is."""
        return self._stdin.fileno() if self._outgoing else None

    def assign(self, job: tuple[str, str, str], time_s: float) -> None:
        """Send (gold, answer, question) to an idle worker; look at it again after ``time_s``."""
        self.job, self.assigned_s = job, time.monotonic()
        self.deadline_s = self.assigned_s + time_s
        self._cpu_before_s = self._cpu_s()
        # ASCII with escapes: JSON carries lone surrogates and null bytes through.
        self._outgoing = json.dumps(job).encode("ascii") + b"\n"
        self.write()

    def job_cpu_s(self) -> float:
        """Processor seconds that the job has used."""
        return self._cpu_s() - self._cpu_before_s

    def _cpu_s(self) -> float:
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess:  # it died; the end of its replies will say how
            return 0.0
        return float(times.user + times.system)

    def write(self) -> None:
        """Write as much of the request as the pipe takes."""
        try:
            sent = os.write(self._stdin.fileno(), self._outgoing)
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The process is gone; the end of its replies says so too, with its exit status.
            self._outgoing = b""
            return
        self._outgoing = self._outgoing[sent:]

    def read(self) -> dict[str, Any] | None:
        """A reply if a whole one is there. Raises ``WorkerLost`` at the end of the replies."""
        try:
            data = os.read(self._stdout.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise WorkerLost(self._process.wait())
        self._incoming += data
        if not self._incoming.endswith(b"\n"):
            return None
        line, self._incoming = self._incoming, b""
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise GraderError(
                f"a grading worker wrote {line[:80]!r} where a reply belongs; "
                "something prints when its Python starts"
            ) from error
        return reply

    def kill(self) -> None:
        """End the process at once, reap it and close its pipes. May be called twice."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()
