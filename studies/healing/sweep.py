"""Accuracies along the sweep: SFT for so many steps, and the same RL from there.

A row's number is its steps of SFT: ``sft_32`` ends there, ``healed_32`` goes on with RL; ``base``
and ``rl_zero`` are the two without SFT. The checkpoint where out-of-distribution accuracy peaks is
a maximum over noisy values, so it is chosen on one half of the questions and everything that is
said about it is measured on the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bridge.analysis.numbers.frames import Tidy, TidyError
from bridge.analysis.numbers.ratios import Ratio, ratio_of_means
from studies.worlds import Array

Stage = Literal["sft", "healed"]
Half = Literal["choose", "report"]
INSIDE, OUTSIDE = "points", "points_faces"
_ROW = re.compile(r"(sft|healed)_(\d+)")
_WITHOUT_SFT: Mapping[str, Stage] = {"base": "sft", "rl_zero": "healed"}


def row_of(stage: Stage, steps: int) -> str:
    """Name of the suite's row."""
    if steps:
        return f"{stage}_{steps}"
    return {"sft": "base", "healed": "rl_zero"}[stage]


def stage_of(row: str) -> tuple[Stage, int] | None:
    """Stage and steps of SFT of a row; None for a row that is not of the sweep."""
    if row in _WITHOUT_SFT:
        return _WITHOUT_SFT[row], 0
    found = _ROW.fullmatch(row)
    if found is None:
        return None
    return ("sft" if found[1] == "sft" else "healed"), int(found[2])


@dataclass(frozen=True)
class Sweep:
    """Greedy accuracy in points, `[seeds]`, by stage, SFT steps, benchmark and half.

    Each seed has a world of its own.
    """

    accuracy: Mapping[tuple[Stage, int, str, Half], Array]
    seeds: tuple[int, ...]

    def steps(self, stage: Stage) -> list[int]:
        """SFT steps at which there is a row of the stage, from the fewest."""
        return sorted({steps for s, steps, *_ in self.accuracy if s == stage})

    def whole(self, stage: Stage, steps: int, benchmark: str) -> Array:
        """Accuracy over all questions; the halves have one size, or differ by one question."""
        halves: tuple[Half, Half] = ("choose", "report")
        return np.asarray(
            np.mean([self.accuracy[stage, steps, benchmark, half] for half in halves], axis=0)
        )

    def peak(self, benchmark: str) -> int:
        """SFT steps of the best checkpoint on the choosing half, mean over seeds; of equals the
        first."""
        means = {k: self.accuracy["sft", k, benchmark, "choose"].mean() for k in self.steps("sft")}
        return max(means, key=lambda k: (means[k], -k))

    def reported(self, stage: Stage, steps: int, benchmark: str) -> Array:
        """Accuracy on the reporting half."""
        return self.accuracy[stage, steps, benchmark, "report"]

    def forgotten(self) -> Array:
        """Out of distribution: last checkpoint minus peak, `[seeds]`."""
        last = self.steps("sft")[-1]
        before = self.reported("sft", self.peak(OUTSIDE), OUTSIDE)
        return self.reported("sft", last, OUTSIDE) - before

    def gain(self, steps: int, benchmark: str) -> Array:
        """What RL adds to a checkpoint, on all questions, `[seeds]`."""
        return self.whole("healed", steps, benchmark) - self.whole("sft", steps, benchmark)

    def restored(self, steps: int) -> Ratio | None:
        """Share of what was forgotten out of distribution that RL from a checkpoint brings back;
        None at the peak itself and before it, where nothing was forgotten yet."""
        peak = self.peak(OUTSIDE)
        if steps <= peak:
            return None
        late = self.reported("sft", steps, OUTSIDE)
        lost = self.reported("sft", peak, OUTSIDE) - late
        if lost.mean() == 0:
            return None
        return ratio_of_means(self.reported("healed", steps, OUTSIDE) - late, lost)


def read_sweep(tidy: Tidy) -> Sweep:
    """The sweep of the seeds for which every row is done.

    Raises:
        TidyError: no seed is complete, or fewer than two.
    """
    rows = {str(m): stage for m in tidy.runs["method"].unique() if (stage := stage_of(str(m)))}
    runs = tidy.runs[tidy.runs["method"].astype(str).isin(list(rows))]
    done = runs[runs["status"] == "done"].groupby("seed")["method"].nunique()
    seeds = tuple(sorted(int(seed) for seed in done[done == len(rows)].index))
    if len(seeds) < 2:
        raise TidyError(
            f"{tidy.suite}: {len(seeds)} seeds have all rows of the sweep; two are needed for an "
            "interval, so let the suite finish."
        )
    scores = tidy.scores.astype({"benchmark": str, "method": str, "greedy_correct": float})
    scores = scores.assign(half=_halves(scores))
    means = 100 * scores.groupby(["method", "benchmark", "half", "seed"])["greedy_correct"].mean()
    halves: tuple[Half, Half] = ("choose", "report")
    accuracy = {
        (stage, steps, benchmark, half): np.array(
            [float(means[row, benchmark, half, seed]) for seed in seeds]
        )
        for row, (stage, steps) in rows.items()
        for benchmark in (INSIDE, OUTSIDE)
        for half in halves
    }
    return Sweep(accuracy, seeds)


def _halves(scores: pd.DataFrame) -> pd.Series:
    """Questions take turns in the order of their ids."""
    order = {
        question: i
        for _, own in scores.groupby("benchmark")["question_id"]
        for i, question in enumerate(sorted(own.unique()))
    }
    return scores["question_id"].map(lambda q: "report" if order[q] % 2 else "choose")
