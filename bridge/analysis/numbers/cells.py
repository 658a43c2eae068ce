"""From answers to table cells: which runs count, their mean and interval, and the words beside it.

A run counts in a benchmark when it is done and answered every question that any run of the block
answered. Runs that do not are named by a word and a count (`diverged 1/3`), never by a number. A
cell whose runs were graded by different graders gets no number at all.

Where worlds are drawn anew (base model and training data), the seeds of a world are averaged and
the world takes the place of the seed: intervals are then over worlds and questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from bridge.analysis.numbers.frames import DONE, Tidy, block_of, in_worlds
from bridge.analysis.numbers.pooled import SeedSpread, seed_spread
from bridge.analysis.numbers.statistics import Array, Interval, cell_interval

AVERAGE = "average"
UNTRAINED = "base"
"""The row of the model before training."""
FAILURES = ("diverged", "collapsed", "failed", "timeout")
"""Ends that count as failures by intention to treat; a run that is still to come does not."""

Metric = Callable[[pd.DataFrame], Array]


@dataclass(frozen=True)
class Cell:
    """One cell: an interval over the runs that count, or none, and the words for the others.

    `lowest` and `highest` are the accuracies of the worst and the best run, fractions.
    """

    interval: Interval | None
    counts: dict[str, int]
    n_runs: int
    lowest: float | None = None
    highest: float | None = None

    @property
    def n_failed(self) -> int:
        """Runs that failed."""
        return sum(self.counts.get(word, 0) for word in FAILURES)

    def intention(self, failed: float) -> float | None:
        """Mean over all runs that ended when a failure counts as the accuracy `failed`."""
        n = self.interval.n_seeds if self.interval else 0
        if n + self.n_failed == 0:
            return None
        reached = self.interval.mean if self.interval else 0.0
        return (n * reached + self.n_failed * failed) / (n + self.n_failed)

    @property
    def words(self) -> list[str]:
        """Runs without a number, such as `diverged 1/3`; empty if all count."""
        return [f"{word} {count}/{self.n_runs}" for word, count in self.counts.items()]

    @property
    def word(self) -> str:
        """What became of most of the runs without a number."""
        return max(self.counts, key=lambda word: self.counts[word])


@dataclass(frozen=True, eq=False)
class Block:
    """Cells of one (model, dataset); columns are the benchmarks and, last, their average.

    `n_runs` counts the seeds, or worlds, of a method.
    `answers` holds, per cell, the seed x question tables behind it, one per benchmark; `graders`
    the versions that graded the finished runs of a method; `spreads` what the seeds of the trained
    methods say about the spread of training, per column; `copies` the first method that gave
    exactly the same answers with the same seeds, for each method that is no other than that one.
    """

    model: str
    dataset: str
    methods: list[str]
    n_questions: dict[str, int]
    n_runs: dict[str, int]
    cells: dict[tuple[str, str], Cell]
    graders: dict[str, tuple[str, ...]]
    answers: dict[tuple[str, str], list[pd.DataFrame]] = field(repr=False)
    spreads: dict[str, SeedSpread | None] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    by_run: dict[str, pd.Series] = field(default_factory=dict, repr=False)
    """Accuracy of each run in the last column, a fraction, by (world, seed), where worlds are."""

    @property
    def columns(self) -> list[str]:
        """Benchmarks in order, then the average where there is more than one."""
        names = list(self.n_questions)
        return names if len(names) == 1 else [*names, AVERAGE]

    @property
    def overall(self) -> str:
        """The column that sums a method up: the average, or the only benchmark there is."""
        return self.columns[-1]

    def failed_accuracy(self, column: str) -> float:
        """What a run without a number counts as, by intention to treat: the untrained model's
        accuracy, a fraction; zero where the block has no such row."""
        cell = self.cells.get((UNTRAINED, column))
        return cell.interval.mean if cell and cell.interval else 0.0

    def varies(self, method: str, column: str) -> bool:
        """Whether training can have changed a method's answers from seed to seed."""
        return method != UNTRAINED and _varies(self.answers[method, column])


def greedy(answers: pd.DataFrame) -> Array:
    """Whether the greedy answer is correct, 0 or 1."""
    return answers["greedy_correct"].to_numpy(float)


@lru_cache(maxsize=4)
def build_blocks(tidy: Tidy, metric: Metric = greedy) -> list[Block]:
    """Cells of every block of a suite under one metric (a fraction per question)."""
    return [_block(tidy, model, dataset, metric) for model, dataset in tidy.blocks]


def unfinished(statuses: Iterable[str]) -> dict[str, int]:
    """How many runs ended in each word other than done."""
    return dict(sorted(Counter(word for word in statuses if word != DONE).items()))


def _block(tidy: Tidy, model: str, dataset: str, metric: Metric) -> Block:
    runs = block_of(tidy.runs, model, dataset)
    scores = block_of(tidy.scores, model, dataset)
    methods = tidy.methods(model, dataset)
    benchmarks = tidy.benchmarks(model, dataset)
    replicate = "world" if in_worlds(runs) else "seed"
    worlds = runs.groupby("seed")["world"].first() if replicate == "world" else None
    answers = {name: _answers(scores[scores["benchmark"] == name], metric) for name in benchmarks}
    cells: dict[tuple[str, str], Cell] = {}
    kept: dict[tuple[str, str], list[pd.DataFrame]] = {}
    graders = {method: _graders(runs[runs["method"] == method]) for method in methods}
    by_run: dict[str, pd.Series] = {}
    for method in methods:
        statuses = [str(word) for word in runs.loc[runs["method"] == method, "status"]]
        scored = scores.loc[scores["method"] == method, "seed"].nunique()
        runs_of = [_complete(answers[name], method) for name in benchmarks]
        common = _common_seeds(runs_of)
        n_counted = len(common[0]) if common else 0
        if worlds is not None and n_counted:
            by_run[method] = _with_worlds(pd.Series(run_means(common), common[0].index), worlds)
        complete = [_by_world(table, worlds) for table in runs_of]
        columns = {name: [table] for name, table in zip(benchmarks, complete, strict=True)}
        for name, tables in (columns | {AVERAGE: _common_seeds(complete)}).items():
            one_grader = len(graders[method]) < 2
            kept[method, name] = [table for table in tables if len(table)] if one_grader else []
            arrays = [table.to_numpy(float) for table in kept[method, name]]
            n = len(runs_of[benchmarks.index(name)]) if name in benchmarks else n_counted
            cells[method, name] = _cell(arrays, statuses, scored, one_grader, n)
    block = Block(
        model=model,
        dataset=dataset,
        methods=methods,
        n_questions={name: answers[name].shape[1] for name in benchmarks},
        n_runs={
            method: int(runs.loc[runs["method"] == method, replicate].nunique())
            for method in methods
        },
        cells=cells,
        graders=graders,
        answers=kept,
        by_run=by_run,
    )
    block.copies.update(_copies(block))
    for column in block.columns:
        block.spreads[column] = _spread(block, column)
    return block


def _varies(tables: list[pd.DataFrame]) -> bool:
    return any((table.to_numpy() != table.to_numpy()[:1]).any() for table in tables)


def _copies(block: Block) -> dict[str, str]:
    seen: dict[int, str] = {}
    found = {}
    for method in block.methods:
        tables = block.answers[method, block.overall]
        if not tables:
            continue
        key = hash(tuple((tuple(t.index), t.to_numpy(float).tobytes()) for t in tables))
        first = seen.setdefault(key, method)
        if first != method:
            found[method] = first
    return found


def _spread(block: Block, column: str) -> SeedSpread | None:
    """From every trained method once; a method that never varies was not trained, or collapsed."""
    scores = {
        method: dict(zip(tables[0].index, run_means(tables), strict=True))
        for method in block.methods
        if (tables := block.answers[method, column])
        and method not in block.copies
        and block.varies(method, column)
    }
    seeds = sorted({seed for own in scores.values() for seed in own})
    if not seeds:
        return None
    table = np.array([[own.get(seed, np.nan) for seed in seeds] for own in scores.values()])
    return seed_spread(np.nan_to_num(table), np.isfinite(table))


def run_means(tables: list[pd.DataFrame]) -> Array:
    """Accuracy of each run, benchmarks weighing the same."""
    return np.mean([table.to_numpy(float).mean(1) for table in tables], axis=0)


def _graders(runs: pd.DataFrame) -> tuple[str, ...]:
    finished = runs.loc[runs["status"] == DONE, "grader_version"]
    return tuple(sorted(finished.dropna().astype(str).unique()))


def _answers(scores: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One benchmark as (method, seed) x question; NaN where a run gave no answer."""
    table = scores[["method", "seed", "question_id"]].astype({"method": str, "question_id": str})
    return table.assign(value=metric(scores)).pivot(
        index=["method", "seed"], columns="question_id", values="value"
    )


def _complete(answers: pd.DataFrame, method: str) -> pd.DataFrame:
    """Seed x question of the runs of a method that answered every question."""
    if method not in answers.index.get_level_values("method"):
        return answers.iloc[:0].droplevel("method")
    return answers.loc[[method]].droplevel("method").dropna()


def _by_world(runs: pd.DataFrame, worlds: pd.Series | None) -> pd.DataFrame:
    """The mean answer of each world's seeds; the runs themselves where there are no worlds."""
    if worlds is None or runs.empty:
        return runs
    return runs.groupby(worlds.reindex(runs.index).astype(int)).mean().rename_axis("seed")


def _with_worlds(by_seed: pd.Series, worlds: pd.Series) -> pd.Series:
    keys = zip(worlds.reindex(by_seed.index).astype(int), by_seed.index, strict=True)
    return by_seed.set_axis(pd.MultiIndex.from_tuples(list(keys), names=["world", "seed"]))


def _common_seeds(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The same tables cut to the seeds that are complete in each of them."""
    if not tables:
        return []
    seeds = tables[0].index
    for table in tables[1:]:
        seeds = seeds.intersection(table.index)
    return [table.loc[seeds] for table in tables]


def _cell(
    arrays: list[Array], statuses: list[str], scored: int, one_grader: bool, n_complete: int
) -> Cell:
    counted = n_complete if arrays else 0
    unscored = statuses.count(DONE) - scored
    left_out = "partial" if one_grader else "mixed graders"
    counts = unfinished(statuses) | {"unscored": unscored, left_out: scored - counted}
    words = {word: n for word, n in counts.items() if n}
    if not arrays:
        return Cell(None, words, len(statuses))
    runs = np.mean([array.mean(1) for array in arrays], axis=0)
    interval = cell_interval(arrays)
    return Cell(interval, words, len(statuses), float(np.min(runs)), float(np.max(runs)))
