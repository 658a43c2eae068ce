"""``bridge track``: send what runs log to an experiment tracker, from a process beside them.

It reads each run's ``dynamics.jsonl`` and sends the lines that were not sent, under the same names.
Training knows nothing of it: a server that is slow, gone or full costs a line in
``results/<suite>/logs/tracking.log``, and what is missing is sent when it answers. How many lines
were sent is kept in ``results/<suite>/tracking/<tracker>.json``.

The workflow starts it where ``config.yaml`` names a tracker; by hand it sends what is there, also
of a grid that ended long ago.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bridge.jobs.trackers import Tracked, Tracker, Values, tracker_of
from bridge.store.records import (
    RecordError,
    RunFolder,
    holding,
    read_json,
    suite_folder,
    write_json,
)
from bridge.store.schema import ConfigError
from bridge.store.strict import strict_json

_EVERY_S: Final = 10.0
_PACKAGES: Final = {"mlflow": "mlflow-skinny"}
_OWN_PYTHON: Final = Path(".venv-tracking", "bin", "python")


class Follower:
    """Sends what is new in the runs of a suite."""

    def __init__(self, suite: str, results: Path, name: str, tracker: Tracker) -> None:
        self._suite, self._name, self._tracker = suite, name, tracker
        self._folder = suite_folder(results, suite)
        self._memory = self._folder / "tracking" / f"{name}.json"
        self._sent: dict[str, int] = read_json(self._memory) if self._memory.is_file() else {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._ended: set[str] = set()

    def look(self) -> int:
        """Send what is new; return the number of steps.

        Raises:
            Exception: whatever the tracker's library raised; the rest is sent the next time.
        """
        n_sent = 0
        runs = self._folder / "runs"
        for path in sorted(runs.glob("*/*/*/seed*/dynamics.jsonl")):
            stat = path.stat()
            folder, mark = RunFolder(path.parent), (stat.st_mtime_ns, stat.st_size)
            if self._seen.get(path) == mark and not folder.done.is_file():
                continue
            run = self._tracked(folder, path.parent.relative_to(runs).as_posix())
            if run is None or run.title in self._ended:
                continue
            n_sent += self._send_new(run, path)
            self._seen[path] = mark
            if folder.done.is_file():
                self._tracker.end(run)
                self._ended.add(run.title)
        return n_sent

    def _send_new(self, run: Tracked, path: Path) -> int:
        lines = list(complete_lines(path))
        sent = self._sent.get(run.title, 0)
        # A run that was resumed writes again, byte for byte, what followed its checkpoint.
        new = lines[sent:]
        if new:
            self._tracker.send(run, [(int(line["step"]), values_of(line)) for line in new])
            self._sent[run.title] = len(lines)
            write_json(self._memory, self._sent)
        return len(new)

    def _tracked(self, folder: RunFolder, name: str) -> Tracked | None:
        try:
            spec = read_json(folder.spec)
            return Tracked(self._suite, name, str(spec["spec_hash"]), spec)
        except (RecordError, KeyError):
            return None


def complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file that may be being written: the last one counts when it has its end."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        try:
            row = strict_json(line)
        except ValueError:
            return
        if isinstance(row, dict) and "step" in row:
            yield row


def values_of(line: dict[str, Any]) -> Values:
    """The numbers of a step under their own names; words and what was not measured have none."""
    kinds = (int, float)
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, kinds) and not isinstance(value, bool) and name != "step"
    }


def track(suite: str, results: Path, name: str, *, follow: bool) -> int:
    """Send a suite's runs to a tracker; return the number of steps sent.

    Args:
        follow: again and again, until the process that started this one has ended.

    Raises:
        ConfigError: the tracker's library is not installed here.
        BusyError: another process sends this suite to this tracker.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"{name} is not installed in {sys.executable}; pip install {_PACKAGES.get(name, name)},"
            " or make .venv-tracking for the pinned one."
        )
    os.nice(10)  # Runs come first.
    folder = suite_folder(results, suite) / "tracking"
    with holding(folder / f".{name}.lock", folder):
        follower = Follower(suite, results, name, tracker_of(name, folder))
        parent, n_sent = os.getppid(), 0
        while True:
            going_on = follow and os.getppid() == parent
            n_sent += _looked(follower, name)
            if not going_on:
                return n_sent
            time.sleep(_EVERY_S)


def _looked(follower: Follower, name: str) -> int:
    """What one look has sent; a failure of the tracker is a line."""
    try:
        return follower.look()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        stamp = time.strftime("%H:%M:%S")
        print(
            f"bridge: {stamp} {name} took nothing ({what}); the runs go on, and what is missing is "
            "sent when it answers, or by bridge track.",
            file=sys.stderr,
            flush=True,
        )
        return 0


def start_tracking(suite: str, results: Path, name: str) -> None:
    """Start ``bridge track`` beside a workflow, in the environment that has the tracker."""
    python = sys.executable
    if importlib.util.find_spec(name) is None and _OWN_PYTHON.is_file():
        python = str(_OWN_PYTHON.absolute())
    log = suite_folder(results, suite) / "logs" / "tracking.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["track", "--suite", suite, "--results", str(results), "--to", name, "--follow"]
    with log.open("w") as stream, contextlib.suppress(OSError):
        subprocess.Popen(
            [python, "-m", "bridge", *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    print(f"bridge: {name} is sent what the runs log; its messages: {log}.", file=sys.stderr)
