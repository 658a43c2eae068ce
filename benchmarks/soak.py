"""The grader at full load for an hour: throughput, memory, lost verdicts, latency.

    make soak                                               an hour
    python -m benchmarks.soak --minutes 2                   a look, nothing written

Batches of 64 new answers go to one pool without a pause. Each of the honest ones needs a worker and
has a known verdict; every fiftieth or so is a text of ``tests/fixtures/hostile_texts.py``. Answers
differ, so that the pool's memory of verdicts decides none of them; that memory is kept small, so
that it is full, and no longer grows, after some minutes.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.pages import replace_part
from bridge.grading import GRADER_VERSION, VERDICTS, GradeItem, GraderLimits, GraderPool
from tests.fixtures.hostile_texts import boxed, corpus

BATCH = 64
HOSTILE_SHARE = 0.02
WINDOWS = 12
SAMPLE_EVERY_S = 2.0
PAGE = Path("docs/robustness.md")
CSV = Path("results/published/robustness/soak.csv")
MIB = 2**20


@dataclass(frozen=True)
class Question:
    """An item and the verdicts that are right for it."""

    item: GradeItem
    allowed: frozenset[str]


@dataclass
class Window:
    """What was counted in a twelfth of the time."""

    answers: int = 0
    hostile: int = 0
    timeouts: int = 0
    lost: int = 0
    changed: int = 0
    seconds: float = 0.0
    batch_s: list[float] = field(default_factory=list)
    workers_mib: list[float] = field(default_factory=list)
    parent_mib: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)


def honest(number: int) -> Question:
    """One of six kinds of answers, different for each number; every third one is wrong."""
    a, b = number + 3, 2 * number + 7
    wrong = number % 3 == 0
    c = b + wrong
    gold, answer = [
        (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{2 * a}}}{{{2 * c}}}"),
        (f"(x+{a})^2", f"x^2 + {2 * a}x + {a * a + wrong}"),
        (rf"\{{{a}, {b}\}}", rf"\{{{c}, {a}\}}"),
        (f"({a}, {b}]", rf"\left({a}, {c}\right]"),
        (rf"{a}\sqrt{{3}}", rf"\sqrt{{{3 * a * a + wrong}}}"),
        (rf"\frac{{{a}}}{{8}}", f"{(a + wrong) / 8}"),
    ][number % 6]
    return Question(GradeItem(boxed(answer), gold), frozenset({"wrong" if wrong else "correct"}))


def questions() -> Iterator[Question]:
    """Without end; the same in every process."""
    rng = random.Random(7)
    texts = [hostile.text for hostile in corpus()]
    number = 0
    while True:
        number += 1
        if rng.random() < HOSTILE_SHARE:
            # The gold is another one each time: a pair seen before would cost nothing.
            gold = rf"\frac{{{271_828 + number}}}{{314159}}"
            yield Question(GradeItem(rng.choice(texts), gold), VERDICTS - {"correct"})
        else:
            yield honest(number)


def soak(minutes: float, workers: int) -> list[Window]:
    """Grade for so long; one entry per window."""
    windows = [Window() for _ in range(WINDOWS)]
    length_s = minutes * 60 / WINDOWS
    source, parent = questions(), psutil.Process()
    with GraderPool(GraderLimits(workers=workers, cache_entries=5_000)) as pool:
        pool.grade([honest(0).item])
        start_s = before_s = sampled_s = time.monotonic()
        while before_s - start_s < minutes * 60:
            window = windows[min(int((before_s - start_s) / length_s), WINDOWS - 1)]
            batch = [next(source) for _ in range(BATCH)]
            graded = pool.grade([question.item for question in batch])
            now_s = time.monotonic()
            _count(window, batch, [result.verdict for result in graded], now_s - before_s)
            if now_s - sampled_s >= SAMPLE_EVERY_S:
                sampled_s = now_s
                _sample(window, pool, parent)
            before_s = now_s
    return windows


def _count(window: Window, batch: list[Question], verdicts: list[str], seconds: float) -> None:
    window.answers += len(verdicts)
    window.lost += len(batch) - len(verdicts)
    window.hostile += sum(len(question.allowed) > 1 for question in batch)
    window.timeouts += verdicts.count("timeout")
    window.changed += sum(v not in q.allowed for q, v in zip(batch, verdicts, strict=False))
    window.seconds += seconds
    window.batch_s.append(seconds)


def _sample(window: Window, pool: GraderPool, parent: psutil.Process) -> None:
    resident = 0
    for pid in pool.worker_pids():
        try:
            resident += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    window.workers_mib.append(resident / MIB)
    window.parent_mib.append(parent.memory_info().rss / MIB)
    window.load.append(os.getloadavg()[0])


def rows(windows: list[Window], minutes: float) -> list[dict[str, Any]]:
    """One row per window with figures, in minutes, MiB and seconds."""
    found = []
    for index, window in enumerate(windows):
        cuts = statistics.quantiles(window.batch_s, n=100, method="inclusive")
        found.append(
            {
                "from_min": round(index * minutes / WINDOWS, 2),
                "answers": window.answers,
                "per_s": round(window.answers / window.seconds, 1),
                "hostile": window.hostile,
                "timeouts": window.timeouts,
                "lost": window.lost,
                "changed": window.changed,
                "batch_p50_s": round(cuts[49], 2),
                "batch_p95_s": round(cuts[94], 2),
                "batch_p99_s": round(cuts[98], 2),
                "batch_max_s": round(max(window.batch_s), 2),
                "workers_mean_mib": round(statistics.mean(window.workers_mib), 1),
                "workers_max_mib": round(max(window.workers_mib), 1),
                "parent_mean_mib": round(statistics.mean(window.parent_mib), 1),
                "load": round(statistics.mean(window.load), 2),
            }
        )
    return found


def summary(windows: list[Window], table: list[dict[str, Any]], workers: int) -> list[str]:
    """What the table amounts to, in sentences."""
    total: Counter[str] = Counter()
    for row in table:
        total.update({k: row[k] for k in ("answers", "hostile", "timeouts", "lost", "changed")})
    cuts = statistics.quantiles([s for w in windows for s in w.batch_s], n=100, method="inclusive")
    seconds = sum(window.seconds for window in windows)
    loads = [load for window in windows for load in window.load]
    # The first quarter fills the pool's memory of verdicts.
    second, last = (
        statistics.mean(row["parent_mean_mib"] for row in table[i : i + WINDOWS // 4])
        for i in (WINDOWS // 4, WINDOWS - WINDOWS // 4)
    )
    slope = statistics.linear_regression(
        [row["from_min"] / 60 for row in table[WINDOWS // 4 :]],
        [row["workers_mean_mib"] for row in table[WINDOWS // 4 :]],
    ).slope
    return [
        f"{total['answers']:,} answers in {seconds / 60:.1f} minutes, {workers} workers,"
        f" {total['answers'] / seconds:.1f} a second; {total['hostile']:,} hostile ones"
        f" ({total['hostile'] / total['answers']:.1%}), {total['timeouts']:,} timeouts.",
        f"Lost verdicts: {total['lost']}. Verdicts other than the known one: {total['changed']}.",
        f"A batch of {BATCH} took {cuts[49]:.2f} s (median), {cuts[94]:.2f} s (95 %),"
        f" {cuts[98]:.2f} s (99 %), {max(max(w.batch_s) for w in windows):.2f} s at most.",
        f"Resident memory of the workers changed by {slope:+.1f} MiB an hour after the first"
        f" quarter; the process that owns the pool held {second:.0f} MiB in the second quarter and"
        f" {last:.0f} MiB in the last.",
        f"Load average of the machine ({os.cpu_count()} cores): {statistics.mean(loads):.1f} on"
        f" average, {min(loads):.1f} to {max(loads):.1f}. Grader: {GRADER_VERSION}.",
    ]


def page_part(lines: list[str], table: list[dict[str, Any]]) -> str:
    """Markdown for the page."""
    head = list(table[0])
    text = [f"- {line}" for line in lines]
    text += ["", f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    text += ["| " + " | ".join(f"{row[name]}" for name in head) + " |" for row in table]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"replace {CSV} and its page's table")
    args = parser.parse_args()
    windows = soak(args.minutes, args.workers)
    if not all(len(w.batch_s) > 1 and w.workers_mib for w in windows):
        raise SystemExit("Too short: a twelfth of the time held no two batches; more --minutes.")
    table = rows(windows, args.minutes)
    lines = summary(windows, table, args.workers)
    part = page_part(lines, table)
    print(part)
    if args.write:
        CSV.parent.mkdir(parents=True, exist_ok=True)
        with CSV.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
        replace_part(PAGE, "soak", part)
    if any(row["lost"] or row["changed"] for row in table):
        sys.exit("soak: verdicts were lost or changed, see the table")


if __name__ == "__main__":
    main()
