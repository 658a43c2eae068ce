"""Seconds and memory of a GRPO step from 0.3 to 135 million parameters, beside TRL.

    python -m benchmarks.sizes

Random weights, prompts of 30 and 300 tokens, answers of 12 and 512, all of them of full length;
rollout and update, no grading. One thread. Each point is a process of its own that is forked from
one in which both sides have made a small step: CPU seconds of the second step (of the first where
that took more than :data:`LONG_S`), and how far resident memory rose above what the libraries
hold. A point that does not fit into the machine ends, and is written down as that.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.grpo import NO_TRL, Ours, Theirs, has_trl, set_up_torch
from benchmarks.parts import Numbers, cpu_s, significant, write_part
from benchmarks.random_models import SIZES, make_policy, make_problems

ROWS = {"0.3M": (4, 8), "3M": (2, 8), "20M": (1, 4), "135M": (1, 4)}
"""Prompts and answers to each, by size."""
PROMPTS, ANSWERS = (30, 300), (12, 512)
LONG_S = 2.0
SIDES = ("ours", "theirs")


def resident_mib(key: str) -> float:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {key}; memory can be measured on Linux only.")


def step_of(side: str, folder: Path, size: str, prompt: int, answer: int) -> Callable[[], Any]:
    """One GRPO step of a side. Files that TRL writes go into the folder, which is temporary."""
    prompts, samples = ROWS[size]
    ours = Ours(folder, make_problems(prompts, prompt), samples, answer, forced=True)
    if side == "ours":
        return ours.step
    theirs = Theirs(ours, folder, str(folder / "trl"), forced=True)
    del ours
    return theirs.step


def measured(side: str, folder: Path, size: str, prompt: int, answer: int) -> Numbers:
    """CPU seconds and memory of a step, in this process."""
    # The peak of a forked process begins at what is resident when it is forked.
    before = resident_mib("VmRSS")
    step = step_of(side, folder, size, prompt, answer)
    seconds = cpu_s(step)
    if seconds < LONG_S:
        seconds = cpu_s(step)
    peak = resident_mib("VmHWM") - before
    return {"cpu_s": significant(seconds), "peak_mib": round(peak, 1)}


def forked(work: Callable[[], Numbers], said: Path) -> Numbers:
    """Do the work in a child, which hands its numbers over in a file; or how the child ended."""
    said.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            said.write_text(json.dumps(work()))
        except BaseException as error:
            said.write_text(json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not said.is_file():
        return {"failed": f"ended with signal {os.WTERMSIG(status)}; too little memory?"}
    found: Numbers = json.loads(said.read_text())
    return found


def points(sizes: list[str], prompts: list[int], answers: list[int]) -> list[Numbers]:
    """Every combination, with our numbers and TRL's."""
    sides = SIDES if has_trl() else SIDES[:1]
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_policy(folder / "0.3M", "0.3M")
        for side in sides:  # what follows finds all code loaded
            step_of(side, folder / "0.3M", "0.3M", 30, 2)()
        for size in sizes:
            forked(lambda size=size: _made(folder / size, size), folder / "said")
            for prompt in prompts:
                for answer in answers:
                    point: Numbers = {"size": size, "prompt_tokens": prompt}
                    point |= {"answer_tokens": answer, "rows": ROWS[size][0] * ROWS[size][1]}
                    for side in sides:
                        at = (side, folder / size, size, prompt, answer)
                        point[side] = forked(lambda at=at: measured(*at), folder / "said")
                    print(json.dumps(point), flush=True)
                    found.append(point)
    return found


def _made(folder: Path, size: str) -> Numbers:
    """In a child, whose memory goes with it."""
    return {"n_parameters": make_policy(folder, size).n_parameters}


def ratios_of(found: list[Numbers]) -> dict[str, float]:
    """TRL's time and memory over ours, at the points where both are."""
    ratios = {}
    for point in found:
        ours, theirs = point["ours"], point.get("theirs", {})
        name = f"{point['size']}_{point['prompt_tokens']}_{point['answer_tokens']}"
        for what, key in (("time", "cpu_s"), ("memory", "peak_mib")):
            if ours.get(key) and theirs.get(key):
                ratios[f"{name}_{what}"] = theirs[key] / ours[key]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--prompts", nargs="*", type=int, default=list(PROMPTS))
    parser.add_argument("--answers", nargs="*", type=int, default=list(ANSWERS))
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    set_up_torch()
    begin = time.perf_counter()
    found = points(arguments.sizes, arguments.prompts, arguments.answers)
    print(f"{time.perf_counter() - begin:.0f} s")
    missing = [] if has_trl() else [NO_TRL]
    missing += [
        f"{p['size']}, prompts of {p['prompt_tokens']}, answers of {p['answer_tokens']}, {side}: "
        f"{p[side]['failed']}"
        for p in found
        for side in SIDES
        if "failed" in p.get(side, {})
    ]
    write_part(arguments.write, {"points": found}, ratios_of(found), missing)


if __name__ == "__main__":
    main()
