"""Two rows with many seeds, and what single runs would have said: docs/studies/referee.md.

    python -m studies.referee.pair results/pair/tidy

Reads the tidy tables of suites/pair.yaml. The difference is paired by world and seed; seeds of a
world are averaged, and the interval is Student's t over worlds. How the verdict would have come
about world after world is a confidence sequence (:mod:`bridge.analysis.numbers.sequential`).

"Where nothing is": a run of mixing plays the new method and other runs of mixing in the same world
play its baseline and its variants, judged as papers do, by the average of single runs. A case is a
choice of a baseline run and of m others of which the best is reported; their share with a gain of
at least so many points is worked out in each world over all such choices.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.sequential import Look, look
from bridge.analysis.numbers.uncertainty import MARGINS
from bridge.analysis.numbers.worlds import world_and_seed_sd
from bridge.store.schema import read_yaml
from studies.referee.asymmetry import PREDICTIONS
from studies.worlds import Array, Mean, over_worlds, prediction_line, run_accuracies

GAINS = (2.6, 3.8)
"""Gains, in points, that papers of the field report over their baselines."""


def found_gain(runs: Array, variants: int, gain: float) -> float:
    """Share of cases in which the best of `variants` runs beats another one by `gain` or more.

    Args:
        runs: accuracies of runs of one method in one world.

    Raises:
        ValueError: there are too few runs.
    """
    n = len(runs)
    if variants + 1 > n:
        raise ValueError(f"{variants} variants and a baseline need more than {n} runs")
    hits = sum(
        max(runs[list(chosen)]) - runs[baseline] >= gain
        for baseline in range(n)
        for chosen in combinations([i for i in range(n) if i != baseline], variants)
    )
    return hits / (n * comb(n - 1, variants))


def looks(difference: Array, margin: float) -> list[Look]:
    """The state after each world."""
    return [look(difference[:n], margin) for n in range(2, len(difference) + 1)]


def tables(runs: Mapping[str, Array], predictions: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    (left, first), (right, second) = list(runs.items())[::-1]
    difference = first - second
    by_world = difference.mean(1)
    mean, margin = over_worlds(by_world), MARGINS[-1] * 100
    world_sd, seed_sd = world_and_seed_sd(difference)
    n_worlds, n_seeds = difference.shape
    lines = [
        f"{left} minus {right}: {mean} points over {n_worlds} worlds with {n_seeds} seeds each.",
        f"Standard deviation of a difference: {world_sd:.1f} points between worlds, {seed_sd:.1f} "
        "between the seeds of a world (questions included).",
        "",
        "| worlds | mean | confidence sequence | |",
        "|---:|---:|---|---|",
    ]
    for found in looks(by_world, margin):
        low, high = found.mean - found.half_width, found.mean + found.half_width
        span = f"[{low:+.1f}, {high:+.1f}]" if np.isfinite(low) else "everything"
        lines.append(f"| {found.n} | {found.mean:+.1f} | {span} | {found.decision} |")
    lines += ["", "| best of | " + " | ".join(f"gain of {g} or more" for g in GAINS) + " |"]
    lines += ["|---:|" + "---:|" * len(GAINS)]
    for variants in range(1, n_seeds):
        shares = [_share(runs[right], variants, gain) for gain in GAINS]
        lines.append(f"| {variants} | " + " | ".join(map(_percent, shares)) + " |")
    lines += ["", "| predicted | limit | believed | found | |", "|---|---|---:|---:|---|"]
    lines += [prediction_line(p, mean, str(mean)) for p in predictions["pair"]]
    for p in predictions["nothing"]:
        share = _share(runs[right], int(p["variants"]), float(p["gain"]))
        lines.append(prediction_line(p, share, _percent(share)))
    return "\n".join(lines) + "\n"


def _share(runs: Array, variants: int, gain: float) -> Mean:
    return over_worlds(np.array([found_gain(own, variants, gain) for own in runs]))


def _percent(share: Mean) -> str:
    return f"{100 * share.mean:.0f} % [{100 * max(share.low, 0):.0f}, {100 * share.high:.0f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Two rows with many seeds.")
    parser.add_argument("tidy", type=Path)
    chosen = parser.parse_args(arguments)
    print(tables(run_accuracies(load_tidy(chosen.tidy)), read_yaml(PREDICTIONS)), end="")


if __name__ == "__main__":
    main()
