"""How long do a rollout, an update, a GRPO step and SFT take, beside TRL and transformers?

    python -m pip install --no-deps --target .cache/trl trl==1.16.0
    PYTHONPATH=.cache/trl python -m benchmarks.against_trl POLICY

POLICY is a checkpoint folder of a tiny model, such as ``results/matrix/models/tiny-llama`` (not
``tiny-qwen``: TRL looks for experts in its architecture). First both trainers take the loss and the
gradient of one batch, which must agree; then everything is timed by turns in one process, on the
same weights, prompts and settings. Answers end where the policy ends them (``natural``), or never
before the limit (``forced``). CPU seconds: the medians, and the median of the ratios by turn.
SFT is on demonstrations of their own lengths, TRL's with packing. Without TRL the rollouts are
timed beside generate, and the rest is left out and said to be.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.grpo import (
    NO_TRL,
    Library,
    Ours,
    Theirs,
    check_agreement,
    has_trl,
    set_up_torch,
    totals_of,
)
from benchmarks.parts import Numbers, by_turns, write_part
from benchmarks.sft import sft_pair
from bridge.machine.provenance import versions
from bridge.tasks.registry import load_family

PROMPTS, SAMPLES = 8, 8
LIMITS = {"natural": 72, "forced": 64}
"""Tokens of an answer at most."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("policy", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    numbers: Numbers = {"threads": arguments.threads, "versions": versions("trl")}
    for name in LIMITS:
        numbers[name] = measured(arguments.policy, name, arguments.rounds)
    if has_trl():
        with tempfile.TemporaryDirectory() as output:
            pair, tokens = sft_pair(arguments.policy, output)
            numbers["sft"] = {"tokens": tokens, "epoch": by_turns(pair, arguments.rounds)}
    ratios = {
        f"{name}_{what}": found["ratio"]
        for name in (*LIMITS, "sft")
        for what, found in numbers.get(name, {}).items()
        if isinstance(found, dict) and "ratio" in found
    }
    write_part(arguments.write, numbers, ratios, [] if has_trl() else [NO_TRL])


def measured(folder: Path, name: str, rounds: int) -> Numbers:
    """Rollout, update and step with natural or forced lengths."""
    forced = name == "forced"
    family = load_family("chains")
    problems = family.dataset(family.Options()).train[:PROMPTS]
    ours = Ours(folder, problems, SAMPLES, LIMITS[name], forced=forced)
    batch = ours.batch(ours.rollout())
    found: Numbers = totals_of(batch)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]]
    with tempfile.TemporaryDirectory() as output:
        if has_trl():
            theirs = Theirs(ours, folder, output, forced=forced)
            found["apart"] = check_agreement(ours, theirs, batch)
            pairs = {
                "rollout": (ours.rollout, theirs.rollout),
                "update": (lambda: ours.update(batch), lambda: theirs.update(batch)),
                "step": (ours.step, theirs.step),
            }
        else:
            pairs = {"rollout": (ours.rollout, Library(ours, folder, forced=forced).rollout)}
        for what, pair in pairs.items():
            found[what] = by_turns(pair, rounds)
    return found


if __name__ == "__main__":
    main()
