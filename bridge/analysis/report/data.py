"""What the report's scripts read: training curves and a sample of answers, as embedded JSON.

Everything here is text or numbers. Model output is untrusted: `embed` makes JSON that cannot end
the element it stands in, and the script only ever writes it as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bridge.analysis.figures.curves import SEEDS_FOR_BAND, with_status
from bridge.analysis.numbers.cells import UNTRAINED
from bridge.analysis.numbers.frames import DONE, Tidy, TidyError, block_of, read_table
from bridge.analysis.numbers.palette import benchmark_label, label, style
from bridge.analysis.numbers.statistics import Array, t_limits
from bridge.analysis.tables.render import INVISIBLE
from bridge.store.columns import KEY

X_AXES = {
    "progress": "training progress",
    "step": "step",
    "rl_step": "RL step",
    "elapsed_s": "training time (s)",
}
METRICS = {
    "heldout_accuracy": "held-out accuracy (points)",
    "reward_mean": "training reward",
    "accuracy": "training accuracy (points)",
    "response_length_mean": "response length (tokens)",
    "response_length_max": "longest response (tokens)",
    "truncated_share": "truncated share",
    "zero_spread_share": "groups with equal rewards",
    "entropy": "entropy",
    "kl": "KL",
    "demo_loss_train": "demonstration loss, train",
    "demo_loss_heldout": "demonstration loss, held out",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
}
POINTS = {"heldout_accuracy", "accuracy"}
"""Fractions that are shown as points of 100, as everywhere on the page."""
HIGHEST = dict.fromkeys(POINTS, 100.0) | {"truncated_share": 1.0, "zero_spread_share": 1.0}
"""Quantities between 0 and this, where no limit can lie outside."""
MOST_POINTS = 400
QUESTIONS_PER_BENCHMARK = 12
LONGEST_ANSWER = 4_000
ALL_ANSWERS = 3_000_000
ANSWER_COLUMNS = (
    *KEY,
    "benchmark",
    "question_id",
    "question",
    "gold",
    "difficulty",
    "sample",
    "text",
    "length",
    "extracted",
    "verdict",
)
# Surrogates break files; what cannot be seen makes text look like something else.
UNREADABLE = re.compile(f"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f{INVISIBLE}]")
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def embed(value: Any) -> str:
    """JSON for a script element: no `<`, `>` or `&`, no line separators, valid UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(ESCAPES)


def readable(text: str) -> str:
    """Text over several lines with what cannot or must not be shown replaced by U+FFFD."""
    return UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def curve_data(tidy: Tidy, classes: dict[str, str]) -> dict[str, Any]:
    """Mean and 95 % limits over finished seeds of every logged number, by block and method."""
    rows = with_status(tidy)
    numbers = [str(n) for n in rows.select_dtypes("number") if n not in {*KEY, *X_AXES}]
    known = [name for name in METRICS if name in numbers]
    metrics = [n for n in dict.fromkeys([*known, *numbers]) if rows[n].notna().any()]
    blocks: list[dict[str, Any]] = []
    for model, dataset in tidy.blocks:
        block = block_of(rows, model, dataset)
        found = [
            _method_curves(block, method, metrics) | {"method": method, "class": classes[method]}
            for method in tidy.methods(model, dataset)
            if method != UNTRAINED
        ]
        blocks.append(
            {
                "name": readable(f"{model} · {dataset}"),
                "curves": [curve for curve in found if curve["y"]],
            }
        )
    shown = {name for block in blocks for curve in block["curves"] for name in curve["y"]}
    return {
        "axes": X_AXES,
        "metrics": {
            name: METRICS.get(name, readable(name).replace("_", " "))
            for name in metrics
            if name in shown
        },
        "blocks": [block for block in blocks if block["curves"]],
    }


def load_answers(tidy_dir: Path) -> pd.DataFrame | None:
    """The optional table `answers.parquet`; None where it was not collected."""
    path = tidy_dir / "answers.parquet"
    if not path.is_file():
        return None
    answers = read_table(path)
    absent = [column for column in ANSWER_COLUMNS if column not in answers.columns]
    if absent:
        raise TidyError(f"{path} lacks the column {', '.join(absent)}")
    return answers


def answer_data(tidy: Tidy, answers: pd.DataFrame, classes: dict[str, str]) -> dict[str, Any]:
    """Per block: the first questions of each benchmark with each method's greedy answer.

    One seed is shown, the lowest; long answers are cut (`length` says how long they were).
    """
    blocks = [
        block
        for model, dataset in tidy.blocks
        if (block := _answer_block(tidy, block_of(answers, model, dataset), model, dataset))
    ]
    count = sum(len(q["answers"]) for block in blocks for q in block["questions"])
    most = max(200, min(LONGEST_ANSWER, ALL_ANSWERS // max(count, 1)))
    for block in blocks:
        for method in block["methods"]:
            method["class"] = classes[method["id"]]
        for question in block["questions"]:
            for key in ("question", "gold"):
                question[key] = question[key][:LONGEST_ANSWER]
            for answer in question["answers"].values():
                answer["text"] = answer["text"][:most]
                answer["extracted"] = answer["extracted"][:200]
    return {"blocks": blocks, "most": most}


def _method_curves(block: pd.DataFrame, method: str, metrics: Iterable[str]) -> dict[str, Any]:
    """One method: x values by axis, and per metric its points, those that all seeds have.

    `at` lists the places of a metric's points on the axes, where it does not have them all.
    """
    rows = block[(block["method"] == method) & (block["status"] == DONE)]
    steps = rows.groupby("step")[[name for name in X_AXES if name != "step"]].mean()
    steps["step"] = steps.index
    steps.loc[steps["rl_step"] == 0, "rl_step"] = np.nan
    keep = steps.index[:: max(1, -(-len(steps) // MOST_POINTS))]
    y: dict[str, Any] = {}
    for metric in metrics:
        values = rows.pivot(index="seed", columns="step", values=metric).dropna(axis=1)
        # A metric that was logged now and then keeps all its points.
        if values.shape[1] > MOST_POINTS:
            values = values.loc[:, values.columns.isin(keep)]
        if values.shape[1]:
            scale = 100.0 if metric in POINTS else 1.0
            y[metric] = _limits(scale * values.to_numpy(float), HIGHEST.get(metric))
            y[metric]["at"] = steps.index.get_indexer(values.columns).tolist()
    looks = style(method)
    return {
        "label": readable(looks.label),
        "color": looks.color,
        "dash": [2 * length for length in looks.dashes],
        "seeds": int(rows["seed"].nunique()),
        "x": {axis: _values(steps[axis].to_numpy(float)) for axis in X_AXES},
        "y": y,
    }


def _limits(values: Array, highest: float | None) -> dict[str, Any]:
    found = {"mean": _values(values.mean(0))}
    if len(values) >= SEEDS_FOR_BAND:
        low, high = t_limits(values)
        if highest is not None:
            low, high = np.clip(low, 0, highest), np.clip(high, 0, highest)
        found |= {"low": _values(low), "high": _values(high)}
    return found


def _values(values: Array) -> list[float | None]:
    """Five significant digits; what is not finite has no place in JSON."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values.tolist()]


def _answer_block(
    tidy: Tidy, answers: pd.DataFrame, model: str, dataset: str
) -> dict[str, Any] | None:
    if answers.empty:
        return None
    answers = answers[answers["seed"] == answers["seed"].min()]
    # The greedy answer has the lowest sample number.
    answers = answers.sort_values("sample", kind="stable").drop_duplicates(
        ["method", "benchmark", "question_id"]
    )
    answers = answers.sort_index()
    ranks = answers.drop_duplicates(["benchmark", "question_id"]).groupby("benchmark").cumcount()
    first = answers.loc[ranks[ranks < QUESTIONS_PER_BENCHMARK].index]
    chosen = first[["benchmark", "question_id"]]
    answers = answers.merge(chosen, on=["benchmark", "question_id"])
    methods = [m for m in tidy.methods(model, dataset) if m in set(answers["method"])]
    questions: dict[tuple[str, str], dict[str, Any]] = {}
    for row in answers.astype(object).to_dict("records"):
        key = (str(row["benchmark"]), str(row["question_id"]))
        question = questions.setdefault(
            key,
            {
                "benchmark": readable(benchmark_label(key[0], dataset)),
                "id": readable(key[1]),
                "question": _text(row["question"]),
                "gold": _text(row["gold"]),
                "difficulty": _text(row["difficulty"]),
                "answers": {},
            },
        )
        question["answers"][str(row["method"])] = {
            name: _text(row[name]) for name in ("verdict", "extracted", "text")
        } | {"length": int(row["length"])}
    return {
        "name": readable(f"{model} · {dataset}"),
        "seed": int(answers["seed"].iloc[0]),
        "methods": [{"id": m, "label": readable(label(m))} for m in methods],
        "questions": list(questions.values()),
    }


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA
    return "" if missing else readable(str(value))
