"""Snakemake as ``make`` and ``bridge run`` start it: Ctrl-C ends in two lines, and a home folder is
not needed.

    python -m bridge.jobs.workflow --cores all --config suite=smoke

All arguments are Snakemake's, and so is the exit code. ``bridge run`` shows a line per stage
(``bridge/jobs/narrating.py``) instead of what Snakemake says, which its log keeps.

A person who stops a grid has lost nothing, for every run saves what it has, but Snakemake reports
each job that it ended as an error: from the first Ctrl-C on, its messages are held back.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from bridge.collect.status import clock, run_state
from bridge.jobs.asked import asked_of
from bridge.jobs.narrating import Bars, Lines, Narrator, work_of
from bridge.jobs.tuned import trials_first
from bridge.plan.grid import Plan, load_plan
from bridge.store.records import RESULTS, suite_folder

_CHUNK_BYTES = 65_536
_TICK_S = 1.0


def main(arguments: Sequence[str], *, told: bool = False) -> int:
    """Run Snakemake; return its exit code.

    Args:
        told: tell in our own words how far it is.
    """
    terminal = sys.stderr.isatty()
    # On a terminal Snakemake writes in colours, so it gets one.
    reader, writer = os.openpty() if terminal and not told else os.pipe()
    listener = Teller(_plan_of(arguments), Bars() if terminal else Lines()) if told else Relay()
    # Shells start what they put in the background with the signal ignored, and so would Snakemake.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A group of its own: Ctrl-C reaches this process alone, which passes it on once.
    child = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        stdout=writer if told else None,
        stderr=writer,
        env=_environment(),
        process_group=0,
    )
    os.close(writer)
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if number != signal.SIGINT:
            child.terminate()
            return
        if not stopping:
            say("stopping; the runs under way save what they have (Ctrl-C again: at once)")
        stopping = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    for chunk in _chunks(reader):
        if not stopping:
            listener.hear(chunk)
    code = child.wait()
    if not stopping:
        listener.end(code)
    if stopping:
        say(f"stopped{_saved(arguments)}; the same command goes on from there")
    return code if code >= 0 else 128 - code


def say(sentence: str) -> None:
    """Print a line of our own."""
    os.write(sys.stderr.fileno(), f"bridge: {sentence}.\n".encode())


class Relay:
    """Passes on what Snakemake writes."""

    def hear(self, chunk: bytes) -> None:
        """Write it."""
        os.write(sys.stderr.fileno(), chunk)

    def end(self, code: int) -> None:
        """Nothing is left to say."""


class Teller:
    """Tells in our own words how far Snakemake is."""

    def __init__(self, plan: Plan | None, display: Bars | Lines) -> None:
        folder = Path("results") if plan is None else suite_folder(Path("results"), plan.name)
        self._narrator = Narrator(folder, {} if plan is None else work_of(plan, Path("results")))
        self._display = display
        self._begun_s = time.monotonic()

    def hear(self, chunk: bytes) -> None:
        """Take in what Snakemake wrote, if anything, and bring the display up to date."""
        now = time.monotonic()
        for line in self._narrator.hear(chunk.decode(errors="replace"), now):
            os.write(sys.stderr.fileno(), f"{line}\n".encode())
        self._display.show(self._narrator, now)

    def end(self, code: int) -> None:
        """The last state; where something failed, what and why."""
        now = time.monotonic()
        self._display.close(self._narrator, now)
        if code:
            os.write(sys.stderr.fileno(), "\n".join(["", *self._narrator.last_words()]).encode())
        say(
            f"{'ended' if code else 'done'} after {clock(now - self._begun_s)}; all that Snakemake "
            "said is in .snakemake/log"
        )


def _chunks(reader: int) -> Iterator[bytes]:
    """What is written to the other end, until nobody can write any more; nothing once a second."""
    while True:
        if not select.select([reader], [], [], _TICK_S)[0]:
            yield b""
            continue
        try:
            chunk = os.read(reader, _CHUNK_BYTES)
        except OSError:  # EIO: how a terminal ends
            return
        if not chunk:
            return
        yield chunk


def _environment() -> dict[str, str]:
    """The environment, with a cache that can be written: Snakemake does not start without."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        usable = os.access(cache, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if usable:
        return dict(os.environ)
    instead = Path(".snakemake", "cache").absolute()
    say(f"{cache} cannot be written; the cache is {instead} this time")
    return os.environ | {"XDG_CACHE_HOME": str(instead)}


def _plan_of(arguments: Sequence[str]) -> Plan | None:
    """The plan that Snakemake is asked for, where that can be told."""
    try:
        asked = asked_of(arguments)
        cached = asked.source == "cached"
        return load_plan(asked.suite, root=Path(), overrides=asked.overrides, cached=cached)
    except ValueError:
        return None


def _saved(arguments: Sequence[str]) -> str:
    """How much of the suite is done, where the suite can be told."""
    plan = _plan_of(arguments)
    if plan is None:
        return ""
    words = Counter(run_state(spec, Path("results")).word for spec in plan.runs)
    done = sum(words[word] for word in RESULTS)
    begun = words["trained"] + words["interrupted"] + words["stopped"]
    return f" with {done} of {len(plan.runs)} runs done and {begun} saved part of the way"


def run(arguments: Sequence[str], *, told: bool = False) -> int:
    """Run Snakemake, before it the trials of a suite that is tuned here; return the exit code.

    Args:
        told: see :func:`main`.
    """
    first = trials_first(arguments)
    if first is not None:
        say(f"the settings are tuned first, up to {first[0]}")
        if code := main(first, told=told):
            return code
    return main(arguments, told=told)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
