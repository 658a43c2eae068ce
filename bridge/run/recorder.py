"""What a run writes while it is under way: its two logs, its bar and its heartbeat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from bridge.machine.telemetry import Progress
from bridge.run.state import Run
from bridge.store.records import RecordError, jsonl, writing


class Recorder:
    """Writes nothing: for the ranks of a run but the first."""

    def log(self, line: dict[str, Any]) -> None:
        """Add the line of a step."""

    def flushed(self) -> tuple[int, int]:
        """Bring what was written to the disk; return the sizes of dynamics and timings in bytes."""
        return 0, 0

    def show(self, line: dict[str, Any]) -> None:
        """Tell a person that a step has been made."""


class FileRecorder(Recorder):
    """Writes ``dynamics.jsonl`` and ``timings.jsonl`` of the run's folder."""

    def __init__(self, run: Run, dynamics: BinaryIO, timings: BinaryIO, progress: Progress) -> None:
        self._run, self._dynamics, self._timings = run, dynamics, timings
        self._progress = progress

    def log(self, line: dict[str, Any]) -> None:
        stopwatch = self._run.stopwatch
        self._dynamics.write(jsonl([line]).encode())
        timing = {
            "step": line["step"],
            "seconds": stopwatch.end_step(),
            "elapsed_s": stopwatch.elapsed_s,
        }
        self._timings.write(jsonl([timing]).encode())

    def flushed(self) -> tuple[int, int]:
        for stream in (self._dynamics, self._timings):
            stream.flush()
            os.fsync(stream.fileno())
        return self._dynamics.tell(), self._timings.tell()

    def show(self, line: dict[str, Any]) -> None:
        self._progress.update(line["step"], _headline(line))


@contextmanager
def recording(run: Run, sizes: tuple[int, int] | None) -> Iterator[Recorder]:
    """Open the logs of a run, cut to what belongs to its checkpoint.

    Args:
        sizes: bytes of the two logs that belong to the restored checkpoint; None without one.

    Raises:
        RecordError: a log is shorter than that, or cannot be written.
    """
    if not run.policy.ranks.first:
        yield Recorder()
        return
    folder, spec = run.folder, run.spec
    with (
        writing(folder.dynamics),
        folder.dynamics.open("ab") as dynamics,
        folder.timings.open("ab") as timings,
    ):
        for stream, size in zip((dynamics, timings), sizes or (0, 0), strict=True):
            if os.fstat(stream.fileno()).st_size < size:
                raise RecordError(
                    f"{stream.name} is shorter than its checkpoint says; delete {folder.resume} "
                    "to start this run afresh."
                )
            # What was written after the checkpoint is made again.
            stream.truncate(size)
        name = f"{spec.model}/{spec.dataset}/{spec.label}/seed{spec.seed}"
        progress = Progress(folder, name=name, step=run.counters.step, n_steps=run.method.n_steps)
        try:
            yield FileRecorder(run, dynamics, timings, progress)
        finally:
            progress.close()


def _headline(line: dict[str, Any]) -> str:
    shown = ("reward_mean", "rl_loss", "demonstration_loss", "heldout_accuracy")
    return ", ".join(f"{k} {line[k]:.3f}" for k in shown if line.get(k) is not None)
