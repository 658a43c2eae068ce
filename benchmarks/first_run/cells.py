"""Cells of the pocket suite on the time that is left, by the workflow's own jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import TAIL
from bridge.plan.grid import Plan, RunSpec, load_plan
from bridge.store.records import ROOT, read_json
from bridge.tasks.real.sources import DATA_ROOT_VARIABLE

GSM8K: dict[str, Any] = {
    "datasets": {"gsm8k": {"family": "gsm8k", "max_response_tokens": 200}},
    "grid": [
        {
            "models": ["smollm2-135m-warm"],
            "datasets": ["gsm8k"],
            "methods": ["base", "sft", "rl_zero", "bridge"],
            "seeds": [0],
        }
    ],
}
ORDER = ("base", "sft", "rl_zero", "bridge", "mixing", "cold_start")
"""Rows that come first; the others follow."""


WORKERS = 12
"""Cells at a time on a GPU: one alone spends most of its time on the way to the card."""


def pocket_cells(results: Path, left_s: Callable[[], float], *, small: bool) -> dict[str, Any]:
    """Make cells until the time is over: the word problems seed by seed, then GSM8K. Without a data
    folder, and on a processor, the smoke suite.

    Weights are deleted once they have been evaluated. On a GPU several cells share the card, so
    their seconds are those of cells side by side.

    Returns:
        ``suite``, ``workers``, ``prepare`` and ``cells``: accuracies and seconds of each, or why it
        has none.
    """
    data = bool(os.environ.get(DATA_ROOT_VARIABLE)) and not small
    suite = "pocket" if data else "pocket_smoke"
    wanted = list(_wanted(suite, data=data))
    workers = 1 if small else max(1, min(WORKERS, (os.cpu_count() or 1) - 2))
    found: dict[str, Any] = {"suite": suite, "workers": workers}
    found["prepare"] = _prepared(suite, wanted[0][0].model, results, left_s())

    def cell(asked: tuple[RunSpec, dict[str, Any]]) -> dict[str, Any] | None:
        return _cell(*asked, results, left_s) if left_s() >= 20 else None

    names = [f"{spec.dataset}/{spec.label}/seed{spec.seed}" for spec, _ in wanted]
    with ThreadPoolExecutor(workers) as pool:
        made = dict(zip(names, pool.map(cell, wanted), strict=True))
    found["cells"] = {name: numbers for name, numbers in made.items() if numbers is not None}
    return found


def _wanted(suite: str, *, data: bool) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
    plans: list[tuple[Plan, dict[str, Any]]] = [(load_plan(suite, root=ROOT), {})]
    if data:
        plans.append((load_plan(suite, root=ROOT, overrides=GSM8K), GSM8K))
    runs = [(spec, over) for plan, over in plans for spec in plan.runs]
    place = {label: i for i, label in enumerate(ORDER)}
    runs.sort(key=lambda r: (bool(r[1]), r[0].seed, place.get(r[0].label, len(ORDER))))
    yield from runs


def _prepared(suite: str, model: str, results: Path, seconds: float) -> dict[str, Any]:
    begin = time.monotonic()
    said = _job(["prepare", "--suite", suite, "--model", model], results, seconds)
    base = results / suite / "models" / model / "base.json"
    record = read_json(base) if base.is_file() else {"failed": said}
    return {**record, "wall_seconds": round(time.monotonic() - begin, 1)}


def _cell(
    spec: RunSpec, overrides: dict[str, Any], results: Path, left_s: Callable[[], float]
) -> dict[str, Any]:
    """Train and evaluate one run."""
    names = ["--suite", spec.suite, "--model", spec.model, "--dataset", spec.dataset]
    names += ["--method", spec.label, "--seed", str(spec.seed)]
    names += ["--overrides", json.dumps(overrides)]
    folder = spec.folder(results)
    begin = time.monotonic()
    for job, record in (("train", folder.done), ("evaluate", folder.scores)):
        said = _job([job, *names], results, left_s())
        if not record.is_file():
            return {"failed": f"{job}: {said}"}
    if not folder.policy.is_symlink():
        for weights in folder.policy.glob("*.safetensors"):
            weights.unlink()
    done, scores = read_json(folder.done), read_json(folder.scores)
    return {
        "status": scores["status"],
        "accuracy": {
            name: [counts["correct"], counts["n"]] for name, counts in scores["benchmarks"].items()
        },
        "tokens": done["tokens"],
        "train_seconds": done["seconds"],
        "memory_by_stage_gib": done["memory_by_stage_gib"],
        "wall_seconds": round(time.monotonic() - begin, 1),
    }


def _job(words: list[str], results: Path, seconds: float) -> str:
    """One command of ours; the last line that it said."""
    command = [sys.executable, "-m", "bridge", *words, "--results", str(results)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(5.0, seconds)
        )
    except subprocess.TimeoutExpired:
        return "the time was over"
    if done.returncode != 0:
        print(done.stderr[-TAIL:], file=sys.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit {done.returncode}"
