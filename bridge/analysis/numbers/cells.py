"""From answers to table cells: which runs count, their mean and interval, and the words beside it.

A run counts in a benchmark when it is done and answered every question that any run of the block
answered. Runs that do not are named by a word and a count (`diverged 1/3`), never by a number. A
cell whose runs were graded by different graders gets no number at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import pandas as pd

from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.analysis.numbers.paired import typical_detectable_effect
from bridge.analysis.numbers.statistics import Array, Interval, cell_interval

AVERAGE = "average"

Metric = Callable[[pd.DataFrame], Array]


@dataclass(frozen=True)
class Cell:
    """One cell: an interval over the runs that count, or none, and the words for the others."""

    interval: Interval | None
    counts: dict[str, int]
    n_runs: int

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

    `answers` holds, per cell, the seed x question tables behind it, one per benchmark; `graders`
    the versions that graded the finished runs of a method.
    """

    model: str
    dataset: str
    methods: list[str]
    n_questions: dict[str, int]
    n_runs: dict[str, int]
    cells: dict[tuple[str, str], Cell]
    graders: dict[str, tuple[str, ...]]
    answers: dict[tuple[str, str], list[pd.DataFrame]] = field(repr=False)
    detectable: dict[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Benchmarks in order, then the average where there is more than one."""
        names = list(self.n_questions)
        return names if len(names) == 1 else [*names, AVERAGE]

    @property
    def overall(self) -> str:
        """The column that sums a method up: the average, or the only benchmark there is."""
        return self.columns[-1]


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
    answers = {name: _answers(scores[scores["benchmark"] == name], metric) for name in benchmarks}
    cells: dict[tuple[str, str], Cell] = {}
    kept: dict[tuple[str, str], list[pd.DataFrame]] = {}
    graders = {method: _graders(runs[runs["method"] == method]) for method in methods}
    for method in methods:
        statuses = [str(word) for word in runs.loc[runs["method"] == method, "status"]]
        scored = scores.loc[scores["method"] == method, "seed"].nunique()
        complete = [_complete(answers[name], method) for name in benchmarks]
        columns = {name: [table] for name, table in zip(benchmarks, complete, strict=True)}
        for name, tables in (columns | {AVERAGE: _common_seeds(complete)}).items():
            one_grader = len(graders[method]) < 2
            kept[method, name] = [table for table in tables if len(table)] if one_grader else []
            arrays = [table.to_numpy(float) for table in kept[method, name]]
            cells[method, name] = _cell(arrays, statuses, scored, one_grader)
    block = Block(
        model=model,
        dataset=dataset,
        methods=methods,
        n_questions={name: answers[name].shape[1] for name in benchmarks},
        n_runs={method: int((runs["method"] == method).sum()) for method in methods},
        cells=cells,
        graders=graders,
        answers=kept,
    )
    for column in block.columns:
        arms = [
            [table.to_numpy(float) for table in kept[method, column]]
            for method in methods
            if kept[method, column]
        ]
        if len(arms) > 1:
            block.detectable[column] = typical_detectable_effect(arms)
    return block


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


def _common_seeds(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The same tables cut to the seeds that are complete in each of them."""
    if not tables:
        return []
    seeds = tables[0].index
    for table in tables[1:]:
        seeds = seeds.intersection(table.index)
    return [table.loc[seeds] for table in tables]


def _cell(arrays: list[Array], statuses: list[str], scored: int, one_grader: bool) -> Cell:
    counted = arrays[0].shape[0] if arrays else 0
    unscored = statuses.count(DONE) - scored
    left_out = "partial" if one_grader else "mixed graders"
    counts = unfinished(statuses) | {"unscored": unscored, left_out: scored - counted}
    interval = cell_interval(arrays) if arrays else None
    return Cell(interval, {word: n for word, n in counts.items() if n}, len(statuses))
