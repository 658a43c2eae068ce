"""Where the time of a run went, and what a person sees of it meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bridge.machine.memory import device_meter
from bridge.store.columns import STAGES
from bridge.store.records import RunFolder, write_json


class Stopwatch:
    """Seconds per stage, by the monotonic clock; survives a resume through its dictionaries."""

    def __init__(self, total_s: dict[str, float] | None = None) -> None:
        self.memory = device_meter()
        self.total_s = dict.fromkeys(STAGES, 0.0) | (total_s or {})
        self.step_s: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage, and note its peak of memory."""
        self.memory.begin(name)
        begin = time.monotonic()
        try:
            yield
        finally:
            self.memory.end()
            spent = time.monotonic() - begin
            self.total_s[name] = self.total_s.get(name, 0.0) + spent
            self.step_s[name] = self.step_s.get(name, 0.0) + spent

    def end_step(self) -> dict[str, float]:
        """Return the step's seconds per stage and start the next step."""
        step, self.step_s = self.step_s, {}
        return step

    @property
    def elapsed_s(self) -> float:
        """Training seconds so far: all stages but probes, which are measurements, not training."""
        return sum(s for name, s in self.total_s.items() if name != "probe")


def beat(path: Path, step: int, n_steps: int, seconds_left: float) -> None:
    """Write the heartbeat of a training that this process is at."""
    write_json(
        path,
        {
            "step": step,
            "n_steps": n_steps,
            "seconds_left": round(seconds_left, 1),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "updated_at": time.time(),
        },
    )


class Progress:
    """A bar on a terminal; elsewhere a heartbeat line in the log and a file for ``status``."""

    def __init__(self, folder: RunFolder, *, name: str, step: int, n_steps: int) -> None:
        self.folder, self.name, self.n_steps = folder, name, n_steps
        self._begin, self._first = time.monotonic(), step
        self._last = 0.0
        self._bar = tqdm(
            total=n_steps, initial=step, desc=name, unit="step", disable=not sys.stderr.isatty()
        )

    def update(self, step: int, text: str) -> None:
        """Show that a step has been made."""
        self._bar.update(1)
        self._bar.set_postfix_str(text)
        now = time.monotonic()
        if now - self._last < 5.0 and step < self.n_steps:
            return
        self._last = now
        left = (now - self._begin) / max(1, step - self._first) * (self.n_steps - step)
        beat(self.folder.heartbeat, step, self.n_steps, left)
        if self._bar.disable:
            line = f"{self.name}: step {step}/{self.n_steps}, {text}, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar and the heartbeat file."""
        self._bar.close()
        self.folder.heartbeat.unlink(missing_ok=True)


def host_memory_gib() -> float:
    """Peak resident memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
