"""What the papers print, to stand beside our numbers and never inside them.

The only place that knows which of the papers' rows, models, methods and benchmarks are which of
ours. Sources, columns and limits of the files are in `results/published/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bridge.analysis.numbers.cells import AVERAGE
from bridge.analysis.numbers.frames import TidyError
from bridge.store.records import SHIPPED

FOLDER = SHIPPED / "results" / "published"
FILES = ("published.csv", "published_methods.csv")
COLUMNS = (
    "paper",
    "version",
    "model",
    "method",
    "benchmark",
    "metric",
    "value",
    "unit",
    "source",
    "evidence",
    "note",
)
VERSIONS = ("submission", "v1", "v2", "v3")
"""Oldest first; of two versions that print the same cells the newer counts."""
METHODS = {
    "grpo": "rl_zero",
    "sft_then_rl": "cold_start",
    "rl_with_sft_loss": "mixing",
}
"""Names of papers that are rows of ours under another name; all other names stay as they are."""
BENCHMARKS = {
    "math500": "MATH500",
    "minerva": "Minerva",
    "minervamath": "Minerva",
    "olympiad": "OlympiadBench",
    "olympiadbench": "OlympiadBench",
    "aime24": "AIME24",
    "aime2024": "AIME24",
    "aime25": "AIME25",
    "aime2025": "AIME25",
    "amc23": "AMC23",
    "amc2023": "AMC23",
}
"""Benchmarks of ours, letters and digits only, to the papers' names. `AMC` is left out on purpose:
most papers do not say whether they mean the 40 or the 83 questions."""
FIVE = frozenset({"MATH500", "Minerva", "OlympiadBench", "AIME24", "AMC23"})
"""What BRIDGE's `average5` is the mean of; averages of other papers are over other sets."""


@dataclass(frozen=True)
class PublishedNumber:
    """One printed number, in points of 100, and where it stands."""

    points: float
    paper: str
    version: str
    address: str
    evidence: str
    note: str

    @property
    def source(self) -> str:
        """Paper, version, how it was read, and address."""
        version = "" if self.version == "unstated" else f" {self.version}"
        return f"{self.paper}{version} ({self.evidence}; {self.address})"


def load_published(folder: Path | None = None) -> pd.DataFrame:
    """Main-table accuracies of every paper, in the order of preference, under our method names.

    Epoch studies, noise tests, cost tables and derived rows are left out. Without `folder` the
    repository's own files are read, and nothing is shown where they are not installed.
    Raises TidyError for a missing file or column, a value that is no number, or a repeated row.
    """
    if folder is None and not FOLDER.is_dir():
        return pd.DataFrame(columns=list(COLUMNS))
    parts = [_read((folder or FOLDER) / name) for name in FILES]
    table = pd.concat(parts, ignore_index=True)
    # Files name the table a row stands in wherever the paper has more than one of its kind.
    stands_in = table["note"].str.extract(r"table=([^;]+)", expand=False).str.strip()
    main = stands_in.isna() | stands_in.isin(["main", "1"])
    table = table[main & (table["metric"] == "accuracy") & (table["unit"] == "percent")]
    own = table["method"].replace(METHODS)
    return table.assign(method=own).reset_index(drop=True)


def published_numbers(
    table: pd.DataFrame, model: str, dataset: str, benchmarks: Sequence[str]
) -> dict[tuple[str, str], PublishedNumber]:
    """Printed numbers of a block by (method, column); empty where the model is in no paper.

    Per method one paper and version is taken as a whole, so that a row never mixes two: the BRIDGE
    paper before others, then whoever prints most of these cells, then the newer version.
    """
    single = [column for column in benchmarks if column != AVERAGE]
    names = {column: BENCHMARKS.get(_plain(column, dataset)) for column in single}
    if len(names) == len(FIVE) and set(names.values()) == FIVE:
        names[AVERAGE] = "average5"
    rows = table[table["model"].map(_letters) == _letters(model.rsplit("/", 1)[-1])]
    found: dict[tuple[str, str], PublishedNumber] = {}
    for method, of_method in rows.groupby("method", sort=False):
        best: dict[str, PublishedNumber] = {}
        rank: tuple[object, ...] = ()
        for (paper, version), part in of_method.groupby(["paper", "version"], sort=False):
            cells = _cells(part, names, str(paper))
            age = VERSIONS.index(version) if version in VERSIONS else -1
            own_rank = (bool(cells), paper == "BRIDGE", len(cells), age)
            if not rank or own_rank > rank:
                best, rank = cells, own_rank
        found |= {(str(method), column): number for column, number in best.items()}
    return found


def _cells(
    rows: pd.DataFrame, names: dict[str, str | None], paper: str
) -> dict[str, PublishedNumber]:
    by_name = {str(row["benchmark"]): row for row in rows.to_dict("records")}
    cells = {}
    for column, name in names.items():
        if name is None or name not in by_name or (column == AVERAGE and paper != "BRIDGE"):
            continue
        row = by_name[name]
        cells[column] = PublishedNumber(
            float(row["value"]),
            paper,
            str(row["version"]),
            str(row["source"]),
            str(row["evidence"]),
            str(row["note"]),
        )
    return cells


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise TidyError(f"{path} is missing; it belongs to the repository")
    table = pd.read_csv(path, keep_default_na=False)
    absent = [column for column in COLUMNS if column not in table.columns]
    if absent:
        raise TidyError(f"{path} lacks the column {', '.join(absent)}")
    values = pd.to_numeric(table["value"], errors="coerce")
    if values.isna().any():
        line = int(values.isna().to_numpy().argmax()) + 2
        raise TidyError(f"{path}, line {line}: the value is not a number")
    repeated = table.duplicated([*COLUMNS[:6], "note"])
    if repeated.any():
        raise TidyError(f"{path}, line {int(repeated.to_numpy().argmax()) + 2}: a repeated row")
    return table[list(COLUMNS)].assign(value=values)


def _plain(benchmark: str, dataset: str) -> str:
    return _letters(benchmark.removeprefix(f"{dataset}_"))


def _letters(text: object) -> str:
    return "".join(letter for letter in str(text).casefold() if letter.isalnum())
