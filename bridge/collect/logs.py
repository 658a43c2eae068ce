"""Why a job failed, from its log: the error, not the progress before it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_TAIL_BYTES = 65_536
_MOST_LINES = 6
_WIDTH = 300
"""Characters of a line that are kept: an exception may hold a whole tensor."""
_OURS = re.compile(r"(bridge|coupling): ")
_TRACEBACK = "Traceback (most recent call last):"
_PROGRESS = re.compile(
    r".* \d+ s left$"  # our own heartbeats
    r"|.*\d%\|.*\|"  # a bar of tqdm
    r"|[=\-\s^~]*$"
)
_FAILED = re.compile(r"^ +log: (?P<paths>.+) \(check log file\(s\) for error details\)$", re.M)


def lines_that_matter(path: Path) -> list[str]:
    """The lines of a log that say why its job ended.

    Our own sentence where there is one; else the place of the last exception with what it said;
    else the last lines that are no progress.
    """
    lines = _tail(path)
    for number in range(len(lines) - 1, -1, -1):
        if _OURS.match(lines[number]):
            return [lines[number]]
    if _TRACEBACK in lines:
        begin = len(lines) - lines[::-1].index(_TRACEBACK)
        return _exception(lines[begin:])
    return [line for line in lines if not _PROGRESS.match(line)][-_MOST_LINES:] or lines[-1:]


def failure_text(snakemake_logs: Iterable[str]) -> str:
    """What the jobs that failed in one call of Snakemake have to say, log by log."""
    texts = [Path(log).read_text(encoding="utf-8", errors="replace") for log in snakemake_logs]
    found = [group for text in texts for group in _FAILED.findall(text)]
    paths = dict.fromkeys(path for group in found for path in group.split(", "))
    parts = []
    for path in map(Path, paths):
        said = lines_that_matter(path) if path.is_file() else []
        parts += [f"failed: {path}", *(f"    {line}" for line in said)]
    return "\n".join(parts)


def _tail(path: Path) -> list[str]:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    # A progress bar overwrites its line.
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line[:_WIDTH] for line in lines if line]


def _exception(lines: list[str]) -> list[str]:
    """The innermost place of a traceback and the exception: what stands last."""
    places = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    kept = lines[places[-1] if places else 0 :]
    return [line for line in kept if not _PROGRESS.match(line)][:_MOST_LINES]
