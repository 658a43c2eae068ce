"""The tidy tables of a suite, read and checked: the only door into the analysis.

What is refused here (a missing column, two specs in one run, an answer given twice) names the
file, the column or the run. What can be shown honestly instead (two graders, partial answers) is
listed by `cautions` or marked in the cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pyarrow.parquet import read_metadata, read_schema

from bridge.analysis.numbers.palette import ordered_methods
from bridge.analysis.numbers.shapes import impossible
from bridge.store.columns import KEY, NEEDED_TABLES, needed
from bridge.store.records import RecordError, read_json

DONE = "done"
MOST_CELLS = 1_000_000_000
"""Of one table: 10,000 runs of 5,000 questions have half as many."""
UNIQUE = {
    "runs": KEY,
    "scores": (*KEY, "benchmark", "question_id"),
    "dynamics": (*KEY, "step"),
    "costs": KEY,
}


class TidyError(ValueError):
    """Tidy tables that cannot be shown; the message names the file, the column or the run."""


# Told apart by identity, so that what is computed from one can be kept.
@dataclass(frozen=True, eq=False)
class Tidy:
    """The four checked tables of one suite, and the orders everything is shown in.

    `n_demonstrations` has, per data set, how many there were, where contamination was counted.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame
    dynamics: pd.DataFrame
    costs: pd.DataFrame
    n_demonstrations: Mapping[str, int] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.runs["suite"].iloc[0])

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(model, dataset) pairs in the order of the runs table."""
        pairs = self.runs[["model", "dataset"]].drop_duplicates()
        return [(str(model), str(dataset)) for model, dataset in pairs.itertuples(index=False)]

    def methods(self, model: str, dataset: str) -> list[str]:
        """Methods of a block in the order they are shown everywhere."""
        return ordered_methods(block_of(self.runs, model, dataset)["method"].astype(str).unique())

    def benchmarks(self, model: str, dataset: str) -> list[str]:
        """Benchmarks of a block in the order of the scores table (category order if it has one)."""
        return in_order(block_of(self.scores, model, dataset)["benchmark"])


def block_of(table: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """Rows of one (model, dataset) block."""
    return table[(table["model"] == model) & (table["dataset"] == dataset)]


def in_worlds(runs: pd.DataFrame) -> bool:
    """Whether base model and training data of these runs were drawn anew, once per world."""
    return "world" in runs and bool(runs["world"].notna().any())


def in_order(values: pd.Series) -> list[str]:
    """Distinct values in category order if there is one, else in order of appearance."""
    present = [str(value) for value in values.unique()]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return [str(value) for value in values.cat.categories if str(value) in set(present)]
    return present


def load_tidy(folder: Path) -> Tidy:
    """Read and check `runs`, `scores`, `dynamics` and `costs` from `folder`.

    Raises TidyError for a missing file or column, a duplicate row, an unknown status, scores of a
    run that is not done, more than one suite, two spec hashes in one run, or a file that is not the
    one its manifest names.
    """
    named = _check_manifest(folder)
    tables = {name: _read(folder / f"{name}.parquet", name) for name in NEEDED_TABLES}
    runs, scores = tables["runs"], tables["scores"]
    if runs.empty:
        raise TidyError(f"{folder / 'runs.parquet'} has no rows: nothing was run or collected")
    for name, table in tables.items():
        if table.empty:
            # Without a row there is no type; joins need the keys to have one.
            tables[name] = table.astype({column: runs.dtypes[column] for column in KEY})
    suites = sorted(set(runs["suite"].astype(str)))
    if len(suites) > 1:
        raise TidyError(f"{folder / 'runs.parquet'} mixes the suites {', '.join(suites)}")
    if suites[:1] != [named]:
        raise TidyError(
            f"{folder} holds tables of the suite {suites[0][:64]!r}, but its manifest is of "
            f"{str(named)[:64]!r}"
        )
    for name, table in tables.items():
        if (found := impossible(name, table)) is not None:
            raise TidyError(f"{folder / f'{name}.parquet'}: {found}")
    _check_specs(folder, runs, scores)
    tables["dynamics"] = _of_steps_made(runs, tables["dynamics"])
    return Tidy(**tables, n_demonstrations=_demonstrations(folder))


def run_name(key: Iterable[object]) -> str:
    """A run as its folder names it: model/dataset/method/seed<k>."""
    *names, seed = key
    return "/".join([*map(str, names), f"seed{seed}"])


def cautions(tidy: Tidy) -> list[str]:
    """What a reader must know before comparing cells: mixed graders, data, commits, devices."""
    found = []
    finished = tidy.runs[tidy.runs["status"] == DONE]
    for model, dataset in tidy.blocks:
        block = block_of(finished, model, dataset)
        worlds = [part for _, part in block.groupby("world")] if in_worlds(block) else [block]
        for column, what in (
            ("grader_version", "grader versions"),
            ("data_hash", "data hashes"),
            ("base_model_hash", "base models"),
        ):
            by_world = [sorted(part[column].dropna().astype(str).unique()) for part in worlds]
            values = next((mixed for mixed in by_world if len(mixed) > 1), [])
            if values:
                found.append(f"{model} x {dataset} mixes {what}: {', '.join(values)}")
    for column, what in (("commit", "commits"), ("device", "devices")):
        values = sorted(finished[column].dropna().astype(str).unique())
        if len(values) > 1:
            found.append(f"the runs come from {len(values)} {what}: {', '.join(values)}")
    if finished["dirty"].fillna(False).astype(bool).any():
        found.append("some runs were made from a working tree with uncommitted changes")
    return found


def _check_manifest(folder: Path) -> str | None:
    """The suite that the manifest names, once every table is the one that it lists."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise TidyError(
            f"{path} is missing, so nothing says that these tables were collected together; "
            "collect the suite again"
        )
    try:
        record = read_json(path)
        suite, hashes = str(record["suite"]), dict(record["tables"])
    except (RecordError, KeyError, TypeError, ValueError):
        raise TidyError(f"{path} is damaged; collect the suite again") from None
    for table in sorted(folder.glob("*.parquet")):
        if table.stem not in hashes:
            raise TidyError(f"{path} does not list {table.name}; collect the suite again")
        if hashlib.sha256(table.read_bytes()).hexdigest() != hashes[table.stem]:
            raise TidyError(f"{table} is not the file that {path} names; collect the suite again")
    return suite


def _read(path: Path, name: str) -> pd.DataFrame:
    if not path.is_file():
        raise TidyError(f"{path} is missing; run `bridge collect` for this suite first")
    table = read_table(path)
    if table.empty and name != "runs":
        known = list(needed(name))
        return table.reindex(columns=[*known, *table.columns.difference(known)])
    absent = [column for column in needed(name) if column not in table.columns]
    if absent:
        raise TidyError(f"{path} lacks the column {', '.join(absent)}")
    repeated = table.duplicated(list(UNIQUE[name]))
    if repeated.any():
        row = table.loc[repeated, list(UNIQUE[name])].iloc[0]
        raise TidyError(f"{path} has more than one row for {'/'.join(map(str, row))}")
    return table


def _demonstrations(folder: Path) -> dict[str, int]:
    path = folder / "contamination.parquet"
    if not path.is_file():
        return {}
    table = read_table(path)
    absent = {"dataset", "training_set", "n_training"} - {*table.columns}
    if absent:
        raise TidyError(f"{path} lacks the column {', '.join(sorted(absent))}")
    counted = table[table["training_set"] == "demonstrations"]
    most = counted.groupby("dataset")["n_training"].max()
    return {str(name): int(n) for name, n in most.items()}


def _of_steps_made(runs: pd.DataFrame, dynamics: pd.DataFrame) -> pd.DataFrame:
    """Progress as a share of the steps that a finished run made: a budget ends it before the limit
    of steps that it was recorded against."""
    key = list(KEY)
    last = dynamics.groupby(key, observed=True)["progress"].transform("max")
    done = pd.MultiIndex.from_frame(runs.loc[runs["status"] == DONE, key])
    ended = pd.MultiIndex.from_frame(dynamics[key]).isin(done) & (last > 0).to_numpy(bool)
    return dynamics.assign(progress=dynamics["progress"].where(~ended, dynamics["progress"] / last))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet file, or some columns of it.

    Raises:
        TidyError: it is damaged, lacks a column, or says that it has more cells than any grid. A
            file of kilobytes can say so, and would take the machine's memory.
    """
    try:
        about = read_metadata(path)
        if (n_cells := about.num_rows * about.num_columns) > MOST_CELLS:
            raise TidyError(
                f"{path} has {n_cells:,} cells, more than the {MOST_CELLS:,} that tables may have; "
                "collect the suite again, or split it."
            )
        absent = [name for name in columns or () if name not in read_schema(path).names]
        if absent:
            raise TidyError(f"{path} lacks the column {', '.join(absent)}")
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except TidyError:
        raise
    except Exception as error:  # a damaged file makes pyarrow raise nearly every class there is
        words = " ".join(str(error).split())[:160]
        raise TidyError(f"{path} cannot be read as parquet: {words}") from error


def _check_specs(folder: Path, runs: pd.DataFrame, scores: pd.DataFrame) -> None:
    if scores.empty:
        return
    key = list(KEY[1:])
    seen = scores[[*key, "spec_hash"]].astype({"spec_hash": str}).drop_duplicates()
    mixed = seen[seen.duplicated(key, keep=False)]
    if not mixed.empty:
        name = run_name(mixed[key].iloc[0])
        first = mixed[(mixed[key] == mixed[key].iloc[0]).all(axis=1)]["spec_hash"]
        raise TidyError(
            f"{folder / 'scores.parquet'}: {name} mixes the spec hashes {', '.join(first)}; "
            "evaluate that run again"
        )
    joined = seen.merge(
        runs[[*key, "status", "spec_hash"]], on=key, how="left", suffixes=("", "_run")
    )
    for row in joined.itertuples(index=False):
        name = run_name([row.model, row.dataset, row.method, row.seed])
        if row.status != DONE:
            raise TidyError(
                f"{folder / 'scores.parquet'} has answers of {name}, whose status is "
                f"{row.status if isinstance(row.status, str) else 'not in runs.parquet'}"
            )
        if row.spec_hash != str(row.spec_hash_run):
            raise TidyError(
                f"{name}: spec hash {row.spec_hash} in scores.parquet but {row.spec_hash_run} in "
                "runs.parquet; evaluate that run again"
            )
