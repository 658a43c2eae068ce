"""Faults of the trainer: kills, damaged or foreign checkpoints, NaN, a clock that jumps."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file, save_file

from bridge.store.records import read_json, read_jsonl, write_json
from tests.drills.base import Found
from tests.drills.workshop import (
    CHECKPOINT_EVERY,
    Workshop,
    check,
    kill,
    sentence,
    wait_for,
)

KILLS = 30
WRITES = 10
"""Kills, of those, at the sight of a checkpoint that is being written."""


def kills(shop: Workshop, n: int = KILLS, writes: int = WRITES) -> Found:
    """SIGKILL at random moments and inside checkpoint writes, over as many runs as that takes."""
    rng = random.Random(11)
    begin = time.monotonic()
    shop.succeed("train", "bridge")
    length_s = time.monotonic() - begin
    expected = shop.run("bridge").dynamics.read_bytes()
    shutil.rmtree(shop.run("bridge").path)
    places: Counter[str] = Counter()
    finished = 0
    while places.total() < n:
        process = shop.start("train", "bridge")
        inside = places["inside a checkpoint write"] < writes
        if inside:
            wait_for(lambda: _being_written(shop) != [], process)
        else:
            process.join(rng.uniform(0, length_s))
        if kill(process):
            places[_place(shop, bool(_being_written(shop)))] += 1
        else:
            check(process.exitcode == 0, f"exit status {process.exitcode}: {shop.said()[-300:]}")
            check(shop.run("bridge").dynamics.read_bytes() == expected, "the dynamics changed")
            finished += 1
            shutil.rmtree(shop.run("bridge").path)
    shop.finish()
    found = ", ".join(f"{count} {place}" for place, count in places.items())
    return Found(
        f"every finished checkpoint; {n} kills ({found}) over {finished + 1} runs",
        f"the steps after the last checkpoint, at most {CHECKPOINT_EVERY}",
    )


def few_kills(shop: Workshop) -> Found:
    """The same with four kills."""
    return kills(shop, 4, 2)


def _being_written(shop: Workshop) -> list[Path]:
    return list(shop.run("bridge").resume.glob(".step*.tmp"))


def _place(shop: Workshop, half_written: bool) -> str:
    if half_written:
        return "inside a checkpoint write"
    if shop.run("bridge").done.exists():
        return "after done.json"
    return "between checkpoints" if shop.checkpoints("bridge") else "before the first checkpoint"


def _stop_with_checkpoints(shop: Workshop, n: int = 2) -> list[str]:
    """Kill a run that has so many checkpoints; their names."""
    process = shop.start("train", "bridge")
    wait_for(lambda: len(shop.checkpoints("bridge")) >= n, process)
    check(kill(process), "the run ended before it could be killed")
    return shop.checkpoints("bridge")


def flipped_byte(shop: Workshop) -> Found:
    """One bit of the newest checkpoint's tensors."""
    return _damaged(shop, "tensors.safetensors", _flip)


def truncated(shop: Workshop) -> Found:
    """The newest checkpoint's tensors cut in half."""
    return _damaged(shop, "tensors.safetensors", lambda p: os.truncate(p, p.stat().st_size // 2))


def manifest_lost(shop: Workshop) -> Found:
    """The newest checkpoint's manifest removed."""
    return _damaged(shop, "manifest.json", Path.unlink)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(bytes(content))


def _damaged(shop: Workshop, name: str, damage) -> Found:
    before, newest = _stop_with_checkpoints(shop)[-2:]
    damage(shop.run("bridge").resume / newest / name)
    said = shop.succeed("train", "bridge")
    lines = [line for line in said.splitlines() if line.startswith("checkpoint ")]
    check(len(lines) == 1 and newest in lines[0], f"said: {said[-300:]}")
    check("using the one before it" in lines[0], f"said: {lines}")
    shop.finish()
    step = int(before.removeprefix("step"))
    words = lines[0].partition(f"{newest}: ")[2]
    return Found("the checkpoint before it", f"the steps after step {step}", words)


def other_base(shop: Workshop) -> Found:
    """The base model was made anew, with other weights, while the run was interrupted."""
    _stop_with_checkpoints(shop)
    kept = shop.path / "kept"
    shutil.copytree(shop.base, kept)
    tensors = load_file(shop.base / "model.safetensors")
    save_file(
        {n: t + 1e-3 for n, t in tensors.items()}, shop.base / "model.safetensors", {"format": "pt"}
    )
    record = read_json(shop.base / "base.json")
    write_json(shop.base / "base.json", record | {"hash": "0" * 16})
    said = shop.refuse("train", "bridge", "another base model .* delete .*resume")
    shutil.rmtree(shop.base)
    kept.rename(shop.base)
    shop.finish()
    return Found("all checkpoints", "nothing, once the old base model was back", _short(said, shop))


def other_code(shop: Workshop) -> Found:
    """The training code was edited while the run was interrupted."""
    _stop_with_checkpoints(shop)
    said = sentence(
        *shop.do("train", "bridge", setup=_edit_code),
        "another version of the training code .* delete .*resume",
    )
    shop.finish()
    return Found("all checkpoints", "nothing, once the old code was back", _short(said, shop))


def _edit_code() -> None:
    """In the job's process: one function of the trainer's sources reads otherwise."""
    from bridge.plan import fingerprint

    read = fingerprint._text

    def edited(path: Path) -> str:
        text = read(path)
        return text + "\nEDITED = True\n" if path.name == "trainer.py" else text

    fingerprint._text = edited


def not_finite(shop: Workshop) -> Found:
    """The loss of one run is not a number: the run is a result of its own, the others go on."""
    status, said = shop.do("train", "bridge", setup=_nan_after_step_5)
    check(status == 0, f"exit status {status}: {said[-300:]}")
    done = read_json(shop.run("bridge").done)
    check(done["status"] == "diverged", f"the status is {done['status']}")
    shop.finish()
    text = (shop.tables / "main.md").read_text()
    check("diverged" in text, "the main table does not say so")
    scores = read_json(shop.run("bridge").scores)
    check(scores["status"] == "diverged" and scores["benchmarks"] == {}, "it has scores")
    # The same suite again without the fault: nothing of it may be left.
    shutil.rmtree(shop.run("bridge").path)
    shop.finish()
    return Found(
        "the other run; the table says 'diverged', no score", "the diverged run", done["reason"]
    )


def _nan_after_step_5() -> None:
    from bridge.run.state import Run

    step = Run.step

    def poisoned(self: Run):
        if self.counters.step == 5:
            next(iter(self.policy.parameters["base"])).data.fill_(float("nan"))
            self.policy.changed()
        return step(self)

    Run.step = poisoned


def jumping_clock(shop: Workshop) -> Found:
    """The wall clock leaps by a day, forwards or backwards, at every look."""
    before = time.monotonic()
    status, said = shop.do("train", "bridge", setup=_jump)
    limit_s = time.monotonic() - before
    check(status == 0, f"exit status {status}: {said[-300:]}")
    done = read_json(shop.run("bridge").done)
    seconds = [done["seconds"]["total"], *done["seconds"].values()]
    seconds += [row["elapsed_s"] for row in read_jsonl(shop.run("bridge").timings)]
    check(all(0 <= s <= limit_s for s in seconds), f"seconds {min(seconds)} to {max(seconds)}")
    status, said = shop.do("evaluate", "bridge", setup=_jump)
    check(status == 0, f"exit status {status}: {said[-300:]}")
    seconds = list(read_json(shop.run("bridge").scores)["seconds"].values())
    check(all(0 <= s <= limit_s * 10 for s in seconds), f"seconds {seconds}")
    shop.finish()
    return Found("everything; all durations are of the monotonic clock", "nothing")


def _jump() -> None:
    """In the job's process: time.time and what is made of it leap about."""
    real, rng = time.time, random.Random(3)
    time.time = lambda: real() + rng.choice((-86_400, 86_400))
    localtime, gmtime = time.localtime, time.gmtime
    time.localtime = lambda s=None: localtime(time.time() if s is None else s)
    time.gmtime = lambda s=None: gmtime(time.time() if s is None else s)


def _short(said: str, shop: Workshop) -> str:
    return said.replace(f"{shop.results}/", "").replace("results/", "")
