"""Full disks and read-only folders, on real mounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bridge.store.records import suite_folder
from tests.drills.base import Found
from tests.drills.workshop import SUITE, Workshop, check, sentence, stopped, wait_for

DISK_MIB = 24
FULL = "the disk is full; free some space"


def can_mount(folder: Path) -> bool:
    """Whether this process may mount; containers often may not, even as root."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return done.returncode == 0


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Something mounted on a folder, for a while."""
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        # Lazily: a job that a failed drill left behind must not keep the mount.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def small_disk(shop: Workshop) -> Iterator[Path]:
    """The suite's folder on a small disk of its own; gives the file that may fill it."""
    folder = suite_folder(shop.results, SUITE)
    kept = shop.path / "kept"
    folder.rename(kept)
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs"):
        _copy(kept, folder)
        yield folder / "ballast"
        (folder / "ballast").unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", str(kept)], check=True)
        _copy(folder, kept)
    folder.rmdir()
    kept.rename(folder)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=source.exists())


def fill(ballast: Path) -> None:
    """Use up the last byte."""
    descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        for size in (2**20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)


def during_training(shop: Workshop) -> Found:
    """The disk fills up after the second checkpoint."""
    with small_disk(shop) as ballast:
        process = shop.start("train", "bridge")
        check(wait_for(lambda: len(shop.checkpoints("bridge")) >= 2, process), shop.said())
        assert process.pid is not None
        with stopped(process.pid):
            before = shop.checkpoints("bridge")
            fill(ballast)
        process.join()
        said = sentence(process.exitcode or 0, shop.said(), FULL)
        check(not shop.run("bridge").done.exists(), "a done.json was written")
        check(shop.checkpoints("bridge")[0] in before, "the checkpoints are gone")
        ballast.unlink()
        shop.finish()
    return Found("both checkpoints", "the steps after the last one", _short(said, shop))


def during_answers(shop: Workshop) -> Found:
    """The disk is full when the answers are to be written."""
    with small_disk(shop) as ballast:
        shop.succeed("train", "bridge")
        fill(ballast)
        said = shop.refuse("evaluate", "bridge", FULL)
        check(not shop.run("bridge").scores.exists(), "a scores.json was written")
        check(not shop.run("bridge").answers.exists(), "half an answers.jsonl was written")
        ballast.unlink()
        shop.finish()
    return Found("the trained policy", "the evaluation", _short(said, shop))


def during_tables(shop: Workshop) -> Found:
    """The disk is full when tidy tables and, after these, tables are to be written."""
    with small_disk(shop) as ballast:
        shop.finish()
        expected = {p.name: p.read_bytes() for p in shop.tables.iterdir()}
        fill(ballast)
        said = shop.refuse("collect", None, FULL)
        shop.refuse("tables", None, FULL)
        left = {p.name: p.read_bytes() for p in shop.tables.iterdir()}
        check(left == expected, f"changed: {[n for n in expected if left.get(n) != expected[n]]}")
        ballast.unlink()
        shop.finish()
    return Found("runs, and the tables of before, whole", "the tables", _short(said, shop))


def read_only(shop: Workshop) -> Found:
    """The suite's folder becomes read-only between training and evaluation, and in training."""
    folder = suite_folder(shop.results, SUITE)
    shop.run("sft").scores.unlink()
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        said = shop.refuse("train", "bridge", "read-only; choose another results folder")
        shop.refuse("evaluate", "sft", "read-only; choose another results folder")
        shop.refuse("tables", None, "missing|read-only")
    shop.finish()
    return Found("everything finished before", "nothing", _short(said, shop))


def _short(said: str, shop: Workshop) -> str:
    return said.replace(f"{shop.path}/", "")
