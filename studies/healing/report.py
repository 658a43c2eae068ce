"""The tables of docs/studies/healing.md.

    python -m studies.healing.report results/healing

Reads the suite's tidy tables and the policies of its runs. Worlds are the units, with one seed
each: differences are paired, intervals are Student's t over worlds (so over base models, training
data and runs, on these questions), and that of the restored share is Fieller's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.ratios import Ratio
from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import read_yaml
from studies.healing.sweep import INSIDE, OUTSIDE, Stage, Sweep, read_sweep
from studies.healing.weights import Turned, turned_by_seed
from studies.worlds import Array, Mean, over_worlds, prediction_line

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
Spectra = Mapping[tuple[Stage, int], Sequence[Turned]]


def quantity(name: str, sweep: Sweep, spectra: Spectra) -> Mean | None:
    """A predicted quantity with its interval; None where it does not exist."""
    first, last = sweep.steps("healed")[0], sweep.steps("healed")[-1]
    if name == "restored":
        share = sweep.restored(last)
        return None if share is None else Mean(share.value, share.low, share.high)
    angles = {key: np.array([t.angle_deg for t in own]) for key, own in spectra.items()}
    noise = np.array([t.angle_gaussian_deg for t in spectra["sft", last]])
    values: dict[str, Array] = {
        "forgotten": sweep.forgotten(),
        "kept_inside": sweep.reported("sft", sweep.steps("sft")[-1], INSIDE)
        - sweep.reported("sft", sweep.peak(OUTSIDE), INSIDE),
        "healed": sweep.gain(last, OUTSIDE),
        "window": sweep.gain(last, OUTSIDE) - sweep.gain(first, OUTSIDE),
        "sft_turning": angles["sft", last] - noise,
        "rl_turning": angles["healed", last] - angles["sft", last],
    }
    return over_worlds(values[name])


def _judged(prediction: Mapping[str, Any], sweep: Sweep, spectra: Spectra) -> str:
    """A line of the table of predictions."""
    name = str(prediction["quantity"])
    found = quantity(name, sweep, spectra)
    if found is None:  # nothing was forgotten before it
        return prediction_line(prediction, Mean(np.nan, np.nan, np.nan), "nothing to restore")
    share = Ratio(found.mean, found.low, found.high)
    shown = _ratio(share) if name == "restored" else str(found)
    return prediction_line(prediction, found, shown)


def tables(sweep: Sweep, spectra: Spectra, predictions: Sequence[Mapping[str, Any]]) -> str:
    """The tables as Markdown."""
    peak = sweep.peak(OUTSIDE)
    lines = [
        f"{len(sweep.seeds)} worlds. Out of distribution the best SFT checkpoint is that of {peak} "
        f"steps, in distribution that of {sweep.peak(INSIDE)}, chosen on one half of the "
        "questions.",
        f"On the other half the last checkpoint differs from the best one by "
        f"{over_worlds(sweep.forgotten())} points out of distribution.",
        "",
        *_accuracies(sweep),
        "",
        *_turnings(spectra),
        "",
        "| predicted | limit | believed | found | |",
        "|---|---|---:|---:|---|",
        *(_judged(p, sweep, spectra) for p in predictions),
    ]
    return "\n".join(lines) + "\n"


def _accuracies(sweep: Sweep) -> list[str]:
    lines = [
        "| SFT steps | in | out | in, after RL | out, after RL | RL's gain out | restored |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    healed = sweep.steps("healed")
    for steps in sweep.steps("sft"):
        cells = [_level(sweep.whole("sft", steps, b)) for b in (INSIDE, OUTSIDE)]
        if steps in healed:
            cells += [_level(sweep.whole("healed", steps, b)) for b in (INSIDE, OUTSIDE)]
            share = sweep.restored(steps)
            cells += [
                str(over_worlds(sweep.gain(steps, OUTSIDE))),
                "" if share is None else _ratio(share),
            ]
        else:
            cells += [""] * 4
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    return lines


def _turnings(spectra: Spectra) -> list[str]:
    lines = [
        "| change | size, % | angle | noise of equal norm | own spectrum, random vectors "
        "| values, % | noise | stretched, % | turned within, % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (stage, steps), own in spectra.items():
        name = f"SFT, {steps} steps" if stage == "sft" else f"RL after {steps} steps"

        def mean(field: str, own: Sequence[Turned] = own) -> float:
            return float(np.mean([getattr(turned, field) for turned in own]))

        percent = [100 * mean(f) for f in ("values", "values_gaussian", "stretched", "turned")]
        degrees = [mean(f) for f in ("angle_deg", "angle_gaussian_deg", "angle_turned_deg")]
        lines.append(
            f"| {name} | {100 * mean('relative_norm'):.2f} | "
            + " | ".join(f"{value:.2f}" for value in (*degrees, *percent))
            + " |"
        )
    return lines


def _level(values: Array) -> str:
    mean = over_worlds(values)
    return f"{mean.mean:.1f} [{mean.low:.1f}, {mean.high:.1f}]"


def _ratio(share: Ratio) -> str:
    limits = f"[{share.low:.2f}, {share.high:.2f}]" if share.bounded else "anything"
    return f"{share.value:.2f} {limits}"


def spectra_of(plan: Plan, results: Path, sweep: Sweep) -> Spectra:
    """Changes of weights of every row that was trained."""
    stages: tuple[Stage, Stage] = ("sft", "healed")
    return {
        (stage, steps): turned_by_seed(plan, results, stage, steps, sweep.seeds)
        for stage in stages
        for steps in sweep.steps(stage)
        if stage == "healed" or steps
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="RL after SFT, in and out of distribution.")
    parser.add_argument("suite", type=Path, help="the suite's folder of results")
    chosen = parser.parse_args(arguments)
    tidy = load_tidy(chosen.suite / "tidy")
    sweep = read_sweep(tidy)
    plan = load_plan(tidy.suite, root=Path())
    spectra = spectra_of(plan, chosen.suite.parent, sweep)
    print(tables(sweep, spectra, read_yaml(PREDICTIONS)["healing"]), end="")


if __name__ == "__main__":
    main()
