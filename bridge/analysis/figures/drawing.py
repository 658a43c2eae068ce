"""The figures of a suite: all that `captions` names, each as png, pdf and svg."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import look, save
from bridge.analysis.figures.captions import CAPTIONS
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.figures.curves import (
    accuracy_progress,
    accuracy_wallclock,
    demonstration_loss,
    reward_length,
)
from bridge.analysis.figures.dots import main_scores
from bridge.analysis.figures.forest import leading_row, paired_differences
from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.figures.internals import bridge_internals
from bridge.analysis.figures.questions import difficulty, question_changes
from bridge.analysis.figures.ranks import rank_probabilities
from bridge.analysis.figures.tradeoffs import accuracy_cost, stage_costs

DRAWN: dict[str, Callable[[Tidy], Figure]] = {
    "leading_row": leading_row,
    "main_scores": lambda tidy: main_scores(build_blocks(tidy)),
    "paired_differences": paired_differences,
    "rank_probabilities": rank_probabilities,
    "question_changes": question_changes,
    "difficulty": difficulty,
    "accuracy_progress": accuracy_progress,
    "demonstration_loss": demonstration_loss,
    "reward_length": reward_length,
    "bridge_internals": bridge_internals,
    "accuracy_wallclock": accuracy_wallclock,
    "accuracy_cost": accuracy_cost,
    "stage_costs": stage_costs,
}


def build_figures(tidy_dir: Path, out_dir: Path, processes: int = 1) -> None:
    """Write each figure of `CAPTIONS` to `out_dir` as png, pdf and svg, some at a time.

    Raises `frames.TidyError` if the tidy tables cannot be shown. Same input, same bytes.
    """
    draw = partial(_draw, load_tidy(tidy_dir), out_dir)
    if processes == 1:
        for name in CAPTIONS:
            draw(name)
        return
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(draw, CAPTIONS))


def _draw(tidy: Tidy, out_dir: Path, name: str) -> None:
    with look():
        save(DRAWN[name](tidy), out_dir, name)
