"""What trials chose, frozen, and the suites that are tuned by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import Tidy, TidyError, cautions, load_tidy
from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.trials import make_choice, trials_of
from bridge.collect.caching import cache_suite
from bridge.collect.collecting import collect_suite
from bridge.jobs.cli import main
from bridge.jobs.tuned import trials_first
from bridge.plan.choices import sealed
from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import ConfigError
from tests.fixtures.run_folders import write_suite
from tests.fixtures.tidy import make_tidy, write_tidy

BLOCK = {"models": ["tiny-qwen"], "datasets": ["chains"], "methods": ["base", "sft", "mixing"]}
TUNING = {"trials": {"count": 3}, "grid": [BLOCK | {"seeds": [0, 1], "worlds": [100]}]}
# Validation accuracy by row, trial and seed; the better mean is not the better single run.
REACHED = {
    "sft": [(0.5, 0.5), (0.9, 0.3), (0.55, 0.55)],
    "mixing": [(0.7, 0.7), (0.2, 0.2), (0.7, 0.7)],
}


@pytest.fixture
def tuning(root: Path) -> Plan:
    return load_plan("matrix", root=root, overrides=TUNING)


def tidy_of(plan: Plan, folder: Path, statuses: dict[Any, str] | None = None) -> Tidy:
    labels = tuple(dict.fromkeys(spec.label for spec in plan.runs))
    tables = make_tidy(
        models=("tiny-qwen",),
        methods=labels,
        seeds=(10_000, 10_001),
        sizes=(20,),
        n_steps=4,
        suite="matrix",
        statuses=statuses,
    )
    rates = {s.label: (s.training.lr_sft, s.training.lr_rl) for s in plan.runs}
    tables["runs"][["lr_sft", "lr_rl"]] = [rates[m] for m in tables["runs"]["method"]]
    dynamics = tables["dynamics"]
    for (label, seed), part in dynamics.groupby(["method", "seed"]):
        row, _, number = str(label).partition(".t")
        end = REACHED[row][int(number)][int(seed) - 10_000] if number else 0.1
        # Better on the way than at the end: only the end counts.
        course = np.where(part["step"] == 4, end, 0.99)
        dynamics.loc[part.index, "heldout_accuracy"] = course
    return load_tidy(write_tidy(folder, tables))


def chosen(record: dict[str, Any]) -> dict[str, str]:
    rows = record["blocks"]["tiny-qwen/chains"]["rows"]
    return {row: entry["trial"] for row, entry in rows.items()}


def test_the_best_mean_at_the_end_is_chosen_and_the_first_of_equals(
    tuning: Plan, tmp_path: Path
) -> None:
    record = make_choice(tidy_of(tuning, tmp_path), tuning)
    assert chosen(record) == {"sft": "sft.t01", "mixing": "mixing.t00"}
    entry = record["blocks"]["tiny-qwen/chains"]["rows"]["mixing"]
    spec = tuning.run("tiny-qwen", "chains", "mixing.t00", 10_000)
    assert entry["training"] == {"lr_sft": spec.training.lr_sft, "lr_rl": spec.training.lr_rl}
    assert entry["options"]["rl_weight"] == spec.method_options["rl_weight"]
    assert (entry["tried"], entry["ineligible"]) == (3, 0)


def test_a_trial_with_a_run_that_diverged_is_not_eligible(tuning: Plan, tmp_path: Path) -> None:
    lost = {("tiny-qwen", "chains", "sft.t01", 10_001): "diverged"}
    tidy = tidy_of(tuning, tmp_path, lost)
    assert chosen(make_choice(tidy, tuning))["sft"] == "sft.t02"
    assert [t.accuracy for t in trials_of(tidy, "tiny-qwen", "chains")["sft"]][1] is None
    every = {("tiny-qwen", "chains", f"sft.t0{i}", 10_000): "diverged" for i in range(3)}
    with pytest.raises(TidyError, match="no trial of sft finished"):
        make_choice(tidy_of(tuning, tmp_path, every), tuning)


def test_the_table_of_trials_marks_what_was_chosen(tuning: Plan, tmp_path: Path) -> None:
    tidy_of(tuning, tmp_path / "tidy")
    build_tables(tmp_path / "tidy", tmp_path / "tables")
    text = (tmp_path / "tables" / "trials.md").read_text()
    assert "**60.0**" in text and "**70.0**" in text and text.count("**70.0**") == 1
    assert not (tmp_path / "tables" / "rates.md").exists()


# -- a suite that is tuned ------------------------------------------------------------------------


@pytest.fixture
def tuned(root: Path, tuning: Plan, tmp_path: Path) -> Path:
    """A checkout with suites and a choice."""
    home = tmp_path / "home"
    (home / "suites").mkdir(parents=True)
    (home / "suites" / "matrix.yaml").write_text((root / "suites" / "matrix.yaml").read_text())
    folder = home / "results" / "cached" / "matrix"
    record = make_choice(tidy_of(tuning, tmp_path / "tidy"), tuning)
    folder.mkdir(parents=True)
    (folder / "choice.json").write_text(json.dumps(record))
    return home


def compared(home: Path, **changes: Any) -> Plan:
    overrides = {
        "tuned_by": {"suite": "matrix"},
        "grid": [BLOCK | {"seeds": [0], "worlds": [1, 2]}],
        **changes,
    }
    return load_plan("matrix", root=home, overrides=overrides)


def test_rows_take_the_chosen_settings(tuned: Path, tuning: Plan) -> None:
    plan = compared(tuned)
    trial = tuning.run("tiny-qwen", "chains", "mixing.t00", 10_000)
    run = plan.run("tiny-qwen", "chains", "mixing", 100)
    assert run.training == trial.training
    assert run.method_options == trial.method_options
    untouched = load_plan("matrix", root=tuned).run("tiny-qwen", "chains", "mixing", 0)
    assert run.train_hash != untouched.train_hash


def rewrite(home: Path, change: Any, *, seal: bool = True) -> None:
    path = home / "results" / "cached" / "matrix" / "choice.json"
    record = json.loads(path.read_text())
    change(record)
    if seal:
        record.pop("hash")
        record = sealed(record)
    path.write_text(json.dumps(record))


def block_of(record: dict[str, Any]) -> dict[str, Any]:
    return dict(record["blocks"])["tiny-qwen/chains"]  # type: ignore[no-any-return]


def test_an_edited_choice_is_refused(tuned: Path) -> None:
    rewrite(tuned, lambda r: block_of(r)["rows"]["sft"]["training"].update(lr_sft=1.0), seal=False)
    with pytest.raises(ConfigError, match=r"choice\.json was edited"):
        compared(tuned)


def test_unequal_trials_are_refused(tuned: Path) -> None:
    rewrite(tuned, lambda r: block_of(r)["rows"]["sft"].update(tried=2))
    with pytest.raises(ConfigError, match="rows were given 2 and 3 trials"):
        compared(tuned)


def test_a_choice_for_other_data_is_refused(tuned: Path) -> None:
    with pytest.raises(ConfigError, match="with other settings of the model, the data"):
        compared(tuned, datasets={"chains": {"options": {"slip": 0.2}}})
    compared(tuned, datasets={"chains": {"options": {"questions_per_rung": 40}}})


def test_other_code_is_said(tuned: Path) -> None:
    assert compared(tuned).rows_tuned_by_other_code() == []
    rewrite(tuned, lambda r: block_of(r)["rows"]["sft"].update(code="another"))
    assert compared(tuned).rows_tuned_by_other_code() == ["sft"]


def test_tuning_seeds_are_not_compared(tuned: Path) -> None:
    with pytest.raises(ConfigError, match="seed 10001 on tiny-qwen/chains was used for tuning"):
        compared(tuned, grid=[BLOCK | {"seeds": [1], "worlds": [100]}])


def test_a_row_without_trials_is_refused(tuned: Path) -> None:
    with pytest.raises(ConfigError, match="chose nothing for bridge on tiny-qwen/chains"):
        compared(tuned, grid=[BLOCK | {"methods": ["bridge"], "seeds": [0], "worlds": [1]}])


def test_a_row_that_was_another_method_is_refused(tuned: Path) -> None:
    with pytest.raises(ConfigError, match="tuned mixing under that name"):
        compared(tuned, methods={"mixing": {"method": "rl_zero"}})


def test_a_choice_that_was_never_made_is_one_sentence(tuned: Path) -> None:
    with pytest.raises(ConfigError, match=r"results/matrix/tidy/choice\.json is missing"):
        compared(tuned, tuned_by={"suite": "matrix", "frozen": False})


@pytest.mark.slow
def test_committed_tables_need_no_tuning(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They hold the choice that set their rows."""
    monkeypatch.chdir(tuned)
    Path("suites/compared.yaml").write_text(Path("suites/matrix.yaml").read_text())
    (tidy := Path("results/matrix/tidy")).mkdir(parents=True)
    shutil.move("results/cached/matrix/choice.json", tidy)

    def planned(**where: bool) -> Plan:
        block = BLOCK | {"seeds": [0, 1], "worlds": [1]}
        overrides = {"tuned_by": {"suite": "matrix", "frozen": False}, "grid": [block]}
        return load_plan("compared", root=Path(), overrides=overrides, **where)

    plan, own = planned(), Path("results/compared")
    write_suite(plan, Path("results"))
    collect_suite(plan, results=Path("results"), folder=own / "tidy")
    build_tables(own / "tidy", own / "tables")
    cache_suite(Path("results"), "compared")
    for folder in (tidy.parent, own):
        shutil.rmtree(folder)
    with pytest.raises(ConfigError, match=r"is missing: .* run the tuning suite first"):
        planned()
    assert planned(cached=True).hash == plan.hash
    main(["tables", "--suite", "compared", "--tidy", "results/cached/compared"])
    assert (own / "tables/main.md").is_file()
    with pytest.raises(SystemExit):  # drawing them would take long
        main(["report", "--suite", "compared", "--tidy", "results/cached/compared"])
    assert "build the figures before the report" in capsys.readouterr().err
    Path("results/cached/compared/choice.json").unlink()
    with pytest.raises(ConfigError, match=r"is missing: .* bridge cache --suite compared copies"):
        planned(cached=True)


def test_the_trials_of_a_tuned_suite_run_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    words = ["--cores", "2", "--config", "suite=referee", "source=results"]
    assert trials_first(words) == [
        "results/referee_tune/tidy/choice.json",
        "--cores",
        "2",
        "--config",
        "suite=referee_tune",
    ]
    assert trials_first(["--cores", "2", "--config", "suite=matrix"]) is None
    said = ["--config", "suite=referee", "overrides=5"]
    assert trials_first(said) is None, "Snakemake says what is wrong"
    frozen = 'overrides={"tuned_by": {"frozen": true}}'
    assert trials_first(["--cores", "2", "--config", "suite=referee", frozen]) is None
    assert trials_first(["--cores", "2", "--config", "suite=referee", "source=cached"]) is None


# -- worlds in the tables -------------------------------------------------------------------------


def test_the_seeds_of_a_world_are_averaged(tmp_path: Path) -> None:
    tables = make_tidy(
        models=("tiny-qwen",), methods=("sft", "mixing"), seeds=(100, 101, 200, 201), sizes=(25,)
    )
    runs, scores = tables["runs"], tables["scores"]
    runs["world"] = runs["seed"] // 100
    runs["base_model_hash"] = runs["world"].astype(str)
    (block,) = build_blocks(tidy := load_tidy(write_tidy(tmp_path, tables)))
    (table,) = block.answers["sft", "rung1"]
    assert list(table.index) == [1, 2]
    own = scores[(scores["method"] == "sft") & (scores["seed"] < 200)]
    expected = own.groupby("question_id")["greedy_correct"].mean()
    assert np.allclose(table.loc[1], expected.reindex(table.columns))
    cell = block.cells["sft", "rung1"]
    assert cell.interval is not None
    assert (cell.interval.n_seeds, cell.n_runs, cell.words) == (2, 4, [])
    assert cautions(tidy) == []
    runs.loc[runs["seed"] == 101, "base_model_hash"] = "another"
    mixed = cautions(load_tidy(write_tidy(tmp_path, tables)))
    assert mixed == ["tiny-qwen x chains mixes base models: 1, another"]
