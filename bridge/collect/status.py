"""What ``bridge status`` and ``bridge doctor`` print, read from records only.

The state of a run is told from its files: scores, then a running process (its heartbeat), then the
reason of a failure or of a stop, then a finished training. A run that was asked to stop is
``interrupted``; one whose process is gone without a word is ``stopped``. Nothing is locked or
written, so asking never disturbs a run. Left out: Snakemake's own queue; a run that is not started
is ``waiting``.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from bridge.collect.logs import lines_that_matter
from bridge.plan.grid import Plan, RunSpec
from bridge.store.records import RecordError, RunFolder, base_folder, suite_folder
from bridge.store.shapes import Done, Failure, Heartbeat, Scores, Shape, read_record

Word = Literal[
    "done",
    "diverged",
    "collapsed",
    "running",
    "trained",
    "failed",
    "timeout",
    "interrupted",
    "stopped",
    "waiting",
]
WIDTH = 100
_COLOURS: dict[Word, str] = {
    "done": "32",
    "diverged": "35",
    "collapsed": "35",
    "running": "36",
    "trained": "36",
    "failed": "31",
    "timeout": "31",
    "interrupted": "33",
    "stopped": "33",
    "waiting": "2",
}
# The trainer writes a heartbeat every few seconds; a step of a large model may take minutes.
_SILENT_S = 900.0
# A job writes its record and then its last line.
_SAME_ATTEMPT_S = 5.0
_PACKAGES = (
    "snakemake",
    "pydantic",
    "numpy",
    "pandas",
    "torch",
    "transformers",
    "peft",
    "lm_eval",
    "math-verify",
)


@dataclass(frozen=True)
class State:
    """Where one run is."""

    word: Word
    detail: str = ""
    progress: str = ""
    """Short form for the grid, e.g. ``45/200``."""
    log: Path | None = None
    """Of the job that did not end well, where the workflow started it."""


def run_state(spec: RunSpec, results: Path, *, now: float | None = None) -> State:
    """Tell the state of a run from its folder."""
    folder = spec.folder(results)
    scores = _record(folder.scores, Scores, "spec_hash", spec.spec_hash)
    if scores is not None:
        return State(scores["status"], scores.get("reason") or "")
    heartbeat = _heartbeat(folder.heartbeat)
    if heartbeat is not None and _alive(heartbeat, time.time() if now is None else now):
        progress = f"{heartbeat['step']}/{heartbeat['n_steps']}"
        return State("running", _progress(heartbeat), progress)
    failure = _record(folder.failure, Failure, "spec_hash", spec.spec_hash)
    if failure is not None:
        detail = f"{failure['stage']}: {failure['reason']}"
        return State(failure["status"], detail, log=_log(folder, failure["stage"], folder.failure))
    if _record(folder.done, Done, "train_hash", spec.train_hash) is not None:
        return State("trained", "waits for its evaluation")
    if heartbeat is not None:
        detail = f"at step {heartbeat['step']} of {heartbeat['n_steps']}; the next attempt resumes"
        progress = f"{heartbeat['step']}/{heartbeat['n_steps']}"
        return State("stopped", detail, progress, _log(folder, "train", folder.heartbeat))
    return State("waiting")


def grid_text(plan: Plan, *, results: Path, colour: bool = False) -> str:
    """The grid of a suite in words, at most 100 columns wide, then what single runs have to say."""
    states = [(spec, run_state(spec, results)) for spec in plan.runs]
    counts = Counter(state.word for _, state in states)
    summary = ", ".join(f"{counts[word]} {word}" for word in _COLOURS if counts[word])
    lines = [f"suite {plan.name}: {len(plan.runs)} runs: {summary}"]
    beats = dict(heartbeats(suite_folder(results, plan.name)))
    for model in plan.made_models:
        ready = (base_folder(results, plan.name, model) / "base.json").is_file()
        text = _progress(beats[model]) if model in beats else "ready" if ready else "not made yet"
        lines.append(f"base model {model}: {text}")
    for block in dict.fromkeys((s.model, s.dataset) for s, _ in states):
        lines += ["", " x ".join(block)]
        lines += _rows([m for m in states if (m[0].model, m[0].dataset) == block], colour)
    for word in (
        "running",
        "interrupted",
        "stopped",
        "diverged",
        "collapsed",
        "timeout",
        "failed",
    ):
        lines += _details(word, states)
    report = suite_folder(results, plan.name) / "report.html"
    if report.is_file():
        lines += ["", f"report: {report}"]
    return "\n".join(lines)


def doctor_text(plan: Plan, *, results: Path) -> str:
    """Versions, machine, disk and plan, for a bug report."""
    usage = shutil.disk_usage(results if results.exists() else Path())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    counts = Counter(run_state(spec, results).word for spec in plan.runs)
    facts = [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        *((name, _version(name)) for name in ("bridge-harness", *_PACKAGES)),
        ("machine", f"{platform.system()} {platform.machine()}, {socket.gethostname()}"),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{memory:.1f} GiB"),
        ("disk", f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f}"),
        ("suite", f"{plan.name}: {plan.suite.title}"),
        ("runs", f"{len(plan.runs)}, of which {counts['done']} done"),
        ("base models", ", ".join(plan.made_models) or "none to make"),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def _rows(members: list[tuple[RunSpec, State]], colour: bool) -> Iterator[str]:
    """Cells of a block, a line for each method; seeds that do not fit go to the next line."""
    cells: dict[str, list[tuple[str, Word]]] = {}
    for spec, state in members:
        text = f"seed{spec.seed} {state.word} {state.progress}".rstrip()
        cells.setdefault(spec.label, []).append((text, state.word))
    width = max(len(text) for row in cells.values() for text, _ in row) + 2
    per_line = max(1, (WIDTH - 22) // width)
    for label, row in cells.items():
        for start in range(0, len(row), per_line):
            head = label[:20] if start == 0 else ""
            line = "".join(
                _coloured(text, word, colour) + " " * (width - len(text))
                for text, word in row[start : start + per_line]
            )
            yield f"{head:<22}{line}".rstrip()


def _details(word: str, states: list[tuple[RunSpec, State]]) -> list[str]:
    found = [(spec, state) for spec, state in states if state.word == word]
    lines = ["", word] if found else []
    for spec, state in found:
        name = f"  {spec.model}/{spec.dataset}/{spec.label}/seed{spec.seed}: "
        lines += textwrap.wrap(name + state.detail, WIDTH, subsequent_indent="    ", max_lines=4)
        if state.log is not None:
            lines += [f"    log: {state.log}", *_said(state)]
    return lines


def _said(state: State) -> Iterator[str]:
    """What a log adds to the reason that is shown already."""
    assert state.log is not None
    for line in lines_that_matter(state.log):
        if " ".join(line.split()).removeprefix("bridge: ") not in state.detail:
            yield f"      {line}"[:WIDTH]


def _log(folder: RunFolder, stage: str, record: Path) -> Path | None:
    """The log of the attempt that left a record; an older one is of another attempt."""
    log = folder.log(stage)
    try:
        return log if log.stat().st_mtime >= record.stat().st_mtime - _SAME_ATTEMPT_S else None
    except OSError:
        return None


def _coloured(text: str, word: Word, colour: bool) -> str:
    return f"\x1b[{_COLOURS[word]}m{text}\x1b[0m" if colour else text


def _record(path: Path, shape: type[Shape], key: str, expected: str) -> dict[str, Any] | None:
    """A record of this very configuration, or None: old and damaged ones say nothing about it."""
    try:
        record = read_record(path, shape)
    except RecordError:
        return None
    return record if record.get(key) == expected else None


def heartbeats(suite: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is being trained in a suite's folder: the names of runs (``model/dataset/method/seed0``)
    and of base models, each with its last heartbeat."""
    now, runs = time.time(), suite / "runs"
    for path in sorted(runs.glob("*/*/*/seed*/heartbeat.json")):
        beat = _heartbeat(path)
        if beat is not None and _alive(beat, now):
            yield path.parent.relative_to(runs).as_posix(), beat
    models = suite / "models"
    making = {
        path: path.name.removesuffix(".heartbeat.json")[1:]
        for path in models.glob(".*.heartbeat.json")
    }
    # A warm-up is a run in a folder beside the model.
    warm_ups = models.glob(".*.work/*/runs/*/*/*/seed*/heartbeat.json")
    making |= {path: path.parents[3].name for path in warm_ups}
    for path, model in making.items():
        beat = _heartbeat(path)
        if beat is not None and _alive(beat, now):
            yield model, beat


def _heartbeat(path: Path) -> dict[str, Any] | None:
    try:
        return read_record(path, Heartbeat)
    except RecordError:
        return None


def _alive(heartbeat: dict[str, Any], now: float) -> bool:
    if now - heartbeat["updated_at"] > _SILENT_S:
        return False
    if heartbeat["host"] != socket.gethostname():
        return True  # Another machine's processes cannot be asked; the clock has to do.
    try:
        os.kill(heartbeat["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _progress(beat: dict[str, Any]) -> str:
    return f"step {beat['step']} of {beat['n_steps']}, {clock(beat['seconds_left'])} left"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them, ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
