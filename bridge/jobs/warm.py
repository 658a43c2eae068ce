"""A process that has imported the libraries and forks for each job of one machine.

Importing PyTorch, transformers and lm-eval costs a job 4 to 10 seconds of a processor, more than
the training of a tiny model. Snakemake starts :func:`serve` once (rules/common.smk) and names its
socket in ``BRIDGE_WARM``. ``python -m bridge`` hands its command there, passes signals on and ends
as the job ends; the job reads and writes what it would have read and written by itself.

A job runs by itself, with a line in its log, where the warm process is gone, has another Python, or
was started before the code was edited. Linux only, and not where there are GPUs: a process that has
spoken to one cannot be forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

VARIABLE: Final = "BRIDGE_WARM"
COMMANDS: Final = frozenset({"prepare", "train", "evaluate"})
_PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h
_POLL_S: Final = 1.0


def identity() -> str:
    """What has to be the same in both processes: the Python, and the code as it is on the disk."""
    package = Path(__file__).parents[1]
    code = sorted(
        (str(path), stat.st_mtime_ns, stat.st_size)
        for path in package.rglob("*.py")
        if (stat := path.stat())
    )
    return json.dumps([sys.prefix, sys.version, hash_of(code)])


def hash_of(value: object) -> str:
    from hashlib import sha256

    return sha256(json.dumps(value).encode()).hexdigest()


# -- the job's side --------------------------------------------------------------------------------


def hand_over() -> None:
    """Run this process's command in the warm one, if there is one; return if there is none.

    Ends the process otherwise, with the job's exit status or by the signal that ended it.
    """
    path = os.environ.pop(VARIABLE, None)
    if path is None or sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS:
        return
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            if _line(connection) != identity():
                print("bridge: the code or the Python is not the warm process's; starting cold.")
                return
        except (OSError, ValueError):
            print("bridge: the warm process is gone; starting cold.")
            return
        _end_like(_run_there(connection))


def _run_there(connection: socket.socket) -> int:
    """Send the command and wait; the wait status of the job."""
    request = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
    job: list[int] = []
    waiting: list[int] = []

    def pass_on(number: int, _: object) -> None:
        waiting.append(number)
        while job and waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job[0], waiting.pop(0))

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    sys.stdout.flush()
    socket.send_fds(connection, [b"."], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    try:
        job.append(int(_line(connection)))
        if waiting:
            pass_on(waiting.pop(0), None)
        return int(_line(connection))
    except (OSError, ValueError):
        print("bridge: the warm process ended with the job in it; start the run again.")
        return signal.SIGKILL


def _line(connection: socket.socket) -> str:
    """One line, byte by byte: what follows it is not ours to read."""
    read = bytearray()
    while not read.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ValueError("the other side is gone")
        read += byte
    return read[:-1].decode()


def _end_like(status: int) -> NoReturn:
    sys.stdout.flush()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


# -- the warm process ------------------------------------------------------------------------------


def start() -> None:
    """Start a warm process for the jobs of this Snakemake; it ends with it."""
    folder = tempfile.mkdtemp(prefix="bridge-warm-")
    path = str(Path(folder) / "socket")
    log = open(Path(folder) / "log", "wb")  # noqa: SIM115  the process keeps it
    subprocess.Popen(
        [sys.executable, "-m", "bridge.jobs.warm", path],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for the jobs, which pass it on
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log.close()
    os.environ[VARIABLE] = path


@dataclass
class _Request:
    connection: socket.socket
    descriptors: list[int]
    argv: list[str]
    cwd: str
    env: dict[str, str]


def serve(path: str) -> _Request:
    """Answer requests; returns in the child that is to run one, never in the warm process."""
    owner = os.getppid()
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        # Before the imports: a job that comes early waits, which costs it nothing.
        listening.bind(path)
        listening.listen(64)
        _import_everything()
        own = identity()
        _refuse_threads()
        gc.collect()
        gc.freeze()  # what a child's collector must not touch, so that the pages stay shared
        jobs: dict[int, _Job] = {}
        selector.register(listening, selectors.EVENT_READ)
        while jobs or os.getppid() == owner:
            for key, _ in selector.select(_POLL_S):
                if key.fileobj is listening:
                    request = _accept(listening, own)
                    pid = os.fork() if request else -1
                    if request and pid == 0:
                        for job in jobs.values():
                            job.close()
                        return request
                    if request:
                        jobs[pid] = _Job.begin(pid, request, selector)
                elif key.data in jobs and jobs[key.data].ended(key.fileobj, selector):
                    del jobs[key.data]
    _forget(path)
    raise SystemExit(0)


@dataclass
class _Job:
    """A child that runs, and the connection on which its end is awaited."""

    pid: int
    connection: socket.socket
    process: int
    """Descriptor that can be read once the process has ended."""

    @classmethod
    def begin(cls, pid: int, request: _Request, selector: selectors.BaseSelector) -> _Job:
        with contextlib.suppress(OSError):  # the child does it too; whoever is first
            os.setpgid(pid, pid)
        for descriptor in request.descriptors:
            os.close(descriptor)
        job = cls(pid, request.connection, os.pidfd_open(pid))
        _say(job.connection, str(pid))
        selector.register(job.connection, selectors.EVENT_READ, pid)
        selector.register(job.process, selectors.EVENT_READ, pid)
        return job

    def ended(self, ready: object, selector: selectors.BaseSelector) -> bool:
        """Whether the job has ended; one whose other side is gone is killed first."""
        if ready is self.connection:  # nothing is ever sent there
            selector.unregister(self.connection)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            return False
        _, status = os.waitpid(self.pid, 0)
        for registered in (self.process, self.connection):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(registered)
        _say(self.connection, str(status))
        self.close()
        return True

    def close(self) -> None:
        self.connection.close()
        os.close(self.process)


def _accept(listening: socket.socket, own: str) -> _Request | None:
    connection, _ = listening.accept()
    connection.settimeout(60)
    try:
        _say(connection, own)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        if len(descriptors) < 3:
            connection.close()
            return None
        request: dict[str, Any] = json.loads(_line(connection))
    except (OSError, ValueError):
        connection.close()
        return None
    connection.settimeout(None)
    return _Request(connection, descriptors, **request)


def _say(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(line.encode() + b"\n")


def _forget(path: str) -> None:
    for name in (path, str(Path(path).with_name("log"))):
        with contextlib.suppress(OSError):
            os.unlink(name)
    with contextlib.suppress(OSError):
        os.rmdir(Path(path).parent)


def _import_everything() -> None:
    """What the jobs of a grid import, before any of them is there."""
    from bridge.jobs.run_jobs import skip_unused_imports

    skip_unused_imports()
    names = ["lm_eval.evaluator", "lm_eval.models.huggingface", "scipy.stats"]
    names += [f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen2")]
    # transformers looks for it whenever it saves a model.
    names += [name for name in ("deepspeed",) if importlib.util.find_spec(name)]
    names += ["bridge.jobs.cli", "bridge.models.preparing", "bridge.run.loop"]
    names += [f"bridge.evaluation.{name}" for name in ("runner", "answers", "questions", "tasks")]
    for folder in ("methods", "tasks"):
        package = importlib.import_module(f"bridge.{folder}")
        names += [f"bridge.{folder}.{m.name}" for m in pkgutil.iter_modules(package.__path__)]
    for name in names:
        importlib.import_module(name)


def _refuse_threads() -> None:
    """A fork copies one thread only; jemalloc, which Arrow brings, makes its own anew."""
    for thread in Path("/proc/self/task").iterdir():
        name = (thread / "comm").read_text().strip()
        if int(thread.name) != os.getpid() and name != "jemalloc_bg_thd":
            raise RuntimeError(f"a library started the thread {name!r} when imported; cannot fork")


def _become(request: _Request) -> None:
    """Turn a fresh child into what ``python -m bridge`` would have been."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    os.setpgid(0, 0)
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    request.connection.close()
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    sys.argv[1:] = request.argv


def main(argv: Sequence[str]) -> None:
    """The warm process, and each job that it forks."""
    _become(serve(argv[0]))
    from bridge.jobs.cli import main as run

    run()


if __name__ == "__main__":
    main(sys.argv[1:])
