"""CoLA: format and noise of its demonstrations, what is refused, and the study from end to end.

The sentences are made up; only the file's format is CoLA's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import yaml

from bridge.grading.extraction import last_boxed
from bridge.grading.labels import matthews
from bridge.models.tiny import build_model, build_tokenizer, pretrain, save_base
from bridge.plan.grid import load_plan
from bridge.run.loop import train_run
from bridge.store.records import read_jsonl
from bridge.store.settings import PackageModel
from bridge.tasks import cola
from bridge.tasks.base import Dataset, ProblemError
from bridge.tasks.real import sources
from bridge.tasks.real.prompts import ACCEPTABLE
from bridge.tasks.real.sources import Entry, HubSource
from studies.coupling import arms as arms_module
from studies.coupling import cli as coupling

NOUNS, VERBS = ("cats", "dogs", "birds", "children", "teachers"), ("sleep", "sing", "run", "wait")
GOOD = [f"The {n} {v} ." for n in NOUNS for v in VERBS]
BAD = [f"{v} the {n} the ." for n in NOUNS for v in VERBS]
ROWS = [(s, "1") for s in GOOD] + [(s, "0") for s in BAD]

Install = Callable[..., dict[str, Any]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write both sets into a data root and into the manifest; options that read them."""

    def forget() -> None:
        sources._load.cache_clear()
        cola._dataset.cache_clear()

    def made(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> dict[str, Any]:
        entries = {}
        for name, rows in (("cola_train", train), ("cola_validation", test)):
            path = tmp_path / "root" / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            lines = (
                json.dumps({"id": f"{name}/{i}", "problem": sentence, "answer": label}) + "\n"
                for i, (sentence, label) in enumerate(rows)
            )
            path.write_text("".join(lines))
            entries[name] = Entry(
                file=path.name,
                rows=len(rows),
                sha256=None,
                content_sha256=None,
                licence="ours",
                origin="made up",
                hub=None,
            )
        monkeypatch.setattr(sources, "manifest", lambda: entries)
        forget()
        return {"data_root": str(tmp_path / "root")}

    yield made
    forget()


def dataset(options: dict[str, Any]) -> Dataset:
    return cola.FAMILY.dataset(cola.ColaOptions.model_validate({"validation_size": 10} | options))


def test_the_benchmark_and_equal_sentences_are_not_trained_on(install: Install) -> None:
    again = [("the CATS  sleep .", "0"), ("cats sleep sing the .", "1")]
    options = install([*ROWS, *again], [("The cats sleep .", "1"), ("wait the dogs the .", "0")])
    data = dataset(options)
    problems = [*data.train, *data.validation]
    assert len(problems) == len(ROWS) + len(again) - 3
    texts = [p.question.removesuffix(ACCEPTABLE).lower() for p in problems]
    assert len(set(texts)) == len(texts)
    assert "the cats sleep ." not in texts
    assert len(data.validation) == 10
    benchmark = cola.FAMILY.benchmark("cola_validation", cola.ColaOptions(**options))
    assert [p.answer for p in benchmark] == ["1", "0"]
    assert all(p.demonstration is None for p in benchmark)


def test_what_is_held_out_depends_on_the_sentences_alone(install: Install) -> None:
    test = [("Nobody waits .", "1")]
    options = install(ROWS, test)
    held_out = {p.question for p in dataset(options).validation}
    assert {p.question for p in dataset(install(ROWS[::-1], test)).validation} == held_out
    smaller = {p.question for p in dataset(options | {"validation_size": 4}).validation}
    assert smaller < held_out
    assert {p.question for p in dataset(options | {"seed": 1}).validation} != held_out


def test_demonstrations_have_the_wanted_format_and_noise(install: Install) -> None:
    options = install(ROWS, [("Nobody waits .", "1")])
    for target in ("box", "bare"):
        data = dataset(options | {"target": target})
        for problem in (*data.train, *data.validation):
            assert problem.demonstration is not None
            boxed = last_boxed(problem.demonstration)
            assert (boxed or problem.demonstration) == problem.answer
            assert (boxed is not None) == (target == "box")
    many = [(f"w{i} .", str(i % 2)) for i in range(2000)]
    options = install(many, [("Nobody waits .", "1")])
    problems = dataset(options | {"label_noise": 0.1}).train
    wrong = [last_boxed(p.demonstration or "") != p.answer for p in problems]
    # 1,990 draws of probability 0.1: four standard errors are 0.027.
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.027)


def test_sentences_of_the_warm_up_are_trained_on_by_no_run(install: Install) -> None:
    options = install(ROWS, [("Nobody waits .", "1")]) | {"warm_up_size": 8}
    run, warm = dataset(options), dataset(options | {"part": "warm_up"})
    whole = dataset(options | {"warm_up_size": 0})
    assert len(warm.train) == 8 and run.validation == warm.validation == whole.validation
    assert (*run.train, *warm.train) == whole.train
    assert dataset(options | {"target": "bare"}).train[0].id == run.train[0].id
    with pytest.raises(ProblemError, match=r"lower the option validation_size \(10\) or warm_up"):
        dataset(options | {"warm_up_size": 30})


def test_hidden_labels_and_too_few_sentences_are_refused(install: Install) -> None:
    hidden = install(ROWS, [("Nobody waits .", "-1")])
    with pytest.raises(ProblemError, match="label '-1', not 0 or 1"):
        dataset(hidden)
    few = install(ROWS[:10], [("Nobody waits .", "1")])
    with pytest.raises(ProblemError, match="only 10 sentences can be trained on"):
        dataset(few)


def test_the_hub_s_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sources.manifest()
    for name, rows in (("cola_train", 8551), ("cola_validation", 1043)):
        assert real[name].rows == rows
        assert real[name].hub is not None
    source = HubSource.model_validate(real["cola_train"].hub)
    path = tmp_path / "cola" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    table = {"sentence": ["The cats sleep.", "sleep cats the."], "label": [1, 0], "idx": [0, 1]}
    pd.DataFrame(table).to_parquet(path)
    made_up = {"rows": 2, "hub": source, "content_sha256": None}
    entry = real["cola_train"].model_copy(update=made_up)
    monkeypatch.setattr(sources, "manifest", lambda: {"cola_train": entry})
    monkeypatch.setattr(sources, "snapshot", Mock(return_value=tmp_path))
    monkeypatch.delenv(sources.DATA_ROOT_VARIABLE, raising=False)
    sources._load.cache_clear()
    try:
        items = sources.load_set("cola_train", cola.ColaOptions()).items
    finally:
        sources._load.cache_clear()
    assert [(i.problem, i.answer) for i in items] == [
        ("The cats sleep.", "1"),
        ("sleep cats the.", "0"),
    ]


def test_the_suite_takes_the_readings_of_the_study(root: Path) -> None:
    plan = load_plan("coupling_cola_gpu", root=root)
    (model,) = {spec.model_config for spec in plan.runs}
    assert getattr(model, "prompt", None) == "chat-template-no-thinking"  # B1
    assert {spec.seed for spec in plan.runs} == {0, 1, 2, 3, 4}
    for spec in plan.runs:
        epochs = spec.method_options["steps"] * spec.training.prompts_per_step / 8051
        assert epochs == pytest.approx(2, abs=0.01)  # B3
        assert spec.training.sft_batch_size == spec.training.prompts_per_step
        if spec.method_options["second"] == "rl" and spec.method_options["first"] == "sft":
            assert spec.method_options["reference"] == "first"  # B4


def test_the_suite_on_two_cores_has_both_orders_and_formats(root: Path) -> None:
    plan = load_plan("coupling_cola", root=root)
    found = arms_module.arms(plan)
    assert {(arm.order, arm.whole.dataset) for arm in found} >= {
        (order, dataset)
        for order in ("SFT then RL", "RL then SFT", "SFT then SFT")
        for dataset in ("boxed", "bare")
    }
    assert {arm.whole.seed for arm in found} == {0, 1, 2}
    assert {arm.beta for arm in found if arm.order in ("SFT then RL", "RL then SFT")} == {0.1}
    (model,) = plan.made_models.values()
    assert isinstance(model, PackageModel) and model.warm_up is not None
    for config in plan.suite.datasets.values():
        assert config.options["warm_up_size"] == model.warm_up.options["warm_up_size"]


def test_matthews_is_that_of_a_correlation_matrix() -> None:
    rng = np.random.default_rng(0)
    gold, right = rng.random(200) < 0.7, rng.random(200) < 0.8
    said = np.where(right, gold, ~gold)
    expected = np.corrcoef(gold, said)[0, 1]
    assert matthews(gold.tolist(), right.tolist()) == pytest.approx(expected)
    assert matthews([True, False], [True, True]) == 1.0
    assert matthews([True, False], [False, False]) == -1.0
    # Always yes: right as often as yes is, and no correlation.
    assert matthews([True, True, False], [True, True, False]) is None


# -- from end to end -------------------------------------------------------------------------------


def make_base(folder: Path) -> None:
    """A tiny model that says one of the four answers to any sentence."""
    said = ["\\boxed{1}", "\\boxed{0}", "1", "0"]
    words = " ".join([*GOOD, *BAD, ACCEPTABLE, *said]).split()
    tokenizer = build_tokenizer(words, context_tokens=48)
    model = build_model(
        "qwen2", tokenizer=tokenizer, hidden=32, layers=1, heads=2, context_tokens=48, seed=0
    )

    def answers() -> Iterator[tuple[str, str]]:
        rng = random.Random(0)
        while True:
            yield rng.choice(ROWS)[0] + ACCEPTABLE, rng.choice(said)

    pretrain(
        model, tokenizer, [answers()], [], steps=60, habit_steps=0, batch_size=16,
        learning_rate=1e-2, seed=0,
    )  # fmt: skip
    save_base(model, tokenizer, folder)


@pytest.mark.usefixtures("no_workers")
def test_the_study_runs_on_a_made_up_file(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    data = install(ROWS, [("birds sing the .", "0")]) | {"validation_size": 16}
    make_base(tmp_path / "base")
    raw = yaml.safe_load(
        (root / "studies" / "coupling" / "suites" / "coupling_cola_gpu.yaml").read_text()
    )
    raw["models"]["qwen3-0.6b"] = {"source": "local", "path": str(tmp_path / "base")}
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text("made: {prompts: 16, samples: 8}\n")
    monkeypatch.setattr(arms_module, "SIZES", sizes)
    raw["training"] |= {"prompts_per_step": 6, "n": 4, "max_response_tokens": 4}
    raw["evaluation"]["max_response_tokens"] = 4
    raw["training"] |= {"sft_batch_size": 6, "engine": "native", "probe_every": 2, "probe_size": 16}
    raw["training"] |= {"lr_sft": 1e-3, "lr_rl": 1e-3}
    methods = ["sft", "rl_k1_0.1", "sft_rl_k1_0.1", "rl_sft_k1_0.1"]
    raw["methods"] = {name: raw["methods"][name] for name in methods}
    for method in raw["methods"].values():
        method["options"]["steps"] = 4
    raw["datasets"] = {name: raw["datasets"][name] for name in ("boxed", "bare")}
    for config in raw["datasets"].values():
        config.setdefault("options", {}).update(data)
    raw["grid"] = [raw["grid"][0] | {"datasets": [*raw["datasets"]], "methods": methods}]
    raw["grid"][0]["seeds"] = [0]
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "made.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "config.yaml").write_text("suite: made\n")
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    plan = load_plan("made", root=tmp_path)
    jobs = ["--suite", "made", "--results", str(results)]

    coupling.main(["check", *jobs])
    for second in (False, True):
        for spec in plan.runs:
            if (spec.method_options["second_steps"] == 0) != second:
                assert train_run(spec, results=results, threads=1) == "done"
        if not second:
            coupling.main(["predict", *jobs])
    coupling.main(["observe", *jobs, "--seed", "0"])
    coupling.main(["compare", *jobs])
    tables = results / "made" / "coupling"
    coupling.main(["draw", "--tables", str(tables), "--figures", str(tmp_path / "figures")])

    expert = pd.read_csv(tables / "expert.csv").set_index("dataset")
    assert expert["expert_reward"].to_dict() == {"boxed": 1.0, "bare": 0.0}
    assert (expert["base_lenient"] > expert["base_reward"]).all()  # bare answers pay leniently only
    changes = pd.read_csv(tables / "changes.csv")
    assert len(changes) == 4
    assert changes[["mcc_before", "mcc_after", "lenient_change"]].notna().all(axis=None)
    courses = pd.read_csv(tables / "courses.csv")
    assert courses["mcc"].notna().any()
    assert set(courses["step"]) == {0, 2, 4, 6, 8}
    dynamics = read_jsonl(plan.runs[0].folder(results).dynamics)
    assert {"heldout_mcc", "train_mcc", "heldout_lenient"} <= set(dynamics[0])
    assert len(list((tmp_path / "figures").glob("*.png"))) == 3
