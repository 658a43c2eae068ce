"""What the door refuses, by name, and what it warns about."""

import contextlib
import json
import random
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from bridge.analysis.numbers import frames
from bridge.analysis.numbers.frames import TidyError, cautions, load_tidy
from bridge.store.columns import NEEDED_TABLES, needed
from bridge.store.records import file_hash
from tests.fixtures.tidy import make_tidy, sealed, write_tidy

SMALL = {"models": ("tiny-qwen",), "methods": ("base", "sft"), "sizes": (6, 4), "n_steps": 10}


@pytest.fixture
def tables():
    return make_tidy(**SMALL)


@pytest.mark.slow
def test_importing_the_package_is_light_and_no_part_needs_torch():
    code = (
        "import sys, bridge.analysis; assert not {'pandas', 'matplotlib'} & set(sys.modules);"
        "import bridge.analysis.report.page, bridge.analysis.figures.drawing;"
        "import bridge.analysis.tables.accuracy;"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_good_folder_loads_in_order(tables, tmp_path):
    tidy = load_tidy(write_tidy(tmp_path, tables))
    assert tidy.suite == "fixture"
    assert tidy.blocks == [("tiny-qwen", "chains")]
    assert tidy.methods("tiny-qwen", "chains") == ["base", "sft"]
    assert tidy.benchmarks("tiny-qwen", "chains") == ["rung1", "rung2"]
    assert cautions(tidy) == []


def test_category_order_of_benchmarks_wins_over_appearance(tables, tmp_path):
    tables["scores"]["benchmark"] = pd.Categorical(
        tables["scores"]["benchmark"], categories=["rung2", "unused", "rung1"]
    )
    tidy = load_tidy(write_tidy(tmp_path, tables))
    assert tidy.benchmarks("tiny-qwen", "chains") == ["rung2", "rung1"]


@pytest.mark.parametrize("name", NEEDED_TABLES)
def test_a_missing_file_is_named(tables, tmp_path, name):
    write_tidy(tmp_path, tables)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(TidyError, match=rf"{name}\.parquet is missing"):
        load_tidy(tmp_path)


def test_a_truncated_file_is_named(tables, tmp_path):
    write_tidy(tmp_path, tables)
    path = tmp_path / "scores.parquet"
    path.write_bytes(path.read_bytes()[:100])
    sealed(tmp_path)
    with pytest.raises(TidyError, match=r"scores\.parquet cannot be read"):
        load_tidy(tmp_path)


@pytest.mark.parametrize(("name", "column"), [(n, needed(n)[-1]) for n in NEEDED_TABLES])
def test_a_missing_column_is_named_with_its_file(tables, tmp_path, name, column):
    tables[name] = tables[name].drop(columns=column)
    with pytest.raises(TidyError, match=rf"{name}\.parquet lacks the column {column}"):
        load_tidy(write_tidy(tmp_path, tables))


def test_an_answer_given_twice_is_refused(tables, tmp_path):
    tables["scores"] = pd.concat([tables["scores"], tables["scores"].iloc[[3]]])
    with pytest.raises(TidyError, match=r"more than one row for .*/rung1/rung1-0003"):
        load_tidy(write_tidy(tmp_path, tables))


def test_mixed_spec_hashes_in_one_run_are_refused_by_name(tables, tmp_path):
    scores = tables["scores"]
    run = (scores["method"] == "sft") & (scores["seed"] == 1)
    scores.loc[run & (scores["benchmark"] == "rung2"), "spec_hash"] = "other"
    with pytest.raises(TidyError, match=r"tiny-qwen/chains/sft/seed1 mixes .*, other"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_another_spec_than_the_run_are_refused(tables, tmp_path):
    runs = tables["runs"]
    runs.loc[(runs["method"] == "sft") & (runs["seed"] == 2), "spec_hash"] = "newer"
    with pytest.raises(TidyError, match=r"sft/seed2: spec hash .* but newer in"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_a_run_that_is_not_done_are_refused(tables, tmp_path):
    tables["runs"].loc[0, "status"] = "diverged"
    with pytest.raises(TidyError, match=r"answers of .*/seed0, whose status is diverged"):
        load_tidy(write_tidy(tmp_path, tables))


def test_answers_of_an_unknown_run_are_refused(tables, tmp_path):
    tables["runs"] = tables["runs"].iloc[1:]
    with pytest.raises(TidyError, match=r"not in runs\.parquet"):
        load_tidy(write_tidy(tmp_path, tables))


def test_an_unknown_status_is_refused(tables, tmp_path):
    tables["runs"].loc[0, "status"] = "sort of"
    with pytest.raises(TidyError, match="unknown status 'sort of'"):
        load_tidy(write_tidy(tmp_path, tables))


def test_two_suites_and_no_runs_are_refused(tables, tmp_path):
    tables["runs"].loc[0, "suite"] = "other"
    with pytest.raises(TidyError, match="mixes the suites fixture, other"):
        load_tidy(write_tidy(tmp_path, tables))
    tables["runs"] = tables["runs"].iloc[:0]
    with pytest.raises(TidyError, match="nothing was run"):
        load_tidy(write_tidy(tmp_path, tables))


def test_empty_verdicts_are_refused(tables, tmp_path):
    tables["scores"]["greedy_correct"] = tables["scores"]["greedy_correct"].astype(float)
    tables["scores"].loc[0, "greedy_correct"] = float("nan")
    with pytest.raises(TidyError, match="greedy_correct has empty cells"):
        load_tidy(write_tidy(tmp_path, tables))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("grader_version", "2", "tiny-qwen x chains mixes grader versions: 1, 2"),
        ("data_hash", "cc33", "tiny-qwen x chains mixes data hashes"),
        ("commit", "fedcba", "the runs come from 2 commits"),
        ("dirty", True, "uncommitted changes"),
    ],
)
def test_what_was_mixed_is_said(tables, tmp_path, column, value, said):
    tables["runs"].loc[1, column] = value
    assert said in "; ".join(cautions(load_tidy(write_tidy(tmp_path, tables))))


# -- tables that somebody edited -------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(root, tmp_path_factory):
    """A copy of committed tables."""
    folder = tmp_path_factory.mktemp("cached") / "tune"
    return shutil.copytree(root / "results" / "cached" / "tune", folder)


def edited(name, column, value):
    def edit(folder):
        path = folder / f"{name}.parquet"
        table = pd.read_parquet(path)
        table[column] = table[column].astype(object)
        table.loc[table.index[0], column] = value
        if not isinstance(value, str):
            table[column] = pd.to_numeric(table[column])
        table.astype({column: str} if isinstance(value, str) else {}).to_parquet(path)
        sealed(folder)

    return edit


def manifest(change):
    def edit(folder):
        path = folder / "manifest.json"
        record = json.loads(path.read_text())
        path.write_text(change(record))

    return edit


TAMPERED = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": manifest(lambda record: ""),
    "a list for a manifest": manifest(lambda record: "[]"),
    "no tables in it": manifest(lambda record: json.dumps({**record, "tables": {}})),
    "tables are a text": manifest(lambda record: json.dumps({**record, "tables": "all"})),
    "of another suite": manifest(lambda record: json.dumps({**record, "suite": "laptop"})),
    "without an edited table": manifest(
        lambda r: json.dumps(
            {**r, "tables": {k: v for k, v in r["tables"].items() if k != "costs"}}
        )
    ),
    "a key twice": lambda f: (f / "manifest.json").write_text('{"suite": "a", "suite": "b"}'),
    "accuracy above 1": edited("dynamics", "heldout_accuracy", 1.5),
    "progress below 0": edited("dynamics", "progress", -0.1),
    "negative seconds": edited("costs", "seconds_train", -1.0),
    "a word for seconds": edited("costs", "seconds_train", "fast"),
    "infinite FLOPs": edited("costs", "flops_total", float("inf")),
    "half a seed": edited("runs", "seed", 0.5),
    "an unknown status": edited("runs", "status", "great"),
    "two right answers in one": edited("scores", "greedy_correct", 2),
    "an empty method": edited("scores", "method", ""),
    "no parquet": lambda f: ((f / "runs.parquet").write_bytes(b"x" * 500), sealed_anyhow(f)),
    "an empty file": lambda f: ((f / "costs.parquet").write_bytes(b""), sealed_anyhow(f)),
}


def sealed_anyhow(folder):
    tables = {p.stem: file_hash(p) for p in folder.glob("*.parquet")}
    (folder / "manifest.json").write_text(json.dumps({"suite": "tune", "tables": tables}))


@pytest.mark.parametrize("name", TAMPERED)
def test_edited_tables_are_refused_in_one_line(cached, tmp_path, name):
    folder = shutil.copytree(cached, tmp_path / "tune")
    load_tidy(folder)
    TAMPERED[name](folder)
    with pytest.raises(TidyError) as refused:
        load_tidy(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_are_no_traceback(cached, tmp_path, seed):
    """Also where the manifest was made to fit: the file's own structure is damaged then."""
    folder = shutil.copytree(cached, tmp_path / "tune")
    rng = random.Random(seed)
    path = folder / f"{rng.choice(NEEDED_TABLES)}.parquet"
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    with pytest.raises(TidyError, match="is not the file"):
        load_tidy(folder)
    sealed_anyhow(folder)
    with contextlib.suppress(TidyError):
        load_tidy(folder)


def test_a_file_that_says_it_is_larger_than_any_grid_is_not_opened(tables, tmp_path, monkeypatch):
    folder = write_tidy(tmp_path, tables)
    monkeypatch.setattr(frames, "MOST_CELLS", 20)
    with pytest.raises(TidyError, match=r"runs\.parquet has \d+ cells, more than the 20"):
        load_tidy(folder)


def test_progress_is_of_the_steps_that_a_finished_run_made(tables, tmp_path):
    dynamics, runs = tables["dynamics"], tables["runs"]
    dynamics["progress"] = dynamics["progress"] / 4  # a budget ended them at a quarter of the limit
    runs.loc[runs["seed"] == 1, "status"] = "diverged"
    tables["scores"] = tables["scores"][tables["scores"]["seed"] != 1]
    found = load_tidy(write_tidy(tmp_path, tables)).dynamics
    last = found[found["method"] == "sft"].groupby("seed")["progress"].max()
    assert last[0] == 1 and last[1] == pytest.approx(0.25)
    assert found["progress"].min() == 0
