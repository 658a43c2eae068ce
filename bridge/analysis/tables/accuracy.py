"""Tables of accuracies: the main table, also as terminal text, and that of sampled answers.

`main`: greedy accuracy of every method on every benchmark, its difference to the baselines and
what papers print; `sampled`: avg@n and pass@k where answers were sampled. Accuracies are points
(x100) in tables and nowhere else. CSV files are long, one row per cell; the others are laid out
as in a paper. `building` writes them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from bridge.analysis.numbers.cells import UNTRAINED, Block, Cell, build_blocks
from bridge.analysis.numbers.frames import DONE, Tidy, block_of, cautions, in_worlds, load_tidy
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.numbers.statistics import Array, Interval, average_at_n, pass_at_k
from bridge.analysis.tables.differences import (
    BASELINES,
    block_differences,
    detectable_gap,
    short_value,
)
from bridge.analysis.tables.published import PublishedNumber, load_published, published_numbers
from bridge.analysis.tables.render import (
    Sheet,
    Value,
    between,
    columns,
    printable,
)

MAIN_HEAD = (
    "suite",
    "model",
    "dataset",
    "method",
    "metric",
    "benchmark",
    "points",
    "low",
    "high",
    "standard_error",
    "n_seeds",
    "n_runs",
    "n_questions",
    "without_number",
    "lowest_seed",
    "highest_seed",
    "intention_to_treat",
    "interval_covers",
    "minimum_detectable_effect",
    "published_points",
    "published_source",
    "published_note",
)
INTERVAL_NOTE = (
    "Brackets: 95 % interval over training seeds and questions (two-way random effects, t and "
    "score limits); for a single run, over questions only (Wilson's for one benchmark)."
)
DETECTABLE = "detectable gap"
SEEDS_NOTE = (
    "Seeds: how many have a number, and the lowest and highest of them in the last accuracy column."
)
HIGHEST_NOTE = "Bold: highest mean of the column, which is not a test."
DIFFERENCE_NOTE = (
    "Minus columns: difference in the last accuracy column, on the same questions and the seeds "
    "that both rows have, with p adjusted by Holm per column; the table of differences has the "
    "intervals and every benchmark."
)
PUBLISHED_NOTE = (
    "Published columns are what papers print, with their own data, graders and sampling, mostly "
    "one run without an interval; they enter no mean, test or figure here."
)


def main_table_text(tidy_dir: Path, width: int = 100) -> str:
    """The main table for a terminal of `width` characters: means, intervals below, n beside."""
    tidy = load_tidy(tidy_dir)
    sheets = main_sheets(tidy, build_blocks(tidy), load_published())

    def wrap(text: str) -> list[str]:
        return textwrap.wrap(printable(text), width)

    parts = [
        "\n".join([*wrap(sheet.title), "", columns(sheet, width), *wrap(sheet.source)])
        for sheet in sheets
    ]
    said = dict.fromkeys(note for sheet in sheets for note in sheet.notes if note != HIGHEST_NOTE)
    lines = [part for note in said for part in wrap(note)]
    return "\n\n".join([*parts, "\n".join(lines)])


def main_sheets(
    tidy: Tidy, blocks: list[Block], published: pd.DataFrame | None = None
) -> list[Sheet]:
    """The main table from the blocks of greedy accuracy, one sheet per model and dataset.

    Beside the accuracies stand the difference to each baseline and, for models that papers report
    (`published.load_published`), their numbers.
    """
    return [
        _joined(
            tidy, block, "greedy accuracy", [make(tidy, block, published) for make in MAIN_COLUMNS]
        )
        for block in blocks
    ]


def _joined(tidy: Tidy, block: Block, metric: str, parts: Sequence[Sheet]) -> Sheet:
    """Columns side by side behind the methods' names; a part may have fewer rows than another."""
    n_rows = max(len(part.rows) for part in parts)
    names = [Value(label(method)) for method in block.methods]
    if n_rows > len(names):
        names.append(Value(DETECTABLE))
    rows = [[name] for name in names]
    for part in parts:
        for i, row in enumerate(rows):
            row += part.rows[i] if i < len(part.rows) else [Value("")] * len(part.head)
    head = [Value("method"), *(value for part in parts for value in part.head)]
    said = [note for part in parts for note in part.notes]
    title = f"{block.model} trained on {block.dataset}: {metric}"
    return Sheet(title, head, rows, said, source(tidy, block))


def _against_baselines(tidy: Tidy, block: Block, published: pd.DataFrame | None) -> Sheet:
    """Columns: each method minus each baseline in the block's overall column."""
    found = {
        (item.first.name, item.second.name): short_value(item)
        for item in block_differences(block)
        if item.column == block.overall
    }
    names = [name for name in BASELINES if any(baseline == name for _, baseline in found)]
    if not names:
        return Sheet("", [], [[] for _ in block.methods])
    rows = [[found.get((method, name), Value("")) for name in names] for method in block.methods]
    under = f"{benchmark_label(block.overall, block.dataset)}, minus"
    head = [Value("minus", label(name), group=under) for name in names]
    return Sheet("", head, rows, [DIFFERENCE_NOTE])


def _published(tidy: Tidy, block: Block, published: pd.DataFrame | None) -> Sheet:
    """Columns: what papers print for this model, and a letter for the source of each row."""
    if published is None:
        return Sheet("", [], [[] for _ in block.methods])
    numbers = published_numbers(published, block.model, block.dataset, block.columns)
    names = [
        column for column in block.columns if any((m, column) in numbers for m in block.methods)
    ]
    if not names:
        return Sheet("", [], [[] for _ in block.methods])
    sources: dict[str, str] = {}
    rows = []
    for method in block.methods:
        cells = [numbers.get((method, column)) for column in names]
        source = next((cell.source for cell in cells if cell), None)
        mark = ""
        if source is not None:
            mark = sources.setdefault(source, "abcdefghijklmnopqrstuvwxyz"[len(sources) % 26])
        row = [Value(f"{cell.points:.1f}" if cell else "–", is_word=not cell) for cell in cells]
        rows.append([*row, Value(mark)])
    under = "published, not ours"
    head = [Value(benchmark_label(name, block.dataset), "published", group=under) for name in names]
    said = [PUBLISHED_NOTE, *[f"Source {mark}: {source}." for source, mark in sources.items()]]
    return Sheet("", [*head, Value("source", "published", group=under)], rows, said)


def sampled(tidy: Tidy) -> dict[str, list[Block]]:
    """Blocks under avg@n and, if n > 1, pass@n; n is the fewest samples any question has."""
    answered = tidy.scores[tidy.scores["n_samples"] > 0]
    if answered.empty:
        return {}
    part = Tidy(tidy.runs, answered, tidy.dynamics, tidy.costs)
    n = int(answered["n_samples"].min())
    same = n == int(answered["n_samples"].max())
    metrics = {f"avg@{n}" if same else "avg@n": build_blocks(part, _average)}
    if n > 1:
        metrics[f"pass@{n}"] = build_blocks(part, partial(_pass, k=n))
    return metrics


def sampled_sheets(tidy: Tidy, metrics: dict[str, list[Block]]) -> list[Sheet]:
    """The sampled tables: per block, one sheet for each metric."""
    return [
        accuracy_sheet(tidy, blocks[index], name)
        for index in range(len(tidy.blocks))
        for name, blocks in metrics.items()
    ]


def accuracy_sheet(tidy: Tidy, block: Block, metric: str) -> Sheet:
    """One block as methods x benchmarks; a method without a number shows its words instead."""
    return _joined(tidy, block, metric, [make(tidy, block, None) for make in ACCURACY_COLUMNS])


def _seed_column(tidy: Tidy, block: Block, published: pd.DataFrame | None) -> Sheet:
    """Column: seeds with a number, of how many."""
    shown = [[block.cells[method, column] for column in block.columns] for method in block.methods]
    pairs = zip(block.methods, shown, strict=True)
    rows = [[_seeds(cells, block.n_runs[method])] for method, cells in pairs]
    return Sheet("", [Value("seeds")], rows)


def _accuracies(tidy: Tidy, block: Block, published: pd.DataFrame | None) -> Sheet:
    """Columns: mean and interval on each benchmark; last row: the detectable gap."""
    head = []
    for column in block.columns:
        questions = block.n_questions.get(column)
        asked = f"({questions})" if questions is not None else ""
        head.append(Value(benchmark_label(column, block.dataset), asked, column=column))
    best = {column: _highest(block, column) for column in block.columns}
    rows = [
        [
            _value(block.cells[method, column], highest=method == best[column])
            for column in block.columns
        ]
        for method in block.methods
    ]
    effects = [detectable_gap(block, column) for column in block.columns]
    if any(effect is not None for effect in effects):
        rows.append([Value("" if e is None else f"{100 * e:.1f}") for e in effects])
    cautioned = [f"Caution: {text}." for text in cautions(tidy)]
    return Sheet("", head, rows, [*notes(block), *cautioned])


def _grouped(tidy: Tidy, block: Block, published: pd.DataFrame | None) -> Sheet:
    """The accuracies under a group of their own."""
    sheet = _accuracies(tidy, block, published)
    return replace(sheet, head=[replace(value, group="accuracy") for value in sheet.head])


ColumnMaker = Callable[[Tidy, Block, "pd.DataFrame | None"], Sheet]
"""Columns of a block, a row per method; the data frame holds published numbers, if any."""
ACCURACY_COLUMNS: tuple[ColumnMaker, ...] = (_seed_column, _accuracies)
MAIN_COLUMNS: tuple[ColumnMaker, ...] = (_seed_column, _grouped, _against_baselines, _published)
"""The main table, left to right. A new column is a function here, in whatever place."""


def notes(block: Block) -> list[str]:
    """What the numbers of a block mean: unit, interval, detectable effect, failures."""
    found = [
        "Points of 100, mean over seeds; in brackets in the head: questions; average: unweighted "
        "mean of the benchmarks.",
        INTERVAL_NOTE,
    ]
    if detectable_gap(block, block.overall) is not None:
        found.append(
            f"{DETECTABLE.capitalize()}: smallest difference to a baseline found with 80 % power "
            "at the strictest level of Holm's adjustment (noncentral t, median over the rows; "
            "with one seed each, of the questions only)."
        )
    if any(cell.words for cell in block.cells.values()):
        found.append(
            "Words count runs that have no number; means are over the other runs, which favours "
            "methods whose bad runs stop."
        )
    if (treated := _intention_to_treat(block)) is not None:
        found.append(treated)
    return [*found, SEEDS_NOTE, HIGHEST_NOTE]


def _intention_to_treat(block: Block) -> str | None:
    """Means in the last accuracy column with failed runs counted; None where none failed."""
    column = block.overall
    failed = block.failed_accuracy(column)
    cells = {method: block.cells[method, column] for method in block.methods if method != UNTRAINED}
    means = [
        f"{label(method)} {100 * mean:.1f}"
        for method, cell in cells.items()
        if cell.n_failed and (mean := cell.intention(failed)) is not None
    ]
    if not means:
        return None
    name = benchmark_label(column, block.dataset)
    as_what = f"as the untrained model ({100 * failed:.1f})" if failed else "as zero"
    return f"Intention to treat, {name}, failed runs counted {as_what}: {', '.join(means)}."


def source(tidy: Tidy, block: Block) -> str:
    """Seeds, commit and data behind one block."""
    runs = block_of(tidy.runs, block.model, block.dataset)
    runs = runs[runs["status"] == DONE]
    commits = [value[:12] for value in distinct(runs["commit"])]
    data = [value[:12] for value in distinct(runs["data_hash"])]
    what = "Seeds"
    if in_worlds(runs):
        what = "Worlds (base model, training data and run drawn anew; they are the seeds here)"
        data = [f"{len(data)} training sets"]
    dirty = " with uncommitted changes" if runs["dirty"].fillna(False).astype(bool).any() else ""
    seeds = between(cell.interval.n_seeds for cell in block.cells.values() if cell.interval)
    return (
        f"{what} per method: {seeds}; commit {', '.join(commits) or 'unknown'}{dirty}; "
        f"data {', '.join(data) or 'unknown'}."
    )


def distinct(values: pd.Series) -> list[str]:
    """Sorted distinct values as text, empty cells left out."""
    return sorted(values.dropna().astype(str).unique())


def points(interval: Interval) -> tuple[str, str, str]:
    """Mean, lower and upper limit in points, as text."""
    mean, low, high = (
        f"{100 * value:.1f}" for value in (interval.mean, interval.low, interval.high)
    )
    return mean, low, high


def _value(cell: Cell, highest: bool) -> Value:
    if cell.interval is None:
        return Value(cell.word, is_word=True)
    mean, low, high = points(cell.interval)
    return Value(mean, f"[{low}, {high}]", (f"{low}–{high}",), highest)


def _seeds(cells: list[Cell], n_runs: int) -> Value:
    """Seeds behind a row, their range in the last column, and what became of the others."""
    counts = [cell.interval.n_seeds if cell.interval else 0 for cell in cells]
    low, high = cells[-1].lowest, cells[-1].highest
    spread = []
    if max(counts) > 1 and low is not None and high is not None:
        spread = [f"{100 * low:.0f}–{100 * high:.0f}"]
    said = [*spread, *max((cell.words for cell in cells), key=len)]
    text = between(counts) if min(counts) == n_runs else f"{between(counts)}/{n_runs}"
    return Value(text, ", ".join(said), tuple(said))


def _highest(block: Block, column: str) -> str | None:
    means = {
        method: cell.interval.mean
        for method in block.methods
        if (cell := block.cells[method, column]).interval is not None
    }
    return max(means, key=lambda method: means[method]) if len(means) > 1 else None


def accuracy_rows(
    tidy: Tidy, blocks: list[Block], metric: str, published: pd.DataFrame | None = None
) -> list[dict[str, object]]:
    """One row per block, method and column under one metric, points of 100."""
    rows = []
    for block in blocks:
        numbers: dict[tuple[str, str], PublishedNumber] = {}
        if published is not None:
            numbers = published_numbers(published, block.model, block.dataset, block.columns)
        for method in block.methods:
            for column in block.columns:
                cell = block.cells[method, column]
                effect = detectable_gap(block, column)
                treated = cell.intention(block.failed_accuracy(column))
                row: dict[str, object] = {
                    "suite": tidy.suite,
                    "model": block.model,
                    "dataset": block.dataset,
                    "method": method,
                    "metric": metric,
                    "benchmark": column,
                    "n_seeds": 0,
                    "n_runs": block.n_runs[method],
                    "n_questions": block.n_questions.get(column, sum(block.n_questions.values())),
                    "without_number": ", ".join(cell.words),
                    "intention_to_treat": None if treated is None else 100 * treated,
                    "minimum_detectable_effect": None if effect is None else 100 * effect,
                }
                if cell.interval is not None:
                    row |= {
                        "points": 100 * cell.interval.mean,
                        "low": 100 * cell.interval.low,
                        "high": 100 * cell.interval.high,
                        "standard_error": 100 * cell.interval.standard_error,
                        "n_seeds": cell.interval.n_seeds,
                        "interval_covers": cell.interval.covers,
                        "lowest_seed": 100 * (cell.lowest or 0.0),
                        "highest_seed": 100 * (cell.highest or 0.0),
                    }
                printed = numbers.get((method, column))
                if printed is not None:
                    row |= {
                        "published_points": printed.points,
                        "published_source": printed.source,
                        "published_note": printed.note,
                    }
                rows.append(row)
    return rows


def _average(answers: pd.DataFrame) -> Array:
    return average_at_n(answers["n_samples"], answers["n_sampled_correct"])


def _pass(answers: pd.DataFrame, k: int) -> Array:
    return pass_at_k(answers["n_samples"], answers["n_sampled_correct"], k)
