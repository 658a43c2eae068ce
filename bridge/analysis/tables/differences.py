"""Differences of two methods on the questions they share, and their table.

`contrast` is the one way in which two sets of answers are compared: the difference table, the
claims and `bridge compare` all use it. What it refuses carries its reason instead of a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import median

import numpy as np
import pandas as pd

from bridge.analysis.numbers.cells import UNTRAINED, Block
from bridge.analysis.numbers.paired import (
    Difference,
    Refused,
    holm,
    paired_difference,
    sign_test,
)
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.numbers.pooled import SeedSpread
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.numbers.uncertainty import (
    LEAST_SEEDS,
    MARGINS,
    SIGNIFICANT,
    detectable_effect,
    equivalence_p,
    more_seeds,
)
from bridge.analysis.numbers.worlds import spread_note
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
    "verdict",
    "equivalence_margin",
    "minimum_detectable_effect",
    "more_seeds",
    "robust_low",
    "robust_high",
    "robust_p_value",
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
    "Points of 100, method minus baseline, on the same questions and the same seeds; in brackets "
    "the 95 % interval over training seeds and questions. The variance of training is pooled over "
    "the trained methods of the block and moderated by the pair's own; the CSV has the robust "
    "interval beside it, with each method's own variance.",
    "p: two-sided, adjusted by Holm per baseline: the averages are one family, decided beforehand "
    "to be the main comparison, the single benchmarks another. The untrained model has its own "
    "family; rows with identical answers count once; the pair of both baselines is tested once.",
    f"Bold: adjusted p below 0.05. No verdict with fewer than {LEAST_SEEDS} seeds a side.",
    "= 1 and = 2: equivalent within 1 or 2 points (two one-sided tests at 5 %, adjusted alike).",
    "Detectable gap: smallest difference found with 80 % power at the strictest level that Holm "
    "asks for, 5 % over the size of the family (noncentral t; median over the rows).",
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: seed x question answers per benchmark, and who graded them.

    `varies` is false for a side that is the same in every seed, such as the untrained model.
    """

    name: str
    answers: dict[str, pd.DataFrame]
    graders: tuple[str, ...]
    words: str = ""
    varies: bool = True


@dataclass(frozen=True)
class Contrast:
    """First minus second as fractions, or the reason why there is none.

    `robust` is the same comparison with each method's own variance and no pairing by seed; `won`
    and `lost` count questions answered better (on average over seeds) by the first or second.
    `level` is the strictest level that the family's adjustment asks for, 5 % over its size.
    """

    first: Side
    second: Side
    column: str
    difference: Difference | None = None
    robust: Difference | None = None
    won: int = 0
    lost: int = 0
    refused: str = ""
    p_adjusted: float | None = None
    margin: float | None = None
    """The smallest of the fixed margins within which the two are equivalent, if any."""
    level: float = SIGNIFICANT

    @cached_property
    def detectable(self) -> float | None:
        """Smallest difference found with 80 % power at the level used, a fraction."""
        if self.difference is None:
            return None
        return detectable_effect(self.difference.spread, self.level)

    @property
    def can_decide(self) -> bool:
        """Whether there are seeds enough for a verdict."""
        return self.difference is not None and self.difference.n_seeds >= LEAST_SEEDS

    @property
    def significant(self) -> bool:
        """Whether the adjusted p is below 0.05, with seeds enough."""
        return self.can_decide and self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """`above`, `below`, `equivalent` or `undecided`; empty without a difference."""
        if self.difference is None:
            return ""
        if self.significant:
            return "above" if self.difference.mean > 0 else "below"
        return "equivalent" if self.margin is not None else "undecided"

    @cached_property
    def more_seeds(self) -> int | None:
        """How many more seeds a side would decide, were the difference what was measured."""
        found = self.difference
        if found is None or self.verdict != "undecided" or found.n_seeds < 2:
            return None
        return more_seeds(found.spread, found.n_seeds, found.mean, self.level)

    def mirrored(self) -> Contrast:
        """The same comparison seen from the other side."""

        def turned(found: Difference | None) -> Difference | None:
            return found and replace(found, mean=-found.mean, seeds=found.seeds[::-1])

        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=turned(self.difference),
            robust=turned(self.robust),
            won=self.lost,
            lost=self.won,
        )


def arm(block: Block, method: str, column: str) -> Side:
    """A method of a block under one column; no answers where the cell has no number."""
    tables = block.answers[method, column]
    names = list(block.n_questions) if len(tables) > 1 else [column]
    words = ", ".join(block.cells[method, column].words)
    answers = dict(zip(names, tables, strict=False))
    return Side(method, answers, block.graders[method], words, block.varies(method, column))


def contrast(first: Side, second: Side, column: str, spread: SeedSpread | None = None) -> Contrast:
    """Compare two arms on the benchmarks and questions that both answered.

    With the `spread` of their block the seeds that both have are paired; without it, or where they
    share fewer than two, each side's variance is its own.
    """
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
    trained = first.varies + second.varies
    try:
        robust = paired_difference(left, right)
        pairs = _same_seeds(first, second, left, right) if spread and trained else None
        difference = paired_difference(*pairs, spread, trained) if pairs else robust
    except Refused as reason:
        return replace(empty, refused=str(reason))
    if pairs:
        left, right = pairs
    gaps = np.concatenate([a.mean(0) - b.mean(0) for a, b in zip(left, right, strict=True)])
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    return replace(empty, difference=difference, robust=robust, won=won, lost=lost)


def _same_seeds(
    first: Side, second: Side, left: list[Array], right: list[Array]
) -> tuple[list[Array], list[Array]] | None:
    """The answers of the seeds that both sides have, in the same order; None below two."""
    own, other = (next(iter(side.answers.values())).index for side in (first, second))
    seeds = own.intersection(other)
    if len(seeds) < 2:
        return None
    rows, others = own.get_indexer(seeds), other.get_indexer(seeds)
    return [table[rows] for table in left], [table[others] for table in right]


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
    """The same contrasts as one family: Holm's p, the level used and the margin of equivalence."""
    gaps = [item.difference for item in contrasts if item.difference]
    if not gaps:
        return list(contrasts)
    different = iter(holm([gap.p_value for gap in gaps]))
    equal = {margin: iter(holm([_equal(gap, margin) for gap in gaps])) for margin in MARGINS}
    found = []
    for item in contrasts:
        if item.difference:
            inside = [m for m in MARGINS if next(equal[m]) < SIGNIFICANT]
            margin = inside[0] if inside and item.can_decide else None
            p, level = float(next(different)), SIGNIFICANT / len(gaps)
            item = replace(item, p_adjusted=p, margin=margin, level=level)
        found.append(item)
    return found


def _equal(found: Difference, margin: float) -> float:
    return float(equivalence_p(found.spread, found.mean, margin))


@lru_cache(maxsize=64)
def block_differences(block: Block) -> list[Contrast]:
    """All methods against each baseline that has numbers, in every column.

    Per baseline two families: the overall column, which is the main comparison, and the single
    benchmarks. The untrained model has its own, a copy of another row none. The pair of two
    baselines is tested in the family of the first and shown, mirrored, beside the second.
    """
    baselines = [
        name
        for name in BASELINES
        if any(block.answers.get((name, column)) for column in block.columns)
    ]
    groups = [[block.overall], [c for c in block.columns if c != block.overall]]
    tested: dict[tuple[str, str, str], Contrast] = {}
    for place, baseline in enumerate(baselines):
        for columns in groups:
            tested |= _against(block, baseline, columns, baselines[:place])
    for method, baseline, column in list(tested):
        if method in baselines:
            tested[baseline, method, column] = tested[method, baseline, column].mirrored()
    return [
        _copied(block, tested, (method, baseline, column))
        for columns in groups
        for baseline in baselines
        for method in block.methods
        if method != baseline
        for column in columns
    ]


def differences_to(block: Block, baseline: str) -> list[Contrast]:
    """All other methods against any row in the overall column, in families of their own."""
    tested = _against(block, baseline, [block.overall])
    return [
        _copied(block, tested, (method, baseline, block.overall))
        for method in block.methods
        if method != baseline
    ]


def _against(
    block: Block, baseline: str, columns: Sequence[str], left_out: Sequence[str] = ()
) -> dict[tuple[str, str, str], Contrast]:
    """The families of one baseline: the trained methods, and the untrained one."""
    out = (baseline, *left_out, *block.copies)
    rivals = [method for method in block.methods if method not in out]
    untrained = [method for method in rivals if method == UNTRAINED]
    trained = [method for method in rivals if method != UNTRAINED]
    families = [[(m, baseline, c) for m in part for c in columns] for part in (trained, untrained)]
    return _family(block, families[0]) | _family(block, families[1])


def _family(
    block: Block, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], Contrast]:
    """Contrasts of (method, baseline, column) that are adjusted together."""
    found = [_contrast(block, *key) for key in keys]
    return dict(zip(keys, adjusted(found), strict=True))


def _contrast(block: Block, method: str, baseline: str, column: str) -> Contrast:
    sides = arm(block, method, column), arm(block, baseline, column)
    return contrast(*sides, column, block.spreads[column])


def _copied(
    block: Block, tested: dict[tuple[str, str, str], Contrast], key: tuple[str, str, str]
) -> Contrast:
    """A tested contrast, or that of the row that this one repeats answer by answer."""
    method, baseline, column = key
    if key in tested:
        return tested[key]
    original = block.copies.get(method, method), baseline, column
    if original in tested:
        return replace(tested[original], first=arm(block, method, column))
    return adjusted([_contrast(block, *key)])[0]


@lru_cache(maxsize=256)
def detectable_gap(block: Block, column: str) -> float | None:
    """Median over the differences to one row of what each could have shown, a fraction.

    The row is the first baseline with a number, else the first trained one; the level that of a
    family with all other trained rows. None below two such rows.
    """
    out = (UNTRAINED, *block.copies)
    rows = [m for m in block.methods if m not in out and block.answers[m, column]]
    if len(rows) < 2:
        return None
    reference = next((name for name in BASELINES if name in rows), rows[0])
    level = SIGNIFICANT / (len(rows) - 1)
    found = [_contrast(block, row, reference, column) for row in rows if row != reference]
    effects = [replace(item, level=level).detectable for item in found]
    known = [effect for effect in effects if effect is not None]
    return median(known) if known else None


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
        split = spread_note(block, list(methods), baseline)
        sheets.append(Sheet(title, head, rows, [*NOTES, *refused, *split]))
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
    found, robust = item.difference, item.robust
    if found is None or robust is None:
        return {}
    return {
        "points": 100 * found.mean,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "standard_error": 100 * found.standard_error,
        "p_value": found.p_value,
        "p_adjusted": item.p_adjusted,
        "verdict": item.verdict,
        "equivalence_margin": None if item.margin is None else 100 * item.margin,
        "minimum_detectable_effect": 100 * (item.detectable or 0.0),
        "more_seeds": item.more_seeds,
        "robust_low": 100 * robust.low,
        "robust_high": 100 * robust.high,
        "robust_p_value": robust.p_value,
        "questions_won": item.won,
        "questions_lost": item.lost,
        "sign_test_p": sign_test(item.won, item.lost),
        "n_seeds_method": found.seeds[0],
        "n_seeds_baseline": found.seeds[1],
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
    p = p_text(item.p_adjusted) + _equals(item)
    return Value(signed(100 * item.difference.mean), p, (p,), item.significant)


def signed(number: float) -> str:
    """A difference with its sign and one decimal; what rounds to nothing is +0.0."""
    return f"{round(number, 1) + 0.0:+.1f}"


def _equals(item: Contrast) -> str:
    """A mark behind the p of rows that are equivalent within 1 or 2 points."""
    return "" if item.margin is None else f", = {100 * item.margin:.0f}"


def _value(item: Contrast) -> Value:
    found = item.difference
    if found is None:
        return Value("–", is_word=True)
    p = p_text(item.p_adjusted) + _equals(item)
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
