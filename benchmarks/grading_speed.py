r"""How long does grading take: rewritten real golds, pairs that come back, and hostile text?

    python -m benchmarks.grading_speed --data-root FOLDER

At most 10,000 pairs of a real gold answer and an equal answer in another form (those of
``benchmarks/grading_parity.py``), drawn from all sets, which give 9,052. First math-verify alone in
one process, then our pool with a worker per core; then the same pairs again, which the pool has
seen. Answers on which math-verify alone spends its whole time limit are counted, and their seconds
are left out of its time, though not out of ours. Last, 5 MB of braces in three arrangements: CPU
seconds of the process that owns the pool, which in a run is the training process. Other seconds are
by the clock, which is what counts for a pool; ``cpu_s`` are of all its processes.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grading_parity import LEFT_OUT, LIMIT_S, alone, forms, golds
from benchmarks.parts import Numbers, significant, write_part
from benchmarks.processor import n_cores
from bridge.grading import GRADER_VERSION, GradeItem, GraderPool
from bridge.grading.verdicts import GraderLimits
from bridge.tasks.real.repairs import repaired
from bridge.tasks.real.sources import DATA_ROOT_VARIABLE, manifest

PAIRS = 10_000
BRACES = 5_000_000
BRACES_GOAL_S = 10.0
MADE_UP = (
    r"\frac{1}{2}",
    "0.25",
    "1234567",
    r"4.5 \times 10^{33}",
    "1, 2, 3",
    "-7",
    r"\frac{22}{7}",
)
"""Golds for a machine without the real files; of no real answer's distribution."""
NO_DATA = (
    f"there are no real gold answers below {{}}, so made-up ones were graded; set "
    f"{DATA_ROOT_VARIABLE} or --data-root (docs/data.md)."
)

Pair = tuple[str, str]
"""Gold of the origin, answer."""


def real_pairs(root: Path | None) -> list[Pair]:
    """All pairs of a gold and an equal answer of the sets below a folder, each once."""
    found: dict[Pair, None] = {}
    for name, entry in manifest().items():
        path = None if root is None else root / entry.file
        if name not in LEFT_OUT and path is not None and path.is_file():
            for gold in golds(path):
                found |= dict.fromkeys((gold, form) for form in forms(repaired(gold)[0]))
    return list(found)


def drawn(pairs: Sequence[Pair], n: int) -> list[Pair]:
    """At most so many; the same ones each time."""
    return random.Random(0).sample(pairs, min(n, len(pairs)))


def wall_s(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds by the clock, and what came out."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def alone_numbers(pairs: Sequence[Pair]) -> Numbers:
    """math-verify in this process, pair by pair."""
    alone([("1", "1", "1")])
    begin = time.process_time()
    quick_s, slow, correct = 0.0, [], 0
    for gold, answer in pairs:
        seconds, accepted = wall_s(lambda g=gold, a=answer: alone([(g, g, a)]))
        correct += sum(accepted)
        if seconds > LIMIT_S:
            slow.append(seconds)
        else:
            quick_s += seconds
    return {
        "seconds": significant(quick_s),
        "cpu_s": significant(time.process_time() - begin),
        "at_limit": len(slow),
        "at_limit_s": significant(sum(slow)),
        "accepted": correct,
    }


def pool_numbers(pairs: Sequence[Pair], workers: int) -> Numbers:
    """Our pool, the first time and again."""
    items = [GradeItem(rf"so \boxed{{{answer}}}", repaired(gold)[0]) for gold, answer in pairs]
    before = used_cpu_s()
    with GraderPool(GraderLimits(workers=workers)) as pool:
        pool.grade([GradeItem(r"\boxed{0.5}", r"\frac{1}{2}")])  # a worker starts
        first_s, graded = wall_s(lambda: pool.grade(items))
        again_s, _ = wall_s(lambda: pool.grade(items))
    return {
        "workers": workers,
        "seconds": significant(first_s),
        "again_s": significant(again_s),
        "cpu_s": significant(used_cpu_s() - before),
        "accepted": sum(g.verdict == "correct" for g in graded),
    }


def used_cpu_s() -> float:
    """Of this process and its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def brace_numbers(n: int) -> dict[str, float]:
    """CPU seconds of this process for texts of so many braces, by arrangement."""
    texts = {
        "open": r"\boxed{" + "{" * n,
        "nested": r"\boxed{" + "{" * (n // 2) + "}" * (n // 2) + "}",
        "boxes": r"\boxed{" * (n // 7),
    }
    found = {}
    with GraderPool() as pool:
        pool.grade([GradeItem(r"\boxed{0.5}", r"\frac{1}{2}")])
        for name, text in texts.items():
            begin = time.process_time()
            pool.grade([GradeItem(text, r"\frac{1}{2}")])
            found[name] = significant(time.process_time() - begin)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = os.environ.get(DATA_ROOT_VARIABLE)
    parser.add_argument("--data-root", type=Path, default=known and Path(known))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--braces", type=int, default=BRACES)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    root = arguments.data_root
    found = real_pairs(root)
    missing = [] if found else [NO_DATA.format(root or "any folder")]
    pairs = drawn(found or [(g, f) for g in MADE_UP for f in forms(g)], arguments.pairs)
    numbers: Numbers = {
        "grader": GRADER_VERSION,
        "pairs": len(pairs),
        "alone": alone_numbers(pairs),
        "ours": pool_numbers(pairs, n_cores()),
        "braces_cpu_s": brace_numbers(arguments.braces),
    }
    ratios = {"braces": BRACES_GOAL_S / max(numbers["braces_cpu_s"].values())}
    if found:
        alone_s, ours = numbers["alone"]["seconds"], numbers["ours"]
        ratios |= {
            "first": alone_s / ours["seconds"],
            "returning": ours["seconds"] / ours["again_s"],
        }
    write_part(arguments.write, numbers, ratios, missing)


if __name__ == "__main__":
    main()
