"""What it takes before anything is trained, and after everything is: CPU seconds and memory.

    python -m benchmarks.planning                      print; about five minutes
    python -m benchmarks.planning --checkout FOLDER    of another checkout

The grids are `matrix` with 3, 42 and 417 seeds, hence 72, 1,008 and 10,008 runs, planned with
`snakemake -n` in a temporary folder. `plan_72_long` has 100,000 steps a run instead of 40. `cell`
is a training job of the largest grid up to its refusal of `--expect`, so imports, suite and its own
run. `collect_10000` and `status_10000` read 10,000 finished runs of `smoke` that the tests'
fixtures wrote (7 questions, 11 answers, 4 steps each). How a report opens: report_opening.py.

CPU seconds are user and system time of a process with its children, medians where it runs in
seconds; they depend less on what else the machine does than `wall_s`, which is beside them. Peaks
below this program's own, about 50 MiB, read as that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import yaml

from benchmarks.parts import Numbers, write_part
from bridge.plan.grid import load_plan
from bridge.store.records import ROOT
from bridge.store.schema import read_yaml
from tests.fixtures.run_folders import write_suite

GOALS_S = {
    "help": 0.15, "status": 0.3, "plan_72": 3, "plan_1008": 8, "plan_10008": 60,
    "collect_10000": 60,
}  # fmt: skip
GOALS_MIB = {"plan_10008": 1000, "collect_10000": 2000}
SEEDS = {"72": 3, "1008": 42, "10008": 417}
"""Seeds of each grid of `matrix`."""
FINISHED_SEEDS = 2000
"""Of `smoke`, which has five rows."""
LONG = 100_000
REPEATS = 3


def make_grid(folder: Path, suite: str, n_seeds: int, **options: int) -> Path:
    """A folder that holds a suite with so many seeds, and nothing else; ``options`` replace those
    of its methods."""
    raw = read_yaml(ROOT / "suites" / f"{suite}.yaml")
    for block in raw["grid"]:
        block["seeds"] = list(range(n_seeds))
    for row in raw["methods"].values():
        known = row.get("options", {})
        known.update({name: value for name, value in options.items() if name in known})
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / f"{suite}.yaml").write_text(yaml.safe_dump(raw, default_flow_style=None))
    (folder / "config.yaml").write_text(f"suite: {suite}\n")
    return folder


def finish_grid(folder: Path) -> None:
    """Write finished runs for the folder's suite, without waiting for the disk."""
    (suite,) = (path.stem for path in (folder / "suites").iterdir())
    with patch("os.fsync"):
        write_suite(load_plan(suite, root=folder), folder / "results")


def measure(
    words: Sequence[str], folder: Path, checkout: Path, *, repeats: int = 1, code: int = 0
) -> Numbers:
    """Run Python with these words and a checkout's package; medians over repeats.

    Raises:
        SystemExit: it ended with an unexpected exit code; with the last of what it said.
    """
    found = []
    for _ in range(repeats):
        log = folder / "said.log"
        start = time.perf_counter()
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
                stdout=stream,
                stderr=stream,
            )
            _, status, used = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != code:
            raise SystemExit(f"{' '.join(words)} ended with {child.returncode}: {_end(log)}")
        found.append((used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024))
    cpu_s, wall_s, mib = (statistics.median(values) for values in zip(*found, strict=True))
    return {"cpu_s": round(cpu_s, 3), "wall_s": round(wall_s, 3), "peak_mib": round(mib)}


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-500:]


def measurements(
    folder: Path, checkout: Path, *, seeds: dict[str, int] = SEEDS, finished: int = FINISHED_SEEDS
) -> Iterator[tuple[str, Numbers]]:
    """Name and numbers of each measurement that starts a program."""
    bridge = ("-m", "bridge")
    plan = ("-m", "snakemake", "-n", "-s", str(checkout / "Snakefile"), "-d", ".")
    grids = {name: make_grid(folder / name, "matrix", n) for name, n in seeds.items()}
    first, last = next(iter(grids.values())), list(grids.values())[-1]
    yield "help", measure((*bridge, "--help"), first, checkout, repeats=REPEATS)
    yield "status", measure((*bridge, "status"), first, checkout, repeats=REPEATS)
    cell = ("--model", "tiny-qwen", "--dataset", "chains", "--method", "sft", "--seed", "0")
    words = (*bridge, "train", *cell, "--expect", "another")
    yield "cell", measure(words, last, checkout, repeats=REPEATS, code=2)
    for name, grid in grids.items():
        repeats = REPEATS if seeds[name] < 100 else 1
        yield f"plan_{name}", measure(plan, grid, checkout, repeats=repeats)
    name, n = next(iter(seeds.items()))
    long = make_grid(folder / "long", "matrix", n, steps=LONG, sft_steps=LONG, rl_steps=LONG)
    long_name = f"plan_{name}_long"
    yield long_name, measure(plan, long, checkout, repeats=REPEATS)
    done = make_grid(folder / "done", "smoke", finished)
    finish_grid(done)
    yield f"status_{5 * finished}", measure((*bridge, "status"), done, checkout)
    yield f"collect_{5 * finished}", measure((*bridge, "collect"), done, checkout)


def ratios_of(numbers: Numbers) -> dict[str, float]:
    """Goals over what was measured, and how planning grows with steps."""
    ratios = {name: goal / numbers[name]["cpu_s"] for name, goal in GOALS_S.items()}
    ratios |= {
        f"{name}_memory": goal / numbers[name]["peak_mib"] for name, goal in GOALS_MIB.items()
    }
    ratios["steps"] = numbers["plan_72"]["cpu_s"] / numbers["plan_72_long"]["cpu_s"]
    return ratios


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--quick", action="store_true", help="small grids, as a smoke test")
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    small = {"seeds": {"24": 1}, "finished": 1} if arguments.quick else {}
    with tempfile.TemporaryDirectory() as name:
        numbers: Numbers = {}
        for key, value in measurements(Path(name), arguments.checkout.resolve(), **small):
            print(f"{key:16} {json.dumps(value)}", flush=True)
            numbers[key] = value
    write_part(arguments.write, numbers, {} if arguments.quick else ratios_of(numbers))


if __name__ == "__main__":
    main()
