"""What a run writes and how it is read back; the only place that knows file names.

A run's folder is ``<results>/<suite>/runs/<model>/<dataset>/<method>/seed<k>/``:

====================  ==========================================================================
``spec.json``         the full merged configuration of the run and its hashes
``dynamics.jsonl``    one line per optimiser step (and line 0: the untouched model), no seconds
``timings.jsonl``     seconds per stage and step, apart so that ``dynamics.jsonl`` is reproducible
``policy/``           the trained checkpoint (adapter merged) with its model card, ``README.md``
``done.json``         how training ended and what it cost; written last
``answers.jsonl``     one line per question and answer
``scores.json``       how evaluation ended, counts per benchmark; written last
``failed.json``       why the last attempt failed or was stopped; the next attempt removes it
``heartbeat.json``    step, time left, pid and host of the process that trains
``resume/``           checkpoints of an unfinished run; removed when training is done
``lock``              pid and host of the one process that may write here
====================  ==========================================================================

Small files are written to a temporary name, synced and renamed, so a reader sees the old or the new
file, never half of one. Every folder's name is checked here, so whatever a command was told, it
reads and writes inside the results folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from bridge.store.schema import check_name, check_suite_name
from bridge.store.strict import strict_json

Status = Literal["done", "diverged", "collapsed", "failed", "timeout", "interrupted"]
"""``diverged`` and ``collapsed`` (not one readable answer) are results, the last three are not."""
STATUSES: tuple[Status, ...] = (
    "done",
    "diverged",
    "collapsed",
    "failed",
    "timeout",
    "interrupted",
)
RESULTS: tuple[Status, ...] = ("done", "diverged", "collapsed")

CARD = "README.md"
"""Name of a model card; what it says changes no weight."""

_LOCK_POLL_S = 0.5
_PLACE = re.compile(r"""(?<![\w/.:])/(?:[^\s/:'",;()]+/)+([^\s/:'",;()]*)""")
"""An absolute path of two parts at least; an address (https://...) is none."""

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package: of the checkout, or the one it is installed in."""


def shipped(root: Path) -> Path:
    """Where ``Snakefile``, ``rules/``, ``suites/``, ``claims.yaml`` and ``results/published/`` are:
    the checkout itself; for an installed package, its data."""
    data = root / "bridge" / "workflow"
    return data if data.is_dir() else root


SHIPPED = shipped(ROOT)


class RecordError(RuntimeError):
    """A run's files cannot be written or read; one sentence with the file and the remedy."""


class BusyError(RecordError):
    """Another process writes this run's folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def dynamics(self) -> Path:
        return self.path / "dynamics.jsonl"

    @property
    def timings(self) -> Path:
        return self.path / "timings.jsonl"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def card(self) -> Path:
        """Model card of the policy; in no hash."""
        return self.policy / CARD

    @property
    def done(self) -> Path:
        return self.path / "done.json"

    @property
    def answers(self) -> Path:
        return self.path / "answers.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def failure(self) -> Path:
        """Not an output of any rule: Snakemake deletes the outputs of a job that failed."""
        return self.path / "failed.json"

    @property
    def resume(self) -> Path:
        return self.path / "resume"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def log(self, stage: str) -> Path:
        """What the workflow's job ``train`` or ``evaluate`` printed."""
        runs = self.path.parents[3]
        run = self.path.relative_to(runs)
        return runs.with_name("logs") / stage / run.parent / f"{run.name}.log"

    def columns(self) -> Path:
        """The suite's folder of what is computed before runs, shared by those that need it."""
        return self.path.parents[3].with_name("columns")


def run_folder(
    results: Path, suite: str, model: str, dataset: str, method: str, seed: int
) -> RunFolder:
    """Return the folder of one run; nothing is created.

    Raises:
        ConfigError: a name that could lead elsewhere; so do the functions below.
    """
    names = [check_name(name) for name in (model, dataset, method)]
    return RunFolder(suite_folder(results, suite).joinpath("runs", *names, f"seed{seed}"))


def suite_folder(results: Path, suite: str) -> Path:
    """Return the folder of a suite's results."""
    return results / check_suite_name(suite)


def base_folder(results: Path, suite: str, model: str) -> Path:
    """Return the folder of a base model that the workflow prepares."""
    return suite_folder(results, suite) / "models" / check_name(model)


def cached_folder(results: Path, suite: str) -> Path:
    """Return the folder of a suite's committed tables."""
    return results / "cached" / check_suite_name(suite)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_hash(path: Path) -> str:
    """Return one hash over names and contents of the files of a folder, its model card left out
    (first 16 digits)."""
    files = (p for p in sorted(path.iterdir()) if p.is_file() and p.name != CARD)
    return content_hash({p.name: file_hash(p) for p in files})


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically and durably.

    Raises:
        RecordError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically. NaN is not JSON and is refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        RecordError: missing or damaged, with the remedy.
    """
    try:
        return strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is missing; run the job that writes it.") from None
    except ValueError:
        raise RecordError(f"{path} is damaged; delete it and run its job again.") from None


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON lines in canonical form (ASCII, so lone surrogates survive)."""
    return "".join(canonical_json(row) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return all rows of a JSON-lines file.

    Raises:
        RecordError: naming file and line of the first damaged row.
    """
    rows = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = strict_json(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise RecordError(
                        f"{path}, line {number}: not a JSON object; delete the file and run its "
                        "job again."
                    )
                rows.append(row)
    except FileNotFoundError:
        raise RecordError(f"{path} is missing; run the job that writes it.") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path} is not UTF-8; delete it and run its job again.") from None
    return rows


def without_places(value: Any) -> Any:
    """``value`` with the last part of each absolute path only: a path says where somebody works.

    A path has two parts at least: ``/no_think`` is an instruction that some models know.
    """
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(inner) for inner in value]
    is_path = isinstance(value, str) and value.startswith("/") and len(Path(value).parts) > 2
    return Path(value).name if is_path else value


def text_without_places(text: str) -> str:
    """``text`` with the last part of each absolute path in it only, see :func:`without_places`."""
    return _PLACE.sub(lambda found: found[1], text)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable; of a file, its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make the files of a folder durable, and then their names."""
    for file in path.iterdir():
        sync_folder(file)
    sync_folder(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear sentence."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EROFS: "the file system is read-only; choose another results folder",
        errno.EACCES: "permission denied; make the folder writable or choose another one",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise RecordError(f"Cannot write {path}: {reasons[error.errno]}.") from error


@contextlib.contextmanager
def exclusive(
    folder: RunFolder, *, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold a run folder's lock, see :func:`holding`."""
    with writing(folder.lock):
        folder.path.mkdir(parents=True, exist_ok=True)
    with holding(folder.lock, folder.path, wait_s=wait_s, on_wait=on_wait) as waited:
        yield waited


@contextlib.contextmanager
def holding(
    lock: Path, what: Path, *, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold a lock file; the kernel frees it when the process ends, however it ends.

    Args:
        what: the file or folder that the lock guards, for messages.
        wait_s: how long to wait for another process that holds it.
        on_wait: called now and then meanwhile; what it raises ends the wait.

    Yields:
        Whether another process held it first.

    Raises:
        BusyError: another process holds it; the message names its pid and host.
    """
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a+")
    with stream:
        end_s = time.monotonic() + wait_s
        waited = False
        while not _locked(stream):
            stream.seek(0)
            holder = f"{what} is being written by another process ({stream.read().strip()})"
            if time.monotonic() >= end_s:
                raise BusyError(f"{holder}; wait for it or stop it first.")
            if not waited:
                print(f"{holder}; waiting for it.", file=sys.stderr, flush=True)
            waited = True
            on_wait()
            time.sleep(_LOCK_POLL_S)
        stream.truncate(0)
        stream.write(f"pid {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield waited


def _locked(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
