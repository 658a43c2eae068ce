"""Run folders become tidy tables that the analysis accepts; anything odd is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.report.building import build_tables
from bridge.collect import collecting
from bridge.plan.grid import Plan, RunSpec, load_plan
from bridge.store.columns import NEEDED_TABLES, needed
from bridge.store.records import RecordError, jsonl, read_json, read_jsonl, write_json, write_text
from bridge.tasks.registry import load_family
from tests.fixtures.run_folders import (
    write_collapse,
    write_divergence,
    write_evaluation,
    write_failure,
    write_suite,
    write_training,
)

Change = Callable[[RunSpec, Path], None]


def small_plan(root: Path, **overrides: Any) -> Plan:
    """A few runs of the smoke suite: every record is synced to disk, so more would be slow."""
    plan = load_plan("smoke", root=root, overrides=overrides)
    names = {("base", 0), ("base", 1), ("sft", 1), ("bridge", 0), ("bridge", 1)}
    return replace(plan, runs=tuple(s for s in plan.runs if (s.label, s.seed) in names))


@pytest.fixture(scope="module")
def plan(root: Path) -> Plan:
    return small_plan(root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    """Finished runs that no test may change."""
    folder = tmp_path_factory.mktemp("finished")
    write_suite(plan, folder)
    return folder


@pytest.fixture
def results(tmp_path: Path, finished: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "results")


@pytest.fixture
def spec(plan: Plan) -> RunSpec:
    """A run with dynamics of its own: BRIDGE."""
    return plan.run("tiny-qwen", "chains", "bridge", 0)


def collect_suite(plan: Plan, *, results: Path, partial: bool = False) -> Path:
    """Collect to where the workflow does, and say where that is."""
    folder = results / plan.name / "tidy"
    collecting.collect_suite(plan, results=results, folder=folder, partial=partial)
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def row_of(frame: pd.DataFrame, spec: RunSpec) -> dict[str, Any]:
    chosen = frame[(frame["method"] == spec.label) & (frame["seed"] == spec.seed)]
    assert len(chosen) == 1
    return {str(k): v for k, v in chosen.iloc[0].items()}


# -- finished grids --------------------------------------------------------------------------------


def test_the_analysis_reads_what_collecting_writes(plan: Plan, results: Path) -> None:
    tidy = load_tidy(collect_suite(plan, results=results))
    assert len(tidy.runs) == len(plan.runs)
    assert tidy.suite == "smoke"
    assert tidy.benchmarks("tiny-qwen", "chains") == ["rung1", "rung2"]
    for name, columns in ((n, needed(n)) for n in NEEDED_TABLES):
        assert set(columns) <= set(getattr(tidy, name).columns), name


def test_a_run_row_says_where_its_numbers_come_from(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    row = row_of(table(collect_suite(plan, results=results), "runs"), spec)
    assert (results / "smoke" / row["folder"]) == spec.folder(results).path
    assert row["spec_hash"] == spec.spec_hash
    assert (row["status"], row["reason"]) == ("done", None)
    assert (row["commit"], row["dirty"]) == ("0123abc", False)
    assert (row["train_s"], row["evaluate_s"]) == (1.5, 2.0)
    assert (row["base_model_hash"], row["data_hash"]) == ("aa", "bb")
    assert row["grader_version"] == "grader-1"
    assert row["demo_reward"] == 0.75


def test_scores_have_one_row_per_question(plan: Plan, results: Path, spec: RunSpec) -> None:
    scores = table(collect_suite(plan, results=results), "scores")
    own = scores[(scores["method"] == "bridge") & (scores["seed"] == 0)]
    assert own["question_id"].tolist() == [
        *(f"rung1/{i:05d}" for i in range(4)),
        *(f"rung2/{i:05d}" for i in range(3)),
    ]
    assert own["greedy_correct"].tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert own["n_samples"].tolist() == [2, 0, 0, 0, 2, 0, 0]
    assert own["n_sampled_correct"].tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert own["sampled_tokens_mean"].dropna().tolist() == [6.5, 6.5]
    assert set(own["spec_hash"]) == {spec.spec_hash}


def test_dynamics_have_the_clock_and_the_numbers_of_a_method(plan: Plan, results: Path) -> None:
    dynamics = table(collect_suite(plan, results=results), "dynamics")
    own = dynamics[(dynamics["method"] == "bridge") & (dynamics["seed"] == 1)]
    assert own["step"].tolist() == [0, 1, 2, 3]
    assert own["kind"].tolist() == ["probe", "rl", "rl", "rl"]
    assert own["elapsed_s"].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert own["teacher_sft_norm"].tolist() == [0.1] * 4
    others = dynamics[dynamics["method"] != "bridge"]
    assert others["teacher_sft_norm"].isna().all()
    base = dynamics[dynamics["method"] == "base"]
    assert base["step"].tolist() == [0, 0]


def test_costs_keep_every_stage(plan: Plan, results: Path, spec: RunSpec) -> None:
    row = row_of(table(collect_suite(plan, results=results), "costs"), spec)
    assert row["seconds_rollout"] == row["seconds_probe"] == 0.25
    assert (row["seconds_train"], row["seconds_evaluate"]) == (1.5, 2.0)
    assert (row["tokens_generated"], row["tokens_trained"]) == (900, 1200)
    assert (row["flops_generate"], row["flops_train"], row["flops_total"]) == (10, 20, 30)
    assert row["memory_host_gib"] == 0.5
    assert pd.isna(row["memory_device_gib"])


def test_equal_runs_give_equal_bytes(plan: Plan, results: Path, tmp_path: Path) -> None:
    first = _bytes(collect_suite(plan, results=results))
    again = _bytes(collect_suite(plan, results=results))
    elsewhere = tmp_path / "elsewhere"
    for one in reversed(plan.runs):  # Written in another order and place.
        write_training(one, elsewhere)
        write_evaluation(one, elsewhere)
    assert first == again == _bytes(collect_suite(plan, results=elsewhere))


def test_the_manifest_names_tables_and_runs(plan: Plan, results: Path, spec: RunSpec) -> None:
    folder = collect_suite(plan, results=results)
    manifest = read_json(folder / "manifest.json")
    for name in NEEDED_TABLES:
        digest = hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest()
        assert manifest["tables"][name] == digest
    assert manifest["commits"] == ["0123abc"]
    assert manifest["runs"]["tiny-qwen/chains/bridge/seed0"] == {
        "spec_hash": spec.spec_hash,
        "status": "done",
    }


def test_answers_stand_beside_question_and_gold(plan: Plan, results: Path, spec: RunSpec) -> None:
    family = load_family(spec.family)
    asked = family.benchmark("rung1", family.Options.model_validate(spec.dataset_options))[0]
    shown = table(collect_suite(plan, results=results), "answers")
    assert set(shown["sample"]) == {-1}, "sampled answers stay in the run folder"
    assert len(shown) == 7 * len(plan.runs)
    assert shown["question_id"].is_monotonic_increasing, "answers to one question side by side"
    row = row_of(shown[shown["question_id"] == asked.id], spec)
    assert (row["question"], row["gold"]) == (asked.question, asked.answer)
    assert (row["text"], row["extracted"], row["length"]) == ("\\boxed{ 3 }", "3", 11)
    assert (row["verdict"], row["difficulty"]) == ("correct", 2)


def test_answers_that_parquet_cannot_hold_are_kept_readable(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    path = spec.folder(results).answers
    rows = read_jsonl(path)
    rows[0] |= {"text": "a\ud800b" + "x" * 1_000_000, "extracted": "\udfff"}
    write_text(path, jsonl(rows))
    folder = collect_suite(plan, results=results)
    shown = table(folder, "answers")
    row = row_of(shown[shown["question_id"] == rows[0]["question_id"]], spec)
    assert row["text"] == "a\ufffdb" + "x" * 3997
    assert (row["length"], row["extracted"]) == (1_000_003, "\ufffd")
    assert (folder / "answers.parquet").stat().st_size < 50_000


def test_an_answer_to_no_question_of_the_benchmark_is_refused(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    path = spec.folder(results).answers
    rows = [
        row | {"question_id": "rung1/77777"} if row["question_id"] == "rung1/00001" else row
        for row in read_jsonl(path)
    ]
    write_text(path, jsonl(rows))
    with pytest.raises(RecordError, match=r"line 3: rung1/77777 is no question of rung1"):
        collect_suite(plan, results=results)


def test_runs_name_their_implementation_and_rates(plan: Plan, results: Path, spec: RunSpec) -> None:
    row = row_of(table(collect_suite(plan, results=results), "runs"), spec)
    assert row["implementation"] == "bridge"
    assert (row["lr_sft"], row["lr_rl"]) == (spec.training.lr_sft, spec.training.lr_rl)


# -- runs without a score --------------------------------------------------------------------------


def test_a_diverged_run_keeps_its_dynamics_and_cost_but_has_no_score(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    write_divergence(spec, results)
    folder = collect_suite(plan, results=results)
    tidy = load_tidy(folder)
    row = row_of(tidy.runs, spec)
    assert (row["status"], row["reason"]) == ("diverged", "step 3: the loss is NaN")
    key = ("bridge", 0)
    assert key not in set(zip(tidy.scores["method"], tidy.scores["seed"], strict=True))
    assert key in set(zip(tidy.costs["method"], tidy.costs["seed"], strict=True))
    own = tidy.dynamics[(tidy.dynamics["method"] == "bridge") & (tidy.dynamics["seed"] == 0)]
    assert own["step"].tolist() == [0, 1, 2]


def test_a_collapsed_policy_is_a_result_without_a_score_and_harms_no_other_row(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    before = load_tidy(collect_suite(plan, results=results))
    write_collapse(spec, results)
    folder = collect_suite(plan, results=results)
    tidy = load_tidy(folder)
    row = row_of(tidy.runs, spec)
    assert (row["status"], row["reason"]) == (
        "collapsed",
        "not one of 11 answers could be read (11 truncated)",
    )
    for name in ("scores", "costs", "dynamics"):
        old, new = (getattr(one, name) for one in (before, tidy))
        rest = [t[(t["method"] != "bridge") | (t["seed"] != 0)] for t in (old, new)]
        pd.testing.assert_frame_equal(*(t.reset_index(drop=True) for t in rest))
    assert not ((tidy.scores["method"] == "bridge") & (tidy.scores["seed"] == 0)).any()
    assert row_of(tidy.costs, spec)["seconds_train"] == 1.5
    # Its answers show what became of it.
    shown = table(folder, "answers")
    own = shown[(shown["method"] == "bridge") & (shown["seed"] == 0)]
    assert set(own["verdict"]) == {"truncated"}
    assert set(own["text"].str.len()) == {4000} and set(own["length"]) == {9000}

    build_tables(folder, results / "tables")
    lines = (results / "tables" / "main.md").read_text().splitlines()
    line = next(text for text in lines if text.startswith("| BRIDGE |"))
    assert line.startswith("| BRIDGE | 1/2 collapsed 1/2 |")


@pytest.mark.parametrize("gone", ["done", "scores"])
def test_a_missing_run_is_refused_by_name(
    plan: Plan, results: Path, spec: RunSpec, gone: str
) -> None:
    path: Path = getattr(spec.folder(results), gone)
    path.unlink()
    with pytest.raises(RecordError) as caught:
        collect_suite(plan, results=results)
    assert "tiny-qwen/chains/bridge/seed0 is not finished" in str(caught.value)
    assert str(path) in str(caught.value)


def test_partial_marks_what_is_missing_and_what_failed(
    plan: Plan, results: Path, spec: RunSpec
) -> None:
    failed = plan.run("tiny-qwen", "chains", "sft", 1)
    spec.folder(results).scores.unlink()
    failed.folder(results).done.unlink()
    write_failure(failed, results)
    tidy = load_tidy(collect_suite(plan, results=results, partial=True))
    assert row_of(tidy.runs, spec)["status"] == "missing"
    row = row_of(tidy.runs, failed)
    assert (row["status"], row["reason"]) == ("failed", "the checkpoint is missing")
    assert (tidy.runs["status"] == "done").sum() == len(plan.runs) - 2


def test_partial_works_on_an_empty_grid(plan: Plan, tmp_path: Path) -> None:
    tidy = load_tidy(collect_suite(plan, results=tmp_path, partial=True))
    assert set(tidy.runs["status"]) == {"missing"}
    assert tidy.scores.empty and tidy.costs.empty


# -- records that cannot be trusted ----------------------------------------------------------------


def cut_dynamics_within_a_line(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).dynamics
    path.write_text(path.read_text()[:-12])


def cut_dynamics_between_lines(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).dynamics
    write_text(path, jsonl(read_jsonl(path)[:-1]))


def lose_a_step(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).dynamics
    rows = read_jsonl(path)
    write_text(path, jsonl([*rows[:1], *rows[2:]]))


def repeat_a_step(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).dynamics
    rows = read_jsonl(path)
    write_text(path, jsonl([*rows[:2], *rows[1:]]))


def lose_a_timing(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).timings
    write_text(path, jsonl(read_jsonl(path)[:-1]))


def cut_answers(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).answers
    write_text(path, jsonl(read_jsonl(path)[1:]))


def flip_a_verdict(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).answers
    rows = read_jsonl(path)
    rows[0]["verdict"] = "correct"
    write_text(path, jsonl(rows))


def repeat_an_answer(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).answers
    rows = read_jsonl(path)
    write_text(path, jsonl([*rows, rows[0]]))


def answer_without_verdict(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).answers
    rows = read_jsonl(path)
    del rows[4]["verdict"]
    write_text(path, jsonl(rows))


def sample_an_unknown_question(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).answers
    rows = read_jsonl(path)
    write_text(path, jsonl([*rows, {**rows[4], "question_id": "rung1/99999"}]))


def damage_done(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).done
    path.write_text(path.read_text()[:200])


def forget_the_cost(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).done
    write_json(path, {k: v for k, v in read_json(path).items() if k != "tokens"})


def train_otherwise(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).done
    write_json(path, read_json(path) | {"train_hash": "another"})


def evaluate_otherwise(spec: RunSpec, results: Path) -> None:
    path = spec.folder(results).scores
    write_json(path, read_json(path) | {"spec_hash": "another"})


def grade_otherwise(spec: RunSpec, results: Path) -> None:
    write_evaluation(spec, results, grader="grader-2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_dynamics_within_a_line, "dynamics.jsonl, line 4: not a JSON object"),
        (cut_dynamics_between_lines, "dynamics.jsonl ends at step 2 of 3"),
        (lose_a_step, "dynamics.jsonl, line 2: step 1 is missing"),
        (repeat_a_step, "dynamics.jsonl, line 3: step 2 is missing"),
        (lose_a_timing, "dynamics.jsonl, line 4: step 3 is missing here or in timings.jsonl"),
        (cut_answers, "answers.jsonl holds 3 greedy answers to 3 questions of rung1"),
        (flip_a_verdict, "answers.jsonl holds 4 greedy answers to 4 questions of rung1, 3 of"),
        (repeat_an_answer, "answers.jsonl, line 12: a second greedy answer to rung1/00003"),
        (answer_without_verdict, "answers.jsonl, line 5 lacks the key 'verdict'"),
        (sample_an_unknown_question, "answers.jsonl holds 4 greedy answers to 5 questions"),
        (damage_done, "done.json is damaged; delete it"),
        (forget_the_cost, "done.json lacks the key 'tokens'"),
        (grade_otherwise, "graded by different graders (grader-1 in "),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_a_record_that_cannot_be_trusted_is_refused_in_one_line(
    plan: Plan, results: Path, spec: RunSpec, change: Change, said: str, partial: bool
) -> None:
    before = _bytes(collect_suite(plan, results=results))
    change(spec, results)
    with pytest.raises(RecordError) as caught:
        collect_suite(plan, results=results, partial=partial)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _bytes(results / "smoke" / "tidy") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (train_otherwise, "seed0 was made with another configuration (train_hash another"),
        (evaluate_otherwise, "seed0 was made with another configuration (spec_hash another"),
    ],
)
def test_a_run_of_another_configuration_counts_as_missing(
    plan: Plan, results: Path, spec: RunSpec, change: Change, said: str
) -> None:
    change(spec, results)
    with pytest.raises(RecordError) as caught:
        collect_suite(plan, results=results)
    assert said in str(caught.value)
    assert str(caught.value).endswith("; run snakemake again.")
    tidy = load_tidy(collect_suite(plan, results=results, partial=True))
    assert row_of(tidy.runs, spec)["status"] == "missing"


def test_a_policy_is_kept_when_only_its_evaluation_changed(results: Path, root: Path) -> None:
    changed = small_plan(root, evaluation={"temperature": 0.5})
    with pytest.raises(RecordError, match=r"scores\.json .* another configuration"):
        collect_suite(changed, results=results)
    for spec in changed.runs:
        write_evaluation(spec, results)
    assert collect_suite(changed, results=results).is_dir()


def _bytes(folder: Path) -> dict[str, bytes]:
    found = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    json.loads(found["manifest.json"])
    return found
