"""What each bug costs: the table and the figure of docs/studies/audit.md.

    python -m studies.audit.waterfall results/audit/tidy --figures figures

Reads the tidy tables of studies/audit/suites/audit.yaml. A cost is the accuracy of a row with the
bug minus that of the row without, paired by world and seed; seeds of a world are averaged, and the
interval is Student's t over worlds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bridge.analysis.figures.canvas import GREY, PAGE_IN, look, new_figure, save
from bridge.analysis.numbers.frames import load_tidy
from bridge.store.schema import read_yaml
from studies.worlds import Array, Mean, over_worlds, prediction_line, run_accuracies

PREDICTIONS = Path(__file__).with_name("predictions.yaml")
BUGS = {
    "_lost": "A: later micro-batches lost",
    "_means": "B: mean of means",
    "_both": "A and B",
    "_last": "A': first term lost",
}
"""What the end of a row's name says of it."""


def costs(runs: Mapping[str, Array]) -> dict[str, tuple[str, Mean]]:
    """Cost of each row that has a bug, with the row without it.

    Args:
        runs: accuracy in points, [worlds, seeds], by row.
    """
    found = {}
    for row, accuracy in runs.items():
        if _bug(row):
            stem = row.rpartition("_")[0]
            found[row] = (stem, over_worlds((accuracy - runs[stem]).mean(1)))
    return found


def _bug(row: str) -> str | None:
    return BUGS.get("_" + row.rpartition("_")[2])


def table(runs: Mapping[str, Array], predictions: Sequence[Mapping[str, Any]]) -> str:
    """Costs, and predictions with what came of them, as Markdown."""
    n_worlds, n_seeds = next(iter(runs.values())).shape
    lines = [
        f"{n_worlds} worlds with {n_seeds} seeds each.",
        "",
        "| row | bug | accuracy | cost, points |",
        "|---|---|---:|---:|",
    ]
    paid = costs(runs)
    for row, accuracy in runs.items():
        cost = str(paid[row][1]) if row in paid else ""
        lines.append(f"| {row} | {_bug(row) or 'none'} | {accuracy.mean():.1f} | {cost} |")
    lines += ["", "| two stages, with | minus mixing |", "|---|---:|"]
    for row in (row for row in runs if row.startswith("cold_start")):
        mean = over_worlds((runs[row] - runs["mixing"]).mean(1))
        lines.append(f"| {_bug(row) or 'no bug'} | {mean} |")
    lines += ["", "| predicted | limit, points | believed | found | |", "|---|---|---:|---:|---|"]
    for prediction in predictions:
        left, right = (runs[row] for row in prediction["rows"])
        mean = over_worlds((left - right).mean(1))
        lines.append(prediction_line(prediction, mean, str(mean)))
    return "\n".join(lines) + "\n"


def bars(runs: Mapping[str, Array]) -> Figure:
    """The costs with their intervals; pale bars are undecided."""
    paid = costs(runs)
    figure = new_figure(PAGE_IN, 0.26 * len(paid) + 0.6)
    axes = figure.add_subplot()
    for place, (_, mean) in enumerate(paid.values()):
        decided = mean.high < 0 or mean.low > 0
        axes.barh(place, mean.mean, color="#4c72b0", alpha=1.0 if decided else 0.35)
        axes.plot([mean.low, mean.high], [place, place], color="black")
    names = [f"{stem}, {_bug(row)}" for row, (stem, _) in paid.items()]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY)
    axes.set_xlabel("with the bug minus without, points")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description="What each bug costs.")
    parser.add_argument("tidy", type=Path)
    parser.add_argument("--figures", type=Path, help="folder for the figure")
    chosen = parser.parse_args(arguments)
    runs = run_accuracies(load_tidy(chosen.tidy))
    print(table(runs, read_yaml(PREDICTIONS)["audit"]), end="")
    if chosen.figures:
        with look():
            save(bars(runs), chosen.figures, "audit_costs")


if __name__ == "__main__":
    main()
