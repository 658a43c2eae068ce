"""What does an SFT step cost next to an RL step?

    python benchmarks/step_cost.py --suite laptop

Both kinds alternate within the same runs of ``alternating``, so the ratio is free of
differences between machines or moments. Seconds of rollout, grading and update count; probes and
checkpoints do not. The ratio is ``cold_start``'s option ``sft_step_cost``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from bridge.store.records import read_jsonl

COUNTED = ("rollout", "grade", "update", "sync")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    runs = sorted((arguments.results / arguments.suite / "runs").glob("*/*/alternating/seed*"))
    if not runs:
        raise SystemExit(f"{arguments.suite} has no finished run of 'alternating' to measure on.")
    print(f"{'run':40} {'SFT step, s':>12} {'RL step, s':>12} {'ratio':>7}")
    ratios = []
    for run in runs:
        kinds = {r["step"]: r["kind"] for r in read_jsonl(run / "dynamics.jsonl")}
        seconds: dict[str, list[float]] = {"sft": [], "rl": []}
        for row in read_jsonl(run / "timings.jsonl"):
            if (kind := kinds[row["step"]]) in seconds:
                seconds[kind].append(sum(row["seconds"].get(stage, 0.0) for stage in COUNTED))
        sft, rl = (statistics.median(seconds[k]) for k in ("sft", "rl"))
        ratios.append(sft / rl)
        name = "/".join(run.parts[-4:])
        print(f"{name:40} {sft:12.3f} {rl:12.3f} {sft / rl:7.3f}")
    print(f"median ratio over {len(ratios)} runs: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
