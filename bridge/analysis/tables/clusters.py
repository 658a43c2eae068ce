"""The table of clusters: what changes when questions of one pattern do not count as independent.

Questions that differ only in their numbers and in the names of single letters are of one pattern
(`pattern`). The main tables speak of new questions of the kinds that were asked; the intervals here
speak of new kinds as well. Rows are the block's leading row minus every other one, because those
differences carry the report's first sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.clustered import clustered_difference
from bridge.analysis.numbers.frames import read_table
from bridge.analysis.numbers.paired import Difference, Refused
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.numbers.statistics import Array
from bridge.analysis.tables.differences import (
    Contrast,
    adjusted,
    p_text,
    shared_answers,
    signed,
)
from bridge.analysis.tables.leading import block_lead
from bridge.analysis.tables.render import Sheet, Value
from bridge.collect.contamination import renamed

COLUMNS = ("dataset", "benchmark", "question_id", "question")
HEAD = (
    "suite",
    "model",
    "dataset",
    "leader",
    "method",
    "points",
    "low",
    "high",
    "p_adjusted",
    "clustered_low",
    "clustered_high",
    "clustered_p_adjusted",
    "width_ratio",
    "refused",
)
NOTES = (
    "In the last accuracy column, points of 100. Questions of one pattern differ only in their "
    "numbers and in the names of single letters. First interval: new seeds and new questions of "
    "the patterns that were asked, as in the other tables. Second: new patterns too, with a "
    "clustered standard error.",
    "p: adjusted by Holm over the rows. Bold: below 0.05 with the clustered standard error. Width: "
    "of the second interval over the first.",
)

Patterns = dict[tuple[str, str], dict[str, str]]


def pattern(question: str) -> str:
    """A question without its numbers, single letters numbered in order of appearance."""
    return renamed(re.sub(r"\d+", "0", question))


def load_patterns(tidy_dir: Path) -> Patterns | None:
    """The pattern of each question by (dataset, benchmark) and id; None without `answers`."""
    path = tidy_dir / "answers.parquet"
    if not path.is_file():
        return None
    table = read_table(path, COLUMNS).astype(str).drop_duplicates()
    found: Patterns = {}
    for dataset, benchmark, name, question in table.itertuples(index=False):
        found.setdefault((dataset, benchmark), {})[name] = pattern(question)
    return found


@dataclass(frozen=True)
class Clustered:
    """The leader minus another row with both intervals, or why there is no second one."""

    plain: Contrast
    wider: Contrast
    refused: str = ""

    @property
    def ratio(self) -> float:
        """Width of the clustered interval over that of the plain one."""
        assert self.plain.difference and self.wider.difference
        narrow = self.plain.difference.half_width
        return self.wider.difference.half_width / narrow if narrow else 1.0


def block_clusters(block: Block, patterns: Patterns) -> list[Clustered]:
    """Every row against the leader; without a second interval where patterns are too few."""
    lead = block_lead(block)
    rivals = [item.mirrored() for item in lead.rivals if item.difference] if lead else []
    found, refused = [], []
    for item in rivals:
        try:
            found.append(replace(item, difference=_clustered(block, item, patterns)))
            refused.append("")
        except Refused as reason:
            found.append(item)
            refused.append(str(reason))
    together = zip(rivals, adjusted(found), refused, strict=True)
    return [Clustered(plain, wider, reason) for plain, wider, reason in together]


def cluster_sheet(block: Block, patterns: Patterns) -> Sheet:
    """Rows from the nearest to the farthest, and how many patterns each benchmark has."""
    found = block_clusters(block, patterns)
    leader = label(found[0].plain.first.name) if found else "no row"
    title = f"{block.model} trained on {block.dataset}: {leader} minus each other row"
    head = [Value("minus"), Value("difference"), Value("new patterns too"), Value("width")]
    rows = [
        [
            Value(label(item.plain.second.name)),
            _value(item.plain),
            Value("–", is_word=True) if item.refused else _value(item.wider, bold=True),
            Value("" if item.refused else f"× {item.ratio:.2f}"),
        ]
        for item in found
    ]
    reasons = dict.fromkeys(item.refused for item in found if item.refused)
    refused = [f"{block.dataset}, no second interval: {reason}." for reason in reasons]
    return Sheet(title, head, rows, [*NOTES, *_counts(block, patterns), *refused])


def cluster_rows(suite: str, block: Block, patterns: Patterns) -> list[dict[str, object]]:
    """One row per row of the block, points of 100."""
    rows = []
    for item in block_clusters(block, patterns):
        plain, wider = item.plain.difference, item.wider.difference
        assert plain and wider
        row: dict[str, object] = {
            "suite": suite,
            "model": block.model,
            "dataset": block.dataset,
            "leader": item.plain.first.name,
            "method": item.plain.second.name,
            "points": 100 * plain.mean,
            "low": 100 * plain.low,
            "high": 100 * plain.high,
            "p_adjusted": item.plain.p_adjusted,
            "refused": item.refused,
        }
        if not item.refused:
            row |= {
                "clustered_low": 100 * wider.low,
                "clustered_high": 100 * wider.high,
                "clustered_p_adjusted": item.wider.p_adjusted,
                "width_ratio": item.ratio,
            }
        rows.append(row)
    return rows


def _clustered(block: Block, item: Contrast, patterns: Patterns) -> Difference:
    gaps: list[Array] = []
    labels: list[list[str]] = []
    # All rows of a block that have a number have answered the same questions.
    for name, a, b in zip(
        item.first.answers, *shared_answers(item.first, item.second), strict=True
    ):
        known = patterns.get((block.dataset, name), {})
        questions = item.first.answers[name].columns
        if not known.keys() >= set(questions):
            raise Refused(f"the texts of {name} were not collected")
        gaps.append(np.asarray(a.mean(0) - b.mean(0)))
        labels.append([known[question] for question in questions])
    assert item.difference
    return clustered_difference(item.difference, gaps, labels)


def _counts(block: Block, patterns: Patterns) -> list[str]:
    """Per benchmark: questions, patterns, and the size of the largest."""
    said = []
    for name, n_questions in block.n_questions.items():
        if sizes := Counter(patterns.get((block.dataset, name), {}).values()):
            largest = max(sizes.values())
            text = f"{n_questions} questions of {len(sizes)} patterns, at most {largest} of one"
            said.append(f"{benchmark_label(name, block.dataset)} {text}")
    return [f"{block.dataset}: {'; '.join(said)}."] if said else []


def _value(item: Contrast, bold: bool = False) -> Value:
    assert item.difference
    mean, low, high = (
        signed(100 * number)
        for number in (item.difference.mean, item.difference.low, item.difference.high)
    )
    p = p_text(item.p_adjusted)
    return Value(mean, f"[{low}, {high}] {p}", (f"{low}..{high}", p), bold and item.significant)
