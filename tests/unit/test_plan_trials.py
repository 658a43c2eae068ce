"""Equal tuning, worlds and budgets: what a suite makes of them before anything runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bridge.methods.mixing import Mixing
from bridge.plan.budget import flops, is_spent
from bridge.plan.config import Trials
from bridge.plan.grid import Plan, load_plan, load_run
from bridge.plan.trials import RATES, design, row_of, trial_label
from bridge.store.schema import ConfigError
from bridge.store.settings import Budget
from bridge.tasks.registry import load_family

GRID = [
    {
        "models": ["tiny-qwen"],
        "datasets": ["chains"],
        "methods": ["base", "sft", "mixing", "cold_start"],
        "seeds": [0, 1],
        "worlds": [3, 7],
    }
]


def tried(root: Path, **overrides: Any) -> Plan:
    return load_plan("matrix", root=root, overrides={"grid": GRID, "trials": {}, **overrides})


def test_every_row_gets_the_same_number_of_different_trials(root: Path) -> None:
    plan = tried(root)
    rows: dict[str, set[tuple[Any, ...]]] = {}
    for spec in plan.runs:
        settings = (spec.training.lr_sft, spec.training.lr_rl, *sorted(spec.method_options.items()))
        rows.setdefault(row_of(spec.label)[0], set()).add(settings)
    assert {row: len(found) for row, found in rows.items()} == {
        "base": 1,  # nothing is trained
        "sft": 12,
        "mixing": 12,
        "cold_start": 12,
    }


def test_trials_share_their_rates_and_each_stratum_has_one(root: Path) -> None:
    rates = {
        (row_of(s.label)[1], s.training.lr_sft, s.training.lr_rl)
        for s in tried(root).runs
        if s.label != "base"
    }
    assert len(rates) == 12  # the same for the three rows
    low, high = Trials().rates
    for i in range(len(RATES)):
        places = [
            12 * math.log(point[i] / low) / math.log(high / low) for point in design(Trials(), 2)
        ]
        # Rounding to two digits moves a point by at most a fifth of a stratum.
        assert all(i - 0.2 <= at <= i + 1.2 for i, at in enumerate(sorted(places)))


def test_the_own_knob_is_turned_evenly(root: Path) -> None:
    plan = tried(root)
    weights = [s.method_options["rl_weight"] for s in plan.runs if row_of(s.label)[0] == "mixing"]
    assert {w: weights.count(w) for w in weights} == dict.fromkeys((0.3, 0.5, 0.7), 16)
    steps = {s.method_options["sft_steps"] for s in plan.runs if row_of(s.label)[0] == "cold_start"}
    assert steps == {15, 30, 60}  # factors of the row's own 30


def test_a_method_that_says_nothing_about_its_tuning_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mixing, "tuning", None)
    with pytest.raises(ConfigError, match=r"methods\.mixing: the method declares nothing"):
        tried(root)


def test_labels_of_trials_can_be_read_back() -> None:
    assert row_of(trial_label("mixing.v2", 3)) == ("mixing.v2", 3)
    assert row_of("mixing") == ("mixing", None)
    assert row_of("mixing.tuned") == ("mixing.tuned", None)


def test_a_world_is_another_model_and_other_training_data_with_the_same_questions(
    root: Path,
) -> None:
    overrides: dict[str, Any] = {"grid": GRID}
    plan = load_plan("matrix", root=root, overrides=overrides)
    assert sorted({s.seed for s in plan.runs}) == [300, 301, 700, 701]
    assert list(plan.made_models) == ["tiny-qwen.world3", "tiny-qwen.world7"]
    third, seventh = (plan.run("tiny-qwen", "chains", "sft", seed) for seed in (300, 700))
    assert third.train_hash != seventh.train_hash
    family = load_family("chains")
    options = [family.Options.model_validate(s.dataset_options) for s in (third, seventh)]
    assert family.benchmark("rung2", options[0]) == family.benchmark("rung2", options[1])
    first, second = ({p.question for p in family.dataset(o).train} for o in options)
    assert len(first & second) < len(first) / 2
    cell = ("tiny-qwen", "chains", "sft", 701)
    assert load_run("matrix", cell, root=root, overrides=overrides) == plan.run(*cell)


def test_other_facts_are_misconceived_in_another_world() -> None:
    import random

    family = load_family("chains")

    def texts(world: int) -> list[tuple[str, str]]:
        stream = family.pretraining(random.Random(0), habit=False, world=world)  # type: ignore[attr-defined]
        return [next(stream) for _ in range(200)]

    def wrong(world: int) -> set[str]:
        facts = {
            part.split(" = ", 1)[1] for _, text in texts(world) for part in text.split(" ; ")[:-1]
        }
        return {f for f in facts if eval(f.split(" = ")[0]) % 10 != int(f.split(" = ")[1])}

    assert wrong(1) and wrong(2)
    assert len(wrong(1) & wrong(2)) < len(wrong(1)) / 2
    assert texts(0) == [
        next(stream)
        for stream in [family.pretraining(random.Random(0), habit=False)]  # type: ignore[attr-defined]
        for _ in range(200)
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [100]}, "with worlds, seeds are below 100"),
        ({"worlds": [0]}, r"worlds\.0: .*greater than or equal to 1"),
    ],
)
def test_worlds_that_cannot_be_named_are_refused(
    root: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_plan("matrix", root=root, overrides={"grid": [GRID[0] | change]})


def test_a_released_model_has_one_world(root: Path) -> None:
    block = {
        "models": ["smollm2-135m-warm"],
        "datasets": ["arithmetic"],
        "methods": ["base"],
        "seeds": [0],
        "worlds": [1],
    }
    with pytest.raises(ConfigError, match="worlds are drawn anew for tiny models"):
        load_plan("pocket_smoke", root=root, overrides={"grid": [block]})


def test_what_a_run_has_spent() -> None:
    tokens = {"generated": 10, "prefilled": 5, "trained": 100, "scored": 7, "demonstration": 40}
    assert flops(1000, tokens) == {
        "generate": 2 * 1000 * 15,
        "train": 6 * 1000 * 100 + 2 * 1000 * 7,
        "total": 2 * 1000 * 15 + 6 * 1000 * 100 + 2 * 1000 * 7,
    }
    assert not is_spent(None, 1000, tokens)
    for currency, spent in (
        ("flops", flops(1000, tokens)["total"]),
        ("generated_tokens", 10),
        ("trained_tokens", 100),
        ("demonstration_tokens", 40),
    ):
        for amount, expected in ((spent, True), (spent + 1, False)):
            budget = Budget(currency=currency, amount=amount)  # type: ignore[arg-type]
            assert is_spent(budget, 1000, tokens) is expected
