"""Faults of the workflow: Snakemake killed with its trainer left alone, and two of them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time

import psutil

from tests.drills.base import Found
from tests.drills.workshop import METHODS, Workshop, check, stopped

TARGET = "results/drill/tables/main.csv"


def orphan(shop: Workshop) -> Found:
    """SIGKILL Snakemake while its trainer runs; then what a user has to do."""
    first = shop.snakemake(TARGET)
    pid = _trainer(shop, first)
    with stopped(pid):  # so that it is surely still there in what follows
        first.kill()
        first.wait()
        check(psutil.pid_exists(pid), "the trainer died with Snakemake")
        status, said = _end(shop.snakemake(TARGET))
        check(status != 0 and "unlock" in said, f"the second Snakemake: {said[-300:]}")
        status, said = _end(shop.snakemake("--unlock"))
        check(status == 0, f"--unlock: {said[-300:]}")
        status, said = _end(shop.snakemake(TARGET, "--rerun-incomplete"))
        busy = "\n".join(p.read_text() for p in shop.path.glob("results/drill/logs/train/**/*.log"))
        check(
            status != 0 and "written by another process" in busy, f"a second trainer: {busy[-300:]}"
        )
    _wait_for_end(pid)
    methods = [m for m in METHODS if shop.run(m).done.exists()]
    before = {m: shop.run(m).done.read_bytes() for m in methods}
    check("bridge" in before, "the orphan left no done.json")
    status, said = _end(shop.snakemake(TARGET, "--rerun-incomplete"))
    check(status == 0, f"the last Snakemake: {said[-300:]}")
    sentence = re.search(r"[^ ]* is being written by another process.*", busy)
    assert sentence is not None
    again = ", ".join(m for m in methods if shop.run(m).done.read_bytes() != before[m])
    return Found(
        "the orphan, which finishes its run; after --unlock a second trainer is refused",
        f"{again}: Snakemake takes its done.json for incomplete" if again else "nothing",
        sentence[0].replace("results/drill/", ""),
    )


def two(shop: Workshop) -> Found:
    """A second Snakemake is started on the folder of one that works."""
    first = shop.snakemake(TARGET)
    pid = _trainer(shop, first)
    with stopped(pid):
        status, said = _end(shop.snakemake(TARGET))
        check(status != 0 and "locked" in said.lower(), f"the second: {said[-300:]}")
    status, said = _end(first)
    check(status == 0, f"the first: {said[-300:]}")
    return Found("everything", "nothing", "Error: Directory cannot be locked. (Snakemake's own)")


def _trainer(shop: Workshop, snakemake: subprocess.Popen[str]) -> int:
    """Wait for a run's second checkpoint; the pid in its lock."""
    while not any(len(shop.checkpoints(method)) >= 2 for method in ("sft", "bridge")):
        check(snakemake.poll() is None, "Snakemake ended before the run had checkpoints")
        time.sleep(0.002)
    method = next(m for m in ("sft", "bridge") if len(shop.checkpoints(m)) >= 2)
    return int(shop.run(method).lock.read_text().split()[1])


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
