"""From a suite to its runs: the grid, what is refused, and hashes that see every setting."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from bridge.methods.registry import load_method, method_names
from bridge.plan import grid
from bridge.plan.grid import Plan, RunSpec, load_plan, load_run
from bridge.store.records import content_hash
from bridge.store.schema import ConfigError
from bridge.store.settings import (
    EvaluationConfig,
    HubModel,
    LocalModel,
    PackageModel,
    TinyModel,
    TrainingConfig,
    WarmUp,
)
from bridge.tasks.registry import family_names, load_family
from tests.fixtures.planning import check_differs
from tests.fixtures.tiny_run import make_options

SUITES = ("smoke", "matrix")
# Of families that do not work without options.
REQUIRED_OPTIONS = {
    "own": {
        "train": {"path": "train.jsonl", "sha256": "0" * 64},
        "benchmarks": {"own_test": {"path": "test.jsonl", "sha256": "1" * 64}},
    }
}

PACKAGE = PackageModel(
    source="package",
    package="some-model==1.2",
    wheel_sha256="0" * 64,
    file="some_model/m.gguf",
    tensors_sha256="1" * 64,
    warm_up=WarmUp(family="arithmetic", steps=1, learning_rate=1e-5, max_response_tokens=8),
)


@pytest.fixture
def plan(root: Path) -> Plan:
    return load_plan("smoke", root=root)


def other(annotation: Any, value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, *(value[-1:] or ("x",)))
    if isinstance(value, dict):
        return {**value, "x": next(iter(value.values()), 1)}
    schemas = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    if value is None and schemas:
        return schemas[0].model_construct()
    if value is None:
        return "x" if str in get_args(annotation) else 1
    raise AssertionError(f"how to change {value!r} of {annotation}?")


def changed(model: BaseModel) -> Iterator[tuple[str, Any]]:
    """The model with one field changed, for each field at any depth; a change really is one."""
    for name, field in type(model).model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # One value only: a tag, or an option that a method fixes.
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            for inner, altered in changed(value):
                yield f"{name}.{inner}", model.model_copy(update={name: altered})
            continue
        copied = model.model_copy(update={name: other(field.annotation, value)})
        assert copied != model
        yield name, copied


# -- the grid --------------------------------------------------------------------------------------


def test_smoke_is_five_methods_on_two_seeds(plan: Plan) -> None:
    assert len(plan.runs) == 10
    assert {s.label for s in plan.runs} == {"base", "sft", "rl_zero", "cold_start", "bridge"}
    assert {s.seed for s in plan.runs} == {0, 1}
    assert list(plan.made_models) == ["tiny-qwen"]


def test_the_matrix_is_eight_methods_on_every_model_and_dataset(root: Path) -> None:
    plan = load_plan("matrix", root=root)
    blocks = {(s.model, s.dataset) for s in plan.runs}
    methods = {s.method for s in plan.runs}
    assert blocks == {("tiny-qwen", "chains"), ("tiny-llama", "chains"), ("tiny-qwen", "equations")}
    assert len(plan.runs) == len(blocks) * len(methods) * 3
    assert methods == {
        *("untrained", "sft", "rl_zero", "cold_start", "alternating", "mixing"),
        *("bridge", "bridge_no_gain"),
    }


@pytest.mark.parametrize("name", SUITES)
def test_folders_and_hashes_of_a_suite_are_unique(root: Path, name: str) -> None:
    plan = load_plan(name, root=root)
    assert len({s.folder(Path("r")).path for s in plan.runs}) == len(plan.runs)
    assert len({(s.model, s.train_hash) for s in plan.runs}) == len(plan.runs)


def test_a_run_is_found_by_its_names(plan: Plan) -> None:
    assert plan.run("tiny-qwen", "chains", "sft", 1) is plan.runs[3]
    with pytest.raises(ConfigError, match="has no run tiny-qwen/chains/sft/seed7"):
        plan.run("tiny-qwen", "chains", "sft", 7)


@pytest.mark.parametrize("name", ["matrix", "paper"])
def test_a_job_reads_its_own_cell_as_the_plan_has_it(root: Path, name: str) -> None:
    rows = {(s.model, s.dataset, s.label): s for s in load_plan(name, root=root).runs}
    for spec in rows.values():
        cell = (spec.model, spec.dataset, spec.label, spec.seed)
        run = load_run(name, cell, root=root)
        assert run == spec and run.spec_hash == spec.spec_hash


def test_a_job_makes_no_other_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(grid, "RunSpec", lambda *names, **rest: made.append(names))
    load_run("matrix", ("tiny-llama", "chains", "sft", 2), root=root)
    assert made == [("matrix", "tiny-llama", "chains", "sft", 2)]


@pytest.mark.parametrize(
    "cell",
    [
        ("tiny-llama", "equations", "sft", 0),
        ("tiny-qwen", "chains", "sft", 3),
        ("tiny-qwen", "chains", "dapo", 0),
    ],
)
def test_a_job_outside_the_grid_is_refused(root: Path, cell: tuple[str, str, str, int]) -> None:
    with pytest.raises(ConfigError, match=f"has no run {'/'.join(cell[:3])}/seed{cell[3]}; "):
        load_run("matrix", cell, root=root)


def test_settings_are_written_out_once_for_all_seeds(root: Path) -> None:
    first, second = (s for s in load_plan("smoke", root=root).runs if s.label == "bridge")
    assert first.method_options is second.method_options
    assert first.dataset_options is second.dataset_options


@pytest.mark.slow
def test_planning_needs_neither_torch_nor_numpy(root: Path) -> None:
    """In a fresh interpreter, for here other tests may have imported them."""
    code = (
        "import sys; from pathlib import Path; from bridge.plan.grid import load_plan\n"
        "load_plan('matrix', root=Path())\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- refusals --------------------------------------------------------------------------------------


def set_label(raw: dict[str, Any]) -> None:
    raw["grid"][0]["methods"][1] = "sftt"


def ask_twice(raw: dict[str, Any]) -> None:
    raw["grid"].append({**raw["grid"][0], "methods": ["sft"], "seeds": [1, 2]})


def ask_twice_in_one_list(raw: dict[str, Any]) -> None:
    raw["grid"][0]["seeds"] = [0, 0]


def unknown_model(raw: dict[str, Any]) -> None:
    raw["grid"][0]["models"] = ["tiny-qwem"]


def unknown_dataset(raw: dict[str, Any]) -> None:
    raw["grid"][0]["datasets"] = ["chain"]


def unknown_family(raw: dict[str, Any]) -> None:
    raw["datasets"]["chains"]["family"] = "chians"


def unknown_method_option(raw: dict[str, Any]) -> None:
    raw["methods"]["sft"]["options"] = {"stepps": 3}


def missing_method_option(raw: dict[str, Any]) -> None:
    del raw["methods"]["sft"]


def wrong_method_option(raw: dict[str, Any]) -> None:
    raw["methods"]["sft"]["options"]["steps"] = "many"


def unknown_family_option(raw: dict[str, Any]) -> None:
    raw["datasets"]["chains"]["options"] = {"question_scale": 0.5}


def unknown_training_key(raw: dict[str, Any]) -> None:
    raw["methods"]["sft"]["training"] = {"lr_sftt": 1.0}


def no_time_left(raw: dict[str, Any]) -> None:
    raw["methods"]["cold_start"]["options"] = {
        "sft_steps": 8,
        "rl_steps": 2,
        "budget": "equal_time",
    }


def unknown_benchmark(raw: dict[str, Any]) -> None:
    raw["train_on_benchmarks"] = ["rung11"]


def untaught_family(raw: dict[str, Any]) -> None:
    raw["datasets"]["chains"] = {"family": "equations"}


def teach_unknown(raw: dict[str, Any]) -> None:
    raw["models"]["tiny-qwen"]["families"] = ["chains", "rings"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_label, "methods.sftt: unknown method 'sftt'; did you mean 'sft'?"),
        (ask_twice, "grid.1: the run tiny-qwen/chains/sft/seed1 is asked for twice"),
        (ask_twice_in_one_list, "grid.0: the run tiny-qwen/chains/base/seed0 is asked for twice"),
        (unknown_model, "unknown model 'tiny-qwem'; did you mean 'tiny-qwen'?"),
        (unknown_dataset, "unknown dataset 'chain'; did you mean 'chains'?"),
        (unknown_family, "unknown problem family 'chians'; did you mean 'chains'?"),
        (unknown_method_option, "methods.sft.options.stepps: unknown key; did you mean 'steps'?"),
        (missing_method_option, "methods.sft.options.steps: this key is required."),
        (wrong_method_option, "methods.sft.options.steps: "),
        (
            unknown_family_option,
            "datasets.chains.options.question_scale: unknown key; did you mean 'questions_scale'?",
        ),
        (
            unknown_training_key,
            "methods.sft.training.lr_sftt: unknown key; did you mean 'lr_sft'?",
        ),
        (no_time_left, "methods.cold_start: no time is left for RL"),
        (
            unknown_benchmark,
            "train_on_benchmarks: unknown benchmark 'rung11'; did you mean 'rung1'?",
        ),
        (untaught_family, "does not cover the family 'equations'"),
        (teach_unknown, "unknown problem family 'rings'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    planned: Callable[[Callable[[dict[str, Any]], None]], Plan],
    change: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(change)
    message = str(caught.value)
    assert said in message
    assert "made.yaml: " in message
    assert "\n" not in message


# -- what lies on disk -----------------------------------------------------------------------------


def test_every_training_setting_changes_both_hashes(plan: Plan) -> None:
    """But for those that only say where numbers lie or how often they are computed."""
    spec = plan.runs[0]
    same = {"activation_checkpointing", "cpu_offload"}
    same |= {f"sharding.{name}" for name in ("stage", "ranks", "offload_optimizer")}
    for name, training in changed(spec.training):
        assert isinstance(training, TrainingConfig)
        altered = replace(spec, training=training)
        if name in same:
            same.remove(name)
            assert (altered.train_hash, altered.spec_hash) == (spec.train_hash, spec.spec_hash)
        else:
            check_differs(spec, altered, name, trains=True)
    assert not same


def test_every_evaluation_setting_changes_the_score_hash_alone(plan: Plan) -> None:
    spec = plan.runs[0]
    for name, evaluation in changed(spec.evaluation):
        assert isinstance(evaluation, EvaluationConfig)
        check_differs(spec, replace(spec, evaluation=evaluation), name, trains=False)


@pytest.mark.parametrize(
    "model",
    [
        TinyModel,
        LocalModel(source="local", path="models/a"),
        HubModel(source="hub", repo="owner/name", revision="0" * 40),
        PACKAGE,
    ],
    ids=["tiny", "local", "hub", "package"],
)
def test_every_model_setting_changes_both_hashes(plan: Plan, model: Any) -> None:
    spec = plan.runs[0]
    spec = spec if model is TinyModel else replace(spec, model_config=model)
    for name, made in changed(spec.model_config):
        check_differs(spec, replace(spec, model_config=made), name, trains=True)


@pytest.mark.parametrize("family", family_names())
def test_every_option_of_a_family_changes_both_hashes(plan: Plan, family: str) -> None:
    options = load_family(family).Options.model_validate(REQUIRED_OPTIONS.get(family, {}))
    spec = replace(plan.runs[0], family=family, dataset_options=options.model_dump(mode="json"))
    for name, altered in changed(options):
        other_spec = replace(spec, dataset_options=altered.model_dump(mode="json"))
        check_differs(spec, other_spec, name, trains=True)


@pytest.mark.parametrize("method", method_names())
def test_every_option_of_a_method_changes_both_hashes(plan: Plan, method: str) -> None:
    options = load_method(method).Options.model_validate(make_options(method))
    spec = replace(plan.runs[0], method=method, method_options=options.model_dump(mode="json"))
    for name, altered in changed(options):
        other_spec = replace(spec, method_options=altered.model_dump(mode="json"))
        check_differs(spec, other_spec, name, trains=True)


@pytest.mark.parametrize("change", [{"seed": 9}, {"family": "equations"}, {"method": "mixing"}])
def test_seed_family_and_method_change_both_hashes(plan: Plan, change: dict[str, Any]) -> None:
    spec = plan.runs[0]
    check_differs(spec, replace(spec, **change), str(change), trains=True)


def test_no_limit_on_questions_leaves_the_hash_of_older_records(plan: Plan) -> None:
    spec = plan.runs[0]
    assert "questions" not in spec.evaluation.hashed
    limited = spec.evaluation.model_copy(update={"questions": 8})
    assert limited.hashed == spec.evaluation.hashed | {"questions": 8}


@pytest.mark.parametrize(
    ("name", "warm", "said"),
    [
        ("m", {}, ": a model with a warm_up needs 'warm' in its name, .*; call it m-warm"),
        ("m-warm", {"family": "arithmetics"}, r"\.warm_up\.family: .*did you mean 'arithmetic'"),
        ("m-warm", {"options": {"prat": 1}}, r"\.warm_up\.options\.prat: unknown key"),
        ("m-warm", {"family": "word_problems"}, r"\.warm_up: the set \w+ is not on the hub; set"),
    ],
)
def test_a_warm_up_is_checked_when_planned(
    planned: Any, monkeypatch: pytest.MonkeyPatch, name: str, warm: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("BRIDGE_DATA_ROOT", raising=False)

    def change(raw: dict[str, Any]) -> None:
        made = PACKAGE.model_dump(mode="json")
        made["warm_up"] |= warm
        raw["models"] = {name: made}
        raw["grid"][0]["models"] = [name]

    with pytest.raises(ConfigError, match=f"models.{name}{said}"):
        planned(change)


@pytest.mark.parametrize("name", ["suite", "dataset", "label", "world"])
def test_names_alone_change_no_hash(plan: Plan, name: str) -> None:
    """So a run can move to another suite or row without looking new."""
    spec = plan.runs[0]
    renamed = replace(spec, **{name: "renamed"})  # type: ignore[arg-type]
    assert (renamed.train_hash, renamed.spec_hash) == (spec.train_hash, spec.spec_hash)


def test_a_new_field_of_a_run_has_to_be_thought_about() -> None:
    """Who adds a field to RunSpec decides whether it is hashed, and lists it in a test above."""
    assert set(RunSpec.__dataclass_fields__) == {
        *("suite", "model", "dataset", "label", "seed", "world", "model_config", "family"),
        *("dataset_options", "method", "method_options", "training", "evaluation"),
        *("train_on_benchmarks", "checkpoint_hash", "reward", "reward_hash", "own_code_hash"),
    }


def test_the_written_specification_holds_everything(plan: Plan) -> None:
    spec = plan.runs[0]
    written = spec.as_dict()
    assert set(written) == {*RunSpec.__dataclass_fields__, "train_hash", "spec_hash"}
    assert content_hash(written) == content_hash(plan.runs[0].as_dict())


def test_the_plan_hash_sees_each_run(root: Path, plan: Plan) -> None:
    assert load_plan("smoke", root=root).hash == plan.hash
    assert replace(plan, runs=plan.runs[:-1]).hash != plan.hash
    assert replace(plan, runs=plan.runs[::-1]).hash != plan.hash
