"""Hands out the GPUs of one machine: a command starts once it holds as many as it needs.

    python -m bridge.machine.gpu_slots 1 python -m bridge train ...

Snakemake counts GPUs and never says which. Here each GPU has a lock file; the command sees the
GPUs it holds in ``CUDA_VISIBLE_DEVICES``. A lock belongs to the process, so the kernel frees it
when that ends, however it ends. Commands that need no GPU, and jobs of SLURM, which hands out its
own, start at once and unchanged.

Left out: GPUs that other users, or programs that know nothing of the locks, are using.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

VARIABLE = "CUDA_VISIBLE_DEVICES"
_POLL_S = 0.5


class SlotError(RuntimeError):
    """The GPUs asked for cannot be had; one sentence."""


def visible_gpus() -> list[str]:
    """GPUs that this process may use: those named in the environment, else all there are."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def take(n: int, gpus: Sequence[str], folder: Path) -> list[str]:
    """Wait until ``n`` of the GPUs are free and hold them until this process ends.

    The locks outlive ``exec``; processes that this one starts do not share them.

    Raises:
        SlotError: there are fewer than ``n`` GPUs.
    """
    if n > len(gpus):
        raise SlotError(
            f"this job needs {n} GPUs and {len(gpus)} can be seen ({', '.join(gpus) or 'none'}); "
            f"check nvidia-smi and {VARIABLE}, or run it elsewhere."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        # One at a time: two that each hold half of what they need would wait for ever.
        with _locked(folder / "hand-out"):
            held: dict[str, int] = {}
            for gpu in gpus:
                descriptor = _try_lock(folder / f"gpu-{gpu}")
                if descriptor is not None:
                    held[gpu] = descriptor
                if len(held) == n:
                    for kept in held.values():
                        os.set_inheritable(kept, True)
                    return list(held)
            for descriptor in held.values():
                os.close(descriptor)
        time.sleep(_POLL_S)


def main(arguments: list[str]) -> NoReturn:
    """Run a command with the GPUs it needs, in this process's place."""
    n, command = int(arguments[0]), arguments[1:]
    if n > 0 and "SLURM_JOB_ID" not in os.environ:
        folder = Path(tempfile.gettempdir()) / f"bridge-gpus-{os.getuid()}"
        try:
            os.environ[VARIABLE] = ",".join(take(n, visible_gpus(), folder))
        except SlotError as error:
            print(f"bridge: {error}", file=sys.stderr)
            sys.exit(2)
    os.execvp(command[0], command)


def _try_lock(path: Path) -> int | None:
    """Descriptor of a lock that is now ours, or None."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
