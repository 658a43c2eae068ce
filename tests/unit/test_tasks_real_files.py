"""The families on the real files; skipped, and said so, where they are not."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bridge.tasks.base import ProblemError, check_disjoint, check_problems
from bridge.tasks.real.family import TWINS
from bridge.tasks.real.repairs import repaired
from bridge.tasks.real.sources import DataOptions, load_set, manifest
from bridge.tasks.registry import load_family
from tests.fixtures.real_data import data_root

pytestmark = pytest.mark.data

ROWS = {
    "math500": 500,
    "minerva_math": 272,
    "olympiadbench": 675,
    "olympiadbench_674": 674,
    "aime24": 30,
    "amc23": 40,
    "gsm8k_test": 1319,
    "gsm8k_train": 7473,
    "gpqa_diamond": 198,
    "limr": 1389,
    "math_lvl3to5_8k": 8521,
    "math_train": 7498,
    "math_test_rest": 4500,
    "math_traces_gptoss": 3496,
    "kk_train": 4500,
    "kk_test": 500,
    "mawps_asdiv_train": 2759,
    "svamp": 1000,
}


def raw_rows(name: str) -> list[dict[str, Any]]:
    path = Path(data_root()) / manifest()[name].file
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_counts_and_repairs(name: str) -> None:
    found = load_set(name, DataOptions(data_root=data_root()))
    assert len(found.items) == ROWS[name]
    assert len(found.items) + len(found.dropped) == manifest()[name].rows
    # The curators rewrote some golds by hand; the rules come to the same.
    cleaned = [r for r in raw_rows(name) if "answer_clean" in r.get("extra", {})]
    for row in cleaned:
        assert repaired(row["answer"])[0] == row["extra"]["answer_clean"], row["id"]


def test_what_the_rules_did() -> None:
    options = DataOptions(data_root=data_root())
    done = {name: dict(load_set(name, options).repaired) for name in ROWS}
    assert {name: rules for name, rules in done.items() if rules} == {
        "math500": {"thousands comma": 2},
        "minerva_math": {"e-notation": 58, "python fraction": 2, "numpy function": 1},
        "olympiadbench": {"outer dollars": 245, "stray end": 1, "corrupt": 1},
        "olympiadbench_674": {"outer dollars": 245, "stray end": 1, "corrupt": 1},
        "limr": {"stray end": 2},
        "math_lvl3to5_8k": {"thousands comma": 58, "stray end": 5},
        "math_train": {"thousands comma": 40, "stray end": 7},
        "math_test_rest": {"thousands comma": 38, "stray end": 1},
    }
    assert load_set("math_train", options).dropped == ("math/train/05341", "math/train/05343")


@pytest.mark.parametrize(
    ("family", "given", "train", "demonstrated"),
    [
        ("mathematics", {"train": "limr"}, 1387, {"math_traces_gptoss": 291, "human": 499}),
        ("gsm8k", {"demonstrations": ("human",)}, 6973, {"human": 6973}),
        (
            "knights_knaves",
            {"demonstrations": ("human",), "max_demonstration_tokens": 8000},
            4000,
            {"human": 4000},
        ),
    ],
)
def test_a_family_serves_disjoint_sets(
    family: str, given: dict[str, Any], train: int, demonstrated: dict[str, int]
) -> None:
    source: Any = load_family(family)
    both = {"demonstrations": ("math_traces_gptoss", "human")}
    options = source.Options(**{"data_root": data_root()} | both | given)
    dataset = source.dataset(options)
    coverage = dataset.coverage
    assert (len(dataset.train), len(dataset.validation)) == (train, 500)
    assert coverage.by_source == demonstrated
    assert coverage.demonstrated == len(dataset.demonstrations) == sum(demonstrated.values())
    assert coverage.wrong == 0
    sets = {"train": dataset.train, "validation": dataset.validation}
    sets |= {name: source.benchmark(name, options) for name in source.benchmark_names()}
    for name, problems in sets.items():
        check_problems(name, problems)
    for name in source.benchmark_names():
        check_disjoint("train", dataset.train, name, sets[name])
        check_disjoint("validation", dataset.validation, name, sets[name])
    check_disjoint("train", dataset.train, "validation", dataset.validation)


def test_identity_finds_the_same_pairs_as_the_ids() -> None:
    """The curators matched LIMR and the traces to MATH by hand-made ids; so does the text."""
    options = DataOptions(data_root=data_root())
    math = {
        i.id: i.identity
        for name in ("math_train", "math_test_rest")
        for i in load_set(name, options).items
    }
    for name in ("limr", "math_traces_gptoss"):
        of = {r["id"]: r["extra"]["math_id"] for r in raw_rows(name)}
        assert all(math[of[i.id]] == i.identity for i in load_set(name, options).items)


def test_known_copies_of_evaluation_questions_are_not_trained_on() -> None:
    options = DataOptions(data_root=data_root())
    held = Counter(
        name
        for name in ("limr", "math_lvl3to5_8k", "math_train", "math_test_rest")
        for item in load_set(name, options).items
        if item.identity in TWINS
    )
    assert held == {"limr": 2, "math_lvl3to5_8k": 9, "math_train": 7, "math_test_rest": 3}


def test_gpqa_keeps_each_right_option() -> None:
    rows = {r["id"]: r for r in raw_rows("gpqa_diamond")}
    for item in load_set("gpqa_diamond", DataOptions(data_root=data_root())).items:
        row = rows[item.id]
        assert option(item.problem, item.answer) == option(row["problem"], row["answer"])


def option(problem: str, letter: str) -> str:
    following = problem.rpartition(f"\n{letter}. ")[2]
    return following.partition(f"\n{chr(ord(letter) + 1)}. ")[0].strip()


def test_word_problems_are_drawn_apart() -> None:
    """What teaches the form of an answer is trained on by no run, and evaluated by none."""
    source: Any = load_family("word_problems")
    options = source.Options(data_root=data_root())
    runs = source.dataset(options)
    warm = source.dataset(options.model_copy(update={"part": "warm_up"}))
    assert (len(runs.train), len(runs.validation), len(warm.train)) == (2219, 100, 240)
    assert len(warm.demonstrations) == 240 and runs.coverage.wrong == 0
    assert warm.validation == runs.validation
    sets = [runs.train, warm.train, runs.validation]
    sets += [source.benchmark(name, options) for name in source.benchmark_names()]
    assert [len(s) for s in sets[3:]] == [200, 1000]
    for i, one in enumerate(sets):
        for other in sets[i + 1 :]:
            check_disjoint("one", one, "other", other)
    shown = next(p for p in runs.train if p.id == "mawps_asdiv/2")
    assert shown.demonstration == "41 + 57 = 98\n\\boxed{98}"


def test_no_problem_may_be_left_to_train_on() -> None:
    source: Any = load_family("word_problems")
    with pytest.raises(ProblemError, match="2759 of 2759 problems are held out"):
        source.dataset(source.Options(data_root=data_root(), held_out_size=2419))
