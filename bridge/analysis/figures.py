"""The figures of a suite: all that `captions` names, each as png, pdf and svg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from bridge.analysis.canvas import look, save
from bridge.analysis.captions import CAPTIONS
from bridge.analysis.cells import build_blocks
from bridge.analysis.curves import accuracy_progress, accuracy_wallclock, reward_length
from bridge.analysis.dots import main_scores
from bridge.analysis.forest import paired_differences
from bridge.analysis.frames import Tidy, load_tidy
from bridge.analysis.internals import bridge_internals
from bridge.analysis.questions import difficulty, question_changes
from bridge.analysis.tradeoffs import accuracy_cost, stage_costs

DRAWN: dict[str, Callable[[Tidy], Figure]] = {
    "main_scores": lambda tidy: main_scores(build_blocks(tidy)),
    "paired_differences": paired_differences,
    "question_changes": question_changes,
    "difficulty": difficulty,
    "accuracy_progress": accuracy_progress,
    "reward_length": reward_length,
    "bridge_internals": bridge_internals,
    "accuracy_wallclock": accuracy_wallclock,
    "accuracy_cost": accuracy_cost,
    "stage_costs": stage_costs,
}


def build_figures(tidy_dir: Path, out_dir: Path) -> None:
    """Write each figure of `CAPTIONS` to `out_dir` as png, pdf and svg.

    Raises `frames.TidyError` if the tidy tables cannot be shown. Same input, same bytes.
    """
    tidy = load_tidy(tidy_dir)
    with look():
        for name in CAPTIONS:
            save(DRAWN[name](tidy), out_dir, name)
