"""Differences of two methods on the questions they share, and their table.

`contrast` is the one way in which two sets of answers are compared: the difference table, the
claims and `bridge compare` all use it. What it refuses carries its reason instead of a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

import numpy as np
import pandas as pd

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.paired import (
    SIGNIFICANT,
    Difference,
    Refused,
    holm,
    minimum_detectable_effect,
    paired_difference,
    sign_test,
)
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.tables.render import Sheet, Value

BASELINES = ("rl_zero", "cold_start")
HEAD = (
    "suite",
    "model",
    "dataset",
    "method",
    "baseline",
    "benchmark",
    "points",
    "low",
    "high",
    "standard_error",
    "p_value",
    "p_adjusted",
    "minimum_detectable_effect",
    "questions_won",
    "questions_lost",
    "sign_test_p",
    "n_seeds_method",
    "n_seeds_baseline",
    "n_questions",
    "interval_covers",
    "refused",
)
NOTES = (
    "Points of 100, method minus baseline, on the same questions; in brackets the 95 % interval "
    "over training seeds and questions (questions only where a side has one seed).",
    "p: two-sided, adjusted by Holm over this model and dataset, both baselines together: the "
    "averages are one family, decided beforehand to be the main comparison, the single benchmarks "
    "another.",
    "Bold: adjusted p below 0.05.",
    "Detectable gap: smallest difference found with 80 % power at two-sided 5 %, without the "
    "adjustment (2.80 standard errors; median over the rows).",
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: seed x question answers per benchmark, and who graded them."""

    name: str
    answers: dict[str, pd.DataFrame]
    graders: tuple[str, ...]
    words: str = ""


@dataclass(frozen=True)
class Contrast:
    """First minus second as fractions, or the reason why there is none.

    `won` and `lost` count questions answered better (on average over seeds) by the first or second.
    """

    first: Side
    second: Side
    column: str
    difference: Difference | None = None
    won: int = 0
    lost: int = 0
    refused: str = ""
    p_adjusted: float | None = None

    @property
    def detectable(self) -> float | None:
        """Smallest difference found with 80 % power, a fraction."""
        if self.difference is None:
            return None
        return minimum_detectable_effect(self.difference.standard_error)

    @property
    def significant(self) -> bool:
        """Whether the adjusted p is below 0.05."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT


def arm(block: Block, method: str, column: str) -> Side:
    """A method of a block under one column; no answers where the cell has no number."""
    tables = block.answers[method, column]
    names = list(block.n_questions) if len(tables) > 1 else [column]
    words = ", ".join(block.cells[method, column].words)
    return Side(method, dict(zip(names, tables, strict=False)), block.graders[method], words)


def contrast(first: Side, second: Side, column: str) -> Contrast:
    """Compare two arms on the benchmarks and questions that both answered."""
    empty = Contrast(first, second, column)
    for side in (first, second):
        if not side.answers:
            return replace(empty, refused=f"{side.name}: {side.words or 'no scores'}")
    graders = sorted({*first.graders, *second.graders})
    if len(graders) > 1:
        return replace(empty, refused=f"different graders: {', '.join(graders)}")
    if set(first.answers) != set(second.answers):
        return replace(empty, refused="the two sides have different benchmarks")
    left, right = shared_answers(first, second)
    try:
        difference = paired_difference(left, right)
    except Refused as reason:
        return replace(empty, refused=str(reason))
    gaps = np.concatenate([a.mean(0) - b.mean(0) for a, b in zip(left, right, strict=True)])
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    return replace(empty, difference=difference, won=won, lost=lost)


def shared_answers(first: Side, second: Side) -> tuple[list[Array], list[Array]]:
    """Answers of both arms per benchmark, columns cut to the questions that both have."""
    left, right = [], []
    for name, table in first.answers.items():
        other = second.answers[name]
        if table.columns.equals(other.columns):  # Nearly always, and much faster.
            left.append(table.to_numpy(float))
            right.append(other.to_numpy(float))
            continue
        shared = sorted(set(table.columns) & set(other.columns))
        left.append(table[shared].to_numpy(float))
        right.append(other[shared].to_numpy(float))
    return left, right


def adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same contrasts with Holm's p over all that have a difference."""
    p_values = [item.difference.p_value for item in contrasts if item.difference]
    corrected = iter(holm(p_values))
    return [
        replace(item, p_adjusted=float(next(corrected))) if item.difference else item
        for item in contrasts
    ]


@lru_cache(maxsize=64)
def block_differences(block: Block) -> list[Contrast]:
    """All methods against each baseline that has numbers, in every column.

    Two Holm families: the overall column, which is the main comparison, and the single benchmarks.
    """
    main: list[Contrast] = []
    single: list[Contrast] = []
    for baseline in BASELINES:
        if not any(block.answers.get((baseline, column)) for column in block.columns):
            continue
        for method in block.methods:
            if method == baseline:
                continue
            for column in block.columns:
                sides = (arm(block, method, column), arm(block, baseline, column))
                family = main if column == block.overall else single
                family.append(contrast(*sides, column))
    return adjusted(main) + adjusted(single)


def difference_sheets(block: Block, contrasts: Sequence[Contrast]) -> list[Sheet]:
    """One sheet per baseline: methods x benchmarks, difference, interval and adjusted p."""
    sheets = []
    for baseline in dict.fromkeys(item.second.name for item in contrasts):
        cells = {
            (item.first.name, item.column): item
            for item in contrasts
            if item.second.name == baseline
        }
        head = [Value("method")]
        for column in block.columns:
            questions = block.n_questions.get(column)
            name = benchmark_label(column, block.dataset)
            head.append(Value(name, f"({questions})" if questions is not None else ""))
        methods = dict.fromkeys(method for method, _ in cells)
        rows = [
            [Value(label(method)), *[_value(cells[method, column]) for column in block.columns]]
            for method in methods
        ]
        rows.append([Value("detectable gap"), *[_gap(cells, column) for column in block.columns]])
        refused = dict.fromkeys(
            f"{label(item.first.name)}: no difference, {item.refused}."
            for item in cells.values()
            if item.refused
        )
        title = (
            f"{block.model} trained on {block.dataset}: greedy accuracy, "
            f"difference to {label(baseline)}"
        )
        sheets.append(Sheet(title, head, rows, [*NOTES, *refused]))
    return sheets


def difference_rows(
    suite: str, block: Block, contrasts: Sequence[Contrast]
) -> list[dict[str, object]]:
    """One row per contrast, points of 100."""
    rows = []
    for item in contrasts:
        row: dict[str, object] = {
            "suite": suite,
            "model": block.model,
            "dataset": block.dataset,
            "method": item.first.name,
            "baseline": item.second.name,
            "benchmark": item.column,
            "refused": item.refused,
        }
        rows.append(row | contrast_numbers(item))
    return rows


def contrast_numbers(item: Contrast) -> dict[str, object]:
    """The numbers of a contrast by the names of `HEAD`; empty where it was refused."""
    found = item.difference
    if found is None:
        return {}
    return {
        "points": 100 * found.mean,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "standard_error": 100 * found.standard_error,
        "p_value": found.p_value,
        "p_adjusted": item.p_adjusted,
        "minimum_detectable_effect": 100 * minimum_detectable_effect(found.standard_error),
        "questions_won": item.won,
        "questions_lost": item.lost,
        "sign_test_p": sign_test(item.won, item.lost),
        "n_seeds_method": found.n_seeds[0],
        "n_seeds_baseline": found.n_seeds[1],
        "n_questions": found.n_questions,
        "interval_covers": found.covers,
    }


def p_text(p: float | None) -> str:
    """A p-value with two or three digits, never 0."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def short_value(item: Contrast) -> Value:
    """Difference and adjusted p alone, for a column beside other numbers."""
    if item.difference is None:
        return Value("–", is_word=True)
    p = p_text(item.p_adjusted)
    return Value(signed(100 * item.difference.mean), p, (p,), item.significant)


def signed(number: float) -> str:
    """A difference with its sign and one decimal; what rounds to nothing is +0.0."""
    return f"{round(number, 1) + 0.0:+.1f}"


def _value(item: Contrast) -> Value:
    found = item.difference
    if found is None:
        return Value("–", is_word=True)
    p = p_text(item.p_adjusted)
    low, high = signed(100 * found.low), signed(100 * found.high)
    return Value(
        signed(100 * found.mean), f"[{low}, {high}] {p}", (f"{low}..{high}", p), item.significant
    )


def _gap(cells: dict[tuple[str, str], Contrast], column: str) -> Value:
    effects = [
        item.detectable
        for (_, name), item in cells.items()
        if name == column and item.detectable is not None
    ]
    return Value(f"{100 * median(effects):.1f}" if effects else "")
