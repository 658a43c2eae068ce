"""`bridge compare A B`: two runs, two methods or two suites, paired by question, with their costs.

    bridge compare rl_zero bridge                     two methods of a suite, per model and dataset
    bridge compare tiny-qwen/chains/sft/seed0 tiny-qwen/chains/sft/seed1      two runs of a suite
    bridge compare laptop single_gpu                  two suites, method by method

Everywhere the first named is subtracted from the second and divides it, as in "from A to B".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pandas as pd

from bridge.analysis.numbers.cells import Block, build_blocks
from bridge.analysis.numbers.frames import DONE, Tidy, TidyError, block_of, cautions, load_tidy
from bridge.analysis.numbers.paired import Refused, log_ratio
from bridge.analysis.numbers.sequential import Look, look
from bridge.analysis.numbers.uncertainty import MARGINS
from bridge.analysis.report.compare_text import COSTS, ComparedMetric, ComparedPair, CostRatio
from bridge.analysis.tables.differences import (
    Side,
    adjusted,
    arm,
    contrast,
)
from bridge.store.columns import KEY
from bridge.store.records import read_json, run_folder, suite_folder

RUN = re.compile(r"(?P<model>[^/]+)/(?P<dataset>[^/]+)/(?P<method>[^/]+)/seed(?P<seed>\d+)")


def compare(
    tidy: Tidy,
    left: str,
    right: str,
    other: Tidy | None = None,
    specs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
) -> ComparedMetric:
    """Compare two runs or two methods of `tidy`, or, with `other`, two suites of these names.

    `specs` maps a pair's title to the two run specifications behind it, for the configuration
    difference. Raises TidyError, one line, for a name that is neither a run nor a method, for two
    sides of different kinds, and for sides that have no place in common.
    """
    if other is not None:
        kind, pairs = "suites", _suites(tidy, other)
    elif RUN.fullmatch(left) and RUN.fullmatch(right):
        kind, pairs = "runs", [_runs(tidy, left, right)]
    elif RUN.fullmatch(left) or RUN.fullmatch(right):
        raise TidyError(f"'{left}' and '{right}' are not both runs; name two runs or two methods")
    else:
        kind, pairs = "methods", _methods(tidy, left, right)
    if not pairs:
        raise TidyError(f"'{left}' and '{right}' have no model, dataset and method in common")
    counted = iter(adjusted([item for pair in pairs for item in pair.contrasts]))
    pairs = [
        replace(
            pair,
            contrasts=tuple(next(counted) for _ in pair.contrasts),
            config=config_difference(*specs[pair.title]) if specs and pair.title in specs else (),
        )
        for pair in pairs
    ]
    said = cautions(tidy) if other is None else [*cautions(tidy), *cautions(other)]
    if other is not None:
        said += _unlike(tidy, other)
    return ComparedMetric(kind, left, right, tuple(pairs), tuple(dict.fromkeys(said)))


def run_compare(
    results: Path, left: str, right: str, suite: str, json: bool = False, tidy: Path | None = None
) -> str:
    """What the command prints: names are looked up as runs and methods of `suite`, then as suites.

    `tidy` reads the suite's tables from elsewhere. Configuration differences come from `spec.json`
    of the runs where the run folders are at hand.
    """
    names = () if "/" in left + right else (left, right)
    folders = [suite_folder(results, name) / "tidy" for name in names]
    if folders and all((folder / "runs.parquet").is_file() for folder in folders):
        first, second = load_tidy(folders[0]), load_tidy(folders[1])
        found = compare(first, left, right, second, _specs(results, first, second, left, right))
    else:
        table = load_tidy(tidy or suite_folder(results, suite) / "tidy")
        found = compare(table, left, right, None, _specs(results, table, None, left, right))
    return found.as_json() if json else found.text()


def config_difference(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    """Settings that differ, as (dotted key, left, right); a dash where a side lacks the key."""
    first, second = _flat(left), _flat(right)
    keys = sorted(first.keys() | second.keys())
    return tuple(
        (key, first.get(key, "–"), second.get(key, "–"))
        for key in keys
        if first.get(key) != second.get(key)
    )


# -- places where both sides can be compared -------------------------------------------------------


def _methods(tidy: Tidy, left: str, right: str) -> list[ComparedPair]:
    known = set(tidy.runs["method"].astype(str))
    for name in (left, right):
        if name not in known:
            raise TidyError(
                f"'{name}' is no method of the suite {tidy.suite} ({', '.join(sorted(known))}), no "
                "run as model/dataset/method/seed0, and no suite with results"
            )
    return [
        _pair(block, block, left, right, tidy, tidy, f"{block.model} x {block.dataset}")
        for block in build_blocks(tidy)
        if left in block.methods and right in block.methods
    ]


def _suites(first: Tidy, second: Tidy) -> list[ComparedPair]:
    others = {(block.model, block.dataset): block for block in build_blocks(second)}
    return [
        _pair(block, others[key], method, method, first, second, f"{'/'.join(key)}/{method}")
        for block in build_blocks(first)
        if (key := (block.model, block.dataset)) in others
        for method in block.methods
        if method in others[key].methods
    ]


def _runs(tidy: Tidy, left: str, right: str) -> ComparedPair:
    sides = [_one_run(tidy, name) for name in (left, right)]
    (first, method), (second, other) = [(part, str(part.runs["method"].iloc[0])) for part in sides]
    blocks = [build_blocks(part)[0] for part in sides]
    return _pair(blocks[0], blocks[1], method, other, first, second, f"{left} and {right}")


def _one_run(tidy: Tidy, name: str) -> Tidy:
    match = RUN.fullmatch(name)
    assert match
    wanted = match.groupdict() | {"seed": int(match["seed"])}

    def cut(table: pd.DataFrame) -> pd.DataFrame:
        for column, value in wanted.items():
            table = table[table[column] == value]
        return table

    runs = cut(tidy.runs)
    if runs.empty:
        raise TidyError(f"'{name}' is no run of the suite {tidy.suite}; see `bridge status`")
    if str(runs["status"].iloc[0]) != DONE:
        raise TidyError(f"'{name}' has no result: its status is {runs['status'].iloc[0]}")
    return Tidy(runs, cut(tidy.scores), cut(tidy.dynamics), cut(tidy.costs))


def _pair(
    left_block: Block,
    right_block: Block,
    left: str,
    right: str,
    left_tidy: Tidy,
    right_tidy: Tidy,
    title: str,
) -> ComparedPair:
    shared = [column for column in left_block.columns if column in right_block.columns]
    contrasts, means = [], {}
    for column in shared:
        sides = [_named(left_block, left, column), _named(right_block, right, column)]
        # Seeds are paired and pooled within a block; two suites or two runs share neither.
        spread = left_block.spreads[column] if left_block is right_block else None
        contrasts.append(contrast(sides[1], sides[0], column, spread))
        cells = [left_block.cells[left, column], right_block.cells[right, column]]
        low, high = (100 * c.interval.mean if c.interval else None for c in cells)
        means[column] = (low, high)
    costs = [_costs(left_tidy, left_block, left), _costs(right_tidy, right_block, right)]
    ratios = tuple(_cost_ratios(*costs))
    seen = _look(left_block, left, right) if left_block is right_block else None
    return ComparedPair(title, tuple(contrasts), means, ratios, look=seen)


def _look(block: Block, left: str, right: str) -> Look | None:
    """The confidence sequence of a difference over its seeds, or worlds, in points; None with one
    of them, or where a side is the same in all."""
    if not all(block.varies(method, block.overall) for method in (left, right)):
        return None
    sides = [
        pd.concat([table.mean(axis=1) for table in block.answers[method, block.overall]], axis=1)
        for method in (left, right)
    ]
    gaps = 100 * (sides[1].mean(axis=1) - sides[0].mean(axis=1)).dropna().to_numpy(float)
    return look(gaps, 100 * max(MARGINS)) if len(gaps) > 1 else None


def _named(block: Block, method: str, column: str) -> Side:
    return replace(arm(block, method, column), name=f"{block.model}/{block.dataset}/{method}")


def _costs(tidy: Tidy, block: Block, method: str) -> pd.DataFrame:
    runs = block_of(tidy.runs, block.model, block.dataset)
    runs = runs[(runs["method"] == method) & (runs["status"] == DONE)]
    return tidy.costs.merge(runs[list(KEY)], on=list(KEY), how="inner")


def _cost_ratios(left: pd.DataFrame, right: pd.DataFrame) -> list[CostRatio]:
    found = []
    for quantity in COSTS:
        sides = [table[quantity].dropna().to_numpy(float) for table in (left, right)]
        if not all(len(side) for side in sides) or not any(side.any() for side in sides):
            continue
        first, second = (float(side.mean()) for side in sides)
        ratio = second / first if first > 0 else None
        try:
            estimate = log_ratio(sides[1], sides[0])
            limits = [exp(estimate.mean), exp(estimate.low), exp(estimate.high)]
            found.append(CostRatio(quantity, first, second, *limits))
        except Refused:
            found.append(CostRatio(quantity, first, second, ratio))
    return found


def _unlike(first: Tidy, second: Tidy) -> list[str]:
    said = []
    for column, what in (("data_hash", "data"), ("base_model_hash", "base models")):
        for pair in first.blocks:
            values = [
                set(block_of(tidy.runs, *pair)[column].dropna().astype(str))
                for tidy in (first, second)
            ]
            if all(values) and values[0] != values[1]:
                said.append(f"the suites have different {what} for {' x '.join(pair)}")
    return said


def _specs(
    results: Path, first: Tidy, second: Tidy | None, left: str, right: str
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Specifications of the first seed behind each pair, where their folders are at hand."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    runs = [RUN.fullmatch(name) for name in (left, right)]
    if runs[0] and runs[1]:
        paths = [_spec(results, first, *match.groups()) for match in runs if match]
        places = [(f"{left} and {right}", paths)]
    else:
        places = []
        for model, dataset in first.blocks:
            if second is None:
                sides = [(first, left), (first, right)]
                places.append((f"{model} x {dataset}", _both(results, sides, model, dataset)))
                continue
            for method in first.methods(model, dataset):
                sides = [(first, method), (second, method)]
                title = f"{model}/{dataset}/{method}"
                places.append((title, _both(results, sides, model, dataset)))
    for title, paths in places:
        if len(paths) == 2 and all(path.is_file() for path in paths):
            found[title] = (read_json(paths[0]), read_json(paths[1]))
    return found


def _both(results: Path, sides: Sequence[tuple[Tidy, str]], model: str, dataset: str) -> list[Path]:
    paths = []
    for tidy, method in sides:
        runs = block_of(tidy.runs, model, dataset)
        seeds = runs.loc[runs["method"] == method, "seed"]
        if len(seeds):
            paths.append(_spec(results, tidy, model, dataset, method, str(seeds.min())))
    return paths


def _spec(results: Path, tidy: Tidy, model: str, dataset: str, method: str, seed: str) -> Path:
    return run_folder(results, tidy.suite, model, dataset, method, int(seed)).spec


def _flat(spec: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(spec, Mapping) and spec:
        return {
            key: value
            for name, inner in spec.items()
            for key, value in _flat(inner, f"{prefix}{name}.").items()
        }
    return {prefix.removesuffix("."): json.dumps(spec, sort_keys=True)}
