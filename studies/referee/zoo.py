"""Predictions about the zoo at equal trials and FLOPs, and their outcome: docs/studies/zoo.md.

    python -m studies.referee.zoo results/zoo/tidy

Reads the tidy tables of suites/zoo.yaml; the accuracies and differences of its page are written by
``benchmarks/study_tables.py``. Intervals are Student's t over worlds; how many rows are decided is
counted with the differences of the report (pooled spread, Holm over the trained rows).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bridge.analysis.numbers.cells import UNTRAINED, build_blocks
from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.tables.differences import differences_to
from bridge.store.schema import read_yaml
from studies.referee.asymmetry import PREDICTIONS
from studies.worlds import Array, Mean, over_worlds, prediction_line, run_accuracies

REFERENCE = "mixing"


def gap(rows: Mapping[str, Array], left: Sequence[str], right: Sequence[str]) -> Array:
    """Mean of some rows minus the mean of others, in points, `[worlds]`."""
    return np.asarray(
        np.mean([rows[row] for row in left], 0) - np.mean([rows[row] for row in right], 0)
    )


def agreement(rows: Mapping[str, Array], order: Sequence[str]) -> Array:
    """Kendall's tau of each world's ranking with an earlier one, `[worlds]`.

    Args:
        order: rows, best first.
    """
    before = -np.arange(len(order))
    by_world = np.array([rows[row] for row in order]).T
    return np.array([kendalltau(before, own).statistic for own in by_world])


def decided(verdicts: Sequence[str], words: Sequence[str]) -> int:
    """How many verdicts are one of these words."""
    return sum(verdict in words for verdict in verdicts)


def verdicts(tidy: Tidy) -> list[str]:
    """The verdict of each trained row against mixing."""
    (block,) = build_blocks(tidy)
    found = differences_to(block, REFERENCE)
    return [item.verdict for item in found if item.first.name != UNTRAINED]


def tables(tidy: Tidy, predictions: Sequence[Mapping[str, Any]]) -> str:
    """The predictions and their outcome as Markdown."""
    rows = {row: runs.mean(1) for row, runs in run_accuracies(tidy).items()}
    judged = verdicts(tidy)
    lines = ["| predicted | limit | believed | found | |", "|---|---|---:|---:|---|"]
    for prediction in predictions:
        if "decided" in prediction:
            count = decided(judged, prediction["decided"])
            lines.append(prediction_line(prediction, Mean(count, count, count), f"{count}"))
        elif "kendall_tau" in prediction:
            tau = over_worlds(agreement(rows, prediction["kendall_tau"]))
            found = f"{tau.mean:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
            lines.append(prediction_line(prediction, tau, found))
        else:
            mean = over_worlds(gap(rows, prediction["left"], prediction["right"]))
            lines.append(prediction_line(prediction, mean, str(mean)))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Predictions about the zoo, and their outcome.")
    parser.add_argument("tidy", type=Path)
    chosen = parser.parse_args(arguments)
    print(tables(load_tidy(chosen.tidy), read_yaml(PREDICTIONS)["zoo"]), end="")


if __name__ == "__main__":
    main()
