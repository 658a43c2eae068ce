"""Draws ``docs/images/how_it_works.png``: one step, one run, one number.

python docs/images/how_it_works.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

WIDTH, HEIGHT = 1.9, 0.86
COLOURS = {"step": "#e8f1fa", "run": "#fdf1dc", "number": "#e6f4ea"}

# name: kind, column, row; title, what it is, where it is made (in bridge/)
BOXES = {
    "prompts": ("step", 0, 3, "prompts", "from the run's stream", "run/streams.py"),
    "rollouts": ("step", 1, 3, "rollouts", "n answers per prompt", "engines/native.py"),
    "rewards": ("step", 2, 3, "rewards", "verdict of the grader", "grading/"),
    "rows": ("step", 3, 3, "rows", "advantages, demonstrations", "methods/base.py"),
    "gradients": ("step", 4, 3, "gradients", "RL term, demonstration term", "step/trainer.py"),
    "update": ("step", 5, 3, "update", "mix, clip, AdamW", "methods/<name>.py"),
    "base": ("run", 0, 1.4, "base model", "made once, or from the hub", "models/"),
    "loop": ("run", 1, 1.4, "loop", "steps, probes, checkpoints", "run/loop.py"),
    "policy": ("run", 2, 1.4, "policy", "a Hugging Face checkpoint", "models/checkpoint.py"),
    "answers": ("run", 3, 1.4, "answers", "every benchmark question", "evaluation/"),
    "scores": ("run", 4, 1.4, "scores", "share of correct answers", "evaluation/scores.py"),
    "tidy": ("number", 0, -0.2, "tidy tables", "all runs of the suite", "collect/"),
    "cell": ("number", 1, -0.2, "mean, interval", "over seeds and questions", "analysis/numbers/"),
    "claim": ("number", 2, -0.2, "verdict", "supported, undecided, ...", "analysis/claims/"),
    "report": ("number", 3, -0.2, "report", "tables, figures, one page", "analysis/report/"),
}
ARROWS = (
    "prompts rollouts rewards rows gradients update",
    "base loop policy answers scores",
    "tidy cell claim report",
)
BANDS = {
    3: "ONE STEP: an update of the weights",
    1.4: "ONE RUN: one model, data set, method and seed",
    -0.2: "ONE NUMBER: a cell of the main table, from all its runs",
}


def place(name: str) -> tuple[float, float]:
    """Centre of a box."""
    _, column, row, *_ = BOXES[name]
    return 2.25 * column, row


def draw_box(axes: Axes, name: str) -> None:
    kind, _, _, title, text, file = BOXES[name]
    x, y = place(name)
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=COLOURS[kind],
            edgecolor="#444444",
            linewidth=0.9,
        )
    )
    axes.text(x, y + 0.24, title, ha="center", va="center", weight="bold", size=10)
    axes.text(x, y, text, ha="center", va="center", size=7.5)
    axes.text(x, y - 0.26, file, ha="center", va="center", size=7.5, family="monospace")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color="#444444",
            linewidth=1,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def draw() -> None:
    figure, axes = plt.subplots(figsize=(11.6, 4.7))
    for row, title in BANDS.items():
        axes.text(-WIDTH / 2, row + 0.64, title, size=9, weight="bold", color="#555555")
    for name in BOXES:
        draw_box(axes, name)
    half = WIDTH / 2
    for line in ARROWS:
        names = line.split()
        for left, right in pairwise(names):
            (x, y), (u, _) = place(left), place(right)
            arrow(axes, (x + half, y), (u - half, y), 0)
    (x, y), (u, _) = place("update"), place("rollouts")
    top = HEIGHT / 2
    arrow(axes, (x, y + top), (u + 0.3, y + top), 0.13)
    axes.text((x + u) / 2, y + 1.2, "new weights, next step", ha="center", size=8)
    axes.set_xlim(-1.1, 12.35)
    axes.set_ylim(-0.8, 4.55)
    axes.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    draw()
