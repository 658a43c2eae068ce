"""The learning-rate grid of a suite such as `tune`: what was tried, what it chose, and why.

A grid has runs that train one stage each, plain SFT or plain RL, at several rates. Judged is the
accuracy on validation problems at the end of training (`heldout_accuracy`), never a test question.
Chosen per stage is the rate with the highest mean over all models and data sets; a rate of which
some run did not finish is not eligible, and of equal means the lower rate counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bridge.analysis.numbers.frames import DONE, Tidy, TidyError, block_of, load_tidy
from bridge.analysis.tables.render import Sheet, Value, between
from bridge.store.columns import KEY
from bridge.store.records import SHIPPED

TUNED = SHIPPED / "results" / "cached" / "tune"
"""The committed grid that the rates of the other suites were chosen on."""
STAGES = {"sft": ("SFT", "lr_sft"), "rl": ("RL", "lr_rl")}
HEAD = (
    "suite",
    "stage",
    "rate",
    "model",
    "dataset",
    "validation_accuracy",
    "n_seeds",
    "n_runs",
    "mean",
    "chosen",
    "why",
)
NOTES = (
    "Greedy accuracy on validation problems at the end of training, points of 100, mean over "
    "seeds; no test question is looked at. Bold: the rate chosen for the stage, the highest mean "
    "over models and data sets. Every method uses the rates of its stages.",
    "A rate with a run that did not finish is shown by a word and cannot be chosen.",
)


@dataclass(frozen=True)
class Rate:
    """One rate of one stage: validation accuracy by block, a fraction, or the word of its runs."""

    rate: float
    accuracy: dict[tuple[str, str], float]
    words: dict[tuple[str, str], str]
    n_seeds: dict[tuple[str, str], int]
    n_runs: dict[tuple[str, str], int]

    @property
    def mean(self) -> float | None:
        """Unweighted mean over blocks; None where a block has no number."""
        if self.words or not self.accuracy:
            return None
        return sum(self.accuracy.values()) / len(self.accuracy)


@dataclass(frozen=True)
class Stage:
    """The grid of one stage and its outcome."""

    name: str
    column: str
    rates: tuple[Rate, ...]
    chosen: Rate | None
    why: str


def is_grid(tidy: Tidy) -> bool:
    """Whether every block of a suite tries several rates of every stage it trains, and no more."""
    if not {"implementation", "lr_sft", "lr_rl"} <= set(tidy.runs.columns):
        return False
    tried = tidy.runs.groupby(["model", "dataset", "implementation"], sort=False)
    return all(len(part[["lr_sft", "lr_rl"]].drop_duplicates()) > 1 for _, part in tried)


def load_grid(tidy: Tidy, folder: Path = TUNED) -> Tidy | None:
    """The grid to show for a suite: its own, else the committed one, else none."""
    if is_grid(tidy):
        return tidy
    if not (folder / "runs.parquet").is_file():
        return None
    committed = load_tidy(folder)
    if not is_grid(committed):
        raise TidyError(f"{folder} holds no grid of learning rates; collect the suite tune again")
    return committed


def choose_rates(grid: Tidy) -> list[Stage]:
    """What the grid says, one entry per stage."""
    rows = _measured(grid)
    return [
        _stage(grid, rows[rows["stage"] == stage], name, column)
        for stage, (name, column) in STAGES.items()
        if (rows["stage"] == stage).any()
    ]


def rate_sheets(tidy: Tidy, grid: Tidy) -> list[Sheet]:
    """The grid, one sheet per stage, and what the suite uses."""
    sheets = []
    for stage in choose_rates(grid):
        head = [Value("rate"), *[Value(" · ".join(block)) for block in grid.blocks], Value("mean")]
        rows = []
        for rate in stage.rates:
            best = rate is stage.chosen
            cells = [_cell(rate, block) for block in grid.blocks]
            mean = Value("–" if rate.mean is None else f"{100 * rate.mean:.1f}", highest=best)
            rows.append([Value(f"{rate.rate:.0e}", highest=best), *cells, mean])
        notes = [stage.why, *NOTES, *_used(tidy, stage)]
        sheets.append(
            Sheet(f"{stage.name}: learning rates on validation problems", head, rows, notes)
        )
    return sheets


def rate_rows(grid: Tidy) -> list[dict[str, object]]:
    """One row per stage, rate and block, accuracies in points."""
    return [
        {
            "suite": grid.suite,
            "stage": stage.name,
            "rate": rate.rate,
            "model": block[0],
            "dataset": block[1],
            "validation_accuracy": 100 * rate.accuracy[block] if block in rate.accuracy else None,
            "n_seeds": rate.n_seeds.get(block, 0),
            "n_runs": rate.n_runs.get(block, 0),
            "mean": None if rate.mean is None else 100 * rate.mean,
            "chosen": rate is stage.chosen,
            "why": stage.why if rate is stage.chosen else "",
        }
        for stage in choose_rates(grid)
        for rate in stage.rates
        for block in grid.blocks
    ]


def _measured(grid: Tidy) -> pd.DataFrame:
    """Runs with the stage they train and their last validation accuracy."""
    key = list(KEY)
    steps = grid.dynamics[grid.dynamics["step"] > 0].sort_values("step")
    kinds = steps.groupby(key, sort=False)["kind"].unique().rename("kinds").reset_index()
    last = steps.dropna(subset=["heldout_accuracy"]).groupby(key, sort=False).tail(1)
    rows = grid.runs.merge(kinds, on=key, how="left")
    rows = rows.merge(last[[*key, "heldout_accuracy"]], on=key, how="left")
    for row in rows.dropna(subset=["kinds"]).to_dict("records"):
        if len(row["kinds"]) != 1 or row["kinds"][0] not in STAGES:
            raise TidyError(
                f"suite {grid.suite}: {row['method']} trains {' and '.join(row['kinds'])} steps; a "
                "grid of learning rates has runs of plain SFT or plain RL only"
            )
    # A run that never started says nothing about its stage; others of its kind do.
    stages = {
        row["implementation"]: row["kinds"][0]
        for row in rows.dropna(subset=["kinds"]).to_dict("records")
    }
    return rows.assign(stage=rows["implementation"].map(stages))


def _stage(grid: Tidy, rows: pd.DataFrame, name: str, column: str) -> Stage:
    rates = tuple(
        _rate(grid, part, float(str(rate))) for rate, part in rows.groupby(column, sort=True)
    )
    eligible = [rate for rate in rates if rate.mean is not None]
    chosen = max(eligible, key=lambda rate: rate.mean or 0.0) if eligible else None
    trials = between(sum(rate.n_runs.values()) for rate in rates)
    tried = f"{name}: {len(rates)} rates, {trials} runs each, the same for every model and data set"
    if chosen is None or chosen.mean is None:
        return Stage(name, column, rates, None, f"{tried}; none is eligible.")
    others = [rate for rate in eligible if rate is not chosen]
    second = max(others, key=lambda rate: rate.mean or 0.0, default=None)
    why = f"{tried}; {chosen.rate:.0e} has the highest mean, {100 * chosen.mean:.1f}"
    if second is not None and second.mean is not None:
        why += f", before {second.rate:.0e} with {100 * second.mean:.1f}"
    at_edge = len(rates) > 1 and chosen.rate in (rates[0].rate, rates[-1].rate)
    why += "; it is at the edge of the grid." if at_edge else "."
    return Stage(name, column, rates, chosen, why)


def _rate(grid: Tidy, rows: pd.DataFrame, rate: float) -> Rate:
    accuracy, words, seeds, runs = {}, {}, {}, {}
    for block in grid.blocks:
        part = block_of(rows, *block)
        finished = part[part["status"] == DONE]["heldout_accuracy"].dropna()
        runs[block], seeds[block] = len(part), len(finished)
        if len(part) and len(finished) == len(part):
            accuracy[block] = float(finished.astype(float).mean())
        else:
            unfinished = part.loc[part["status"] != DONE, "status"]
            words[block] = str(unfinished.iloc[0]) if len(unfinished) else "no number"
    return Rate(rate, accuracy, words, seeds, runs)


def _cell(rate: Rate, block: tuple[str, str]) -> Value:
    if block in rate.accuracy:
        return Value(f"{100 * rate.accuracy[block]:.1f}")
    return Value(rate.words[block], is_word=True)


def _used(tidy: Tidy, stage: Stage) -> list[str]:
    """Which rates the shown suite trains with, where it is not the grid itself."""
    if stage.column not in tidy.runs or is_grid(tidy) or stage.chosen is None:
        return []
    rates = sorted({float(rate) for rate in tidy.runs[stage.column].dropna()})
    used = ", ".join(f"{rate:.0e}" for rate in rates)
    same = rates == [stage.chosen.rate]
    return [f"This suite uses {used}" + (", as chosen." if same else ", which is not the choice.")]
