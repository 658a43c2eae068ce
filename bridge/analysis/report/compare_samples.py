"""`bridge compare --samples A.jsonl B.jsonl`: two files that lm-eval wrote with `--log_samples`.

Whose models and whose tasks these are does not matter. Questions are paired by the hash of their
content; each metric under each of lm-eval's filters is compared by itself, A subtracted from B.
What varies in the intervals is the questions: a file holds one model, and says nothing of others
that the same training could have given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from bridge.analysis.numbers.frames import TidyError
from bridge.analysis.numbers.paired import Refused, paired_difference, sign_test
from bridge.analysis.numbers.uncertainty import detectable_effect

Key = tuple[str, str]
"""Metric and filter."""
_NO_METRICS = frozenset({"doc_id", "doc_hash", "prompt_hash", "target_hash"})


@dataclass(frozen=True)
class SampleComparison:
    """One metric of two files on the questions that both hold; all but counts are fractions."""

    metric: str
    filter: str
    left: float
    right: float
    difference: float
    """Right minus left."""
    low: float
    high: float
    p_value: float
    detectable: float
    """Smallest difference that 80 % of such comparisons would find at two-sided 5 %."""
    n_questions: int
    right_only: int
    """Questions on which the right one scores more, and the left one (below)."""
    left_only: int
    sign_p_value: float

    def text(self) -> str:
        """Three lines, in points of 100."""
        name = self.metric if self.filter in ("none", "") else f"{self.metric} ({self.filter})"
        return (
            f"{name}: A {100 * self.left:.1f}, B {100 * self.right:.1f}\n"
            f"  B - A: {100 * self.difference:+.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}], "
            f"p = {self.p_value:.3g}; detectable: {100 * self.detectable:.1f}\n"
            f"  B better on {self.right_only} questions, A on {self.left_only} "
            f"(sign test: p = {self.sign_p_value:.3g})"
        )


def compare_samples(left: Path, right: Path) -> list[SampleComparison]:
    """Compare every metric between 0 and 1 that both files have.

    Raises:
        TidyError: a file is not there, is none of lm-eval's, or the two have too few questions or
            no metric in common; one sentence.
    """
    sides = [_read(left), _read(right)]
    keys = [key for key in sides[0] if key in sides[1]]
    if not keys:
        raise TidyError(
            f"{left} and {right} have no metric in common: {_names(sides[0])} and "
            f"{_names(sides[1])}; compare files of one task."
        )
    return [_compare(key, sides[0][key], sides[1][key], left, right) for key in keys]


def run_compare_samples(left: Path, right: Path, *, as_json: bool) -> str:
    """What the command prints."""
    found = compare_samples(left, right)
    if as_json:
        return json.dumps([asdict(one) for one in found], indent=1)
    n = found[0].n_questions
    return "\n".join(
        [f"A: {left}", f"B: {right}", f"{n} questions in both, paired; points of 100", ""]
        + [one.text() for one in found]
        + ["", "Brackets: 95 % interval over questions. Training seeds are not in it."]
    )


def _compare(
    key: Key, first: Mapping[str, float], second: Mapping[str, float], left: Path, right: Path
) -> SampleComparison:
    shared = [question for question in first if question in second]
    a, b = (np.array([[side[q] for q in shared]], float) for side in (first, second))
    try:
        found = paired_difference([b], [a])
    except Refused as error:
        raise TidyError(
            f"{left} ({len(first)} questions) and {right} ({len(second)}): {error}; compare files "
            "of one task and one split."
        ) from None
    wins, losses = int((b > a).sum()), int((b < a).sum())
    return SampleComparison(
        metric=key[0],
        filter=key[1],
        left=float(a.mean()),
        right=float(b.mean()),
        difference=found.mean,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        detectable=detectable_effect(found.spread),
        n_questions=found.n_questions,
        right_only=wins,
        left_only=losses,
        sign_p_value=sign_test(wins, losses),
    )


def _read(path: Path) -> dict[Key, dict[str, float]]:
    """Values by metric and filter, then by question."""
    values: dict[Key, dict[str, float]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(_rows(path), 1):
        where = f"{path}, line {number}"
        if "doc_id" not in row:
            raise TidyError(
                f"{where}: no doc_id; name a file that lm_eval wrote with --log_samples."
            )
        kind, content = str(row.get("filter", "none")), str(row.get("doc_hash", row["doc_id"]))
        # A question may stand in a task twice.
        seen[kind, content] += 1
        question = f"{content}#{seen[kind, content]}"
        for metric in _metrics(row):
            value = row.get(metric)
            if isinstance(value, (int, float)) and not isfinite(value):
                raise TidyError(f"{where}: {metric} is {value}; evaluate this model again.")
            if isinstance(value, (int, float)):
                values.setdefault((metric, kind), {})[question] = float(value)
    kept = {k: v for k, v in values.items() if all(0 <= x <= 1 for x in v.values())}
    if not kept:
        raise TidyError(
            f"{path}: no metric with values from 0 to 1 per question ({_names(values)}); only such "
            "are compared."
        )
    sizes = {kind: max(len(v) for k, v in kept.items() if k[1] == kind) for _, kind in kept}
    holes = [key for key, found in kept.items() if len(found) < sizes[key[1]]]
    if holes:
        raise TidyError(f"{path}: some questions have no {holes[0][0]}; evaluate this model again.")
    return kept


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise TidyError(f"{path}: no such file; correct its path.") from None
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not UTF-8"
        raise TidyError(f"{path} cannot be read: {words}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)  # lm-eval writes NaN where it has no number
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise TidyError(
                f"{path}, line {number}: not a JSON object; name a samples_*.jsonl file that "
                "lm_eval wrote with --log_samples."
            )
        rows.append(row)
    if not rows:
        raise TidyError(f"{path} holds no samples; evaluate this model with --log_samples.")
    return rows


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Names of the metrics; older versions of lm-eval do not list them."""
    named = row.get("metrics")
    if isinstance(named, list):
        return [str(name) for name in named]
    return [k for k, v in row.items() if k not in _NO_METRICS and isinstance(v, (int, float))]


def _names(values: Mapping[Key, object]) -> str:
    return ", ".join(dict.fromkeys(metric for metric, _ in values)) or "none"
