"""What a benchmark hands on: numbers, the ratios that are watched, and who was missing.

One file per kind of processor, ``benchmarks/results/KIND.json``, holds the last of each part.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]


def write_part(
    path: Path | None, numbers: Numbers, ratios: Mapping[str, float], missing: Sequence[str] = ()
) -> None:
    """Print a part, and keep it where there is a path.

    Args:
        ratios: by name; larger is better. A peer's seconds over ours, a floor over what was
            measured, a goal over what was measured.
        missing: a sentence for each peer that was not there.
    """
    rounded = {name: float(f"{value:.3g}") for name, value in ratios.items()}
    text = json.dumps({"ratios": rounded, "missing": [*missing], "numbers": numbers}, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")


def by_turns(pair: Sequence[Callable[[], Any]], rounds: int) -> Numbers:
    """CPU seconds of ours and theirs; the first round of each is thrown away."""
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds[which].append(cpu_s(pair[which]))
    mine, other = (s[1:] for s in seconds)
    return {
        "ours_s": significant(statistics.median(mine)),
        "theirs_s": significant(statistics.median(other)),
        "ratio": significant(statistics.median(b / a for a, b in zip(mine, other, strict=True)), 3),
    }


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for one piece of work."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def significant(value: float, digits: int = 4) -> float:
    """With so many digits."""
    return float(f"{value:.{digits}g}")
