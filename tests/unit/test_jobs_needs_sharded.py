"""What one of several ranks needs, by the same names as one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.jobs.needs import Prediction, predict
from bridge.jobs.needs.devices import device
from bridge.plan.grid import RunSpec, load_plan
from bridge.store.settings import ShardingConfig


@pytest.fixture(scope="module")
def spec(root: Path) -> RunSpec:
    plan = load_plan("paper", root=root)
    found = next(s for s in plan.runs if (s.model, s.label) == ("qwen3-8b-base", "bridge"))
    changes = {"engine": "native", "cpu_offload": False, "precision": "bfloat16"}
    return replace(found, training=found.training.model_copy(update=changes))


def predicted(spec: RunSpec, **sharding: Any) -> Prediction:
    chosen = ShardingConfig(**sharding)
    training = spec.training.model_copy(update={"sharding": chosen})
    return predict(replace(spec, training=training))


def test_what_is_spread_is_divided(spec: RunSpec) -> None:
    alone, four = predicted(spec), predicted(spec, stage="zero3", ranks=4)
    for name in ("optimizer", "shadow", "reference"):
        assert four.update_gib[name] == pytest.approx(alone.update_gib[name] / 4)
    assert four.update_gib["weights"] == pytest.approx(alone.update_gib["weights"] / 4)
    # Answers are drawn from the whole model, a quarter of them on each rank.
    assert four.rollout_gib["weights"] == pytest.approx(alone.rollout_gib["weights"])
    assert four.rollout_gib["logits"] == pytest.approx(alone.rollout_gib["logits"] / 4)
    assert four.update_gib["activations"] == alone.update_gib["activations"]


def test_each_step_of_spreading_saves_memory_of_the_device(spec: RunSpec) -> None:
    totals = [
        predicted(spec, **sharding).update_gib["total"]
        for sharding in (
            {},
            {"stage": "zero2", "ranks": 4},
            {"stage": "zero3", "ranks": 4},
            {"stage": "zero3", "ranks": 8},
            {"stage": "zero3", "ranks": 8, "offload_optimizer": True},
        )
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


def test_what_leaves_the_device_is_in_the_host(spec: RunSpec) -> None:
    here, away = (
        predicted(spec, stage="zero3", ranks=4, offload_optimizer=offload)
        for offload in (False, True)
    )
    assert {"optimizer", "master", "shadow"} <= here.update_gib.keys() - away.update_gib.keys()
    assert away.host_gib > here.host_gib


@pytest.mark.parametrize("engine", ["native", "vllm"])
@pytest.mark.parametrize(("ranks", "offload"), [(4, True), (8, False)])
def test_every_row_of_8b_fits_several_cards_of_80_gib(
    root: Path, ranks: int, offload: bool, engine: str
) -> None:
    card = device("h100-80gb")
    rows = {s.label: s for s in load_plan("paper", root=root).runs if s.model == "qwen3-8b-base"}
    assert len(rows) == 21
    chosen = {
        "engine": engine,
        "cpu_offload": offload,
        "sharding": ShardingConfig(stage="zero3", ranks=ranks),
    }
    for label, spec in rows.items():
        found = predict(replace(spec, training=spec.training.model_copy(update=chosen)), card)
        assert found.fits(card), (label, found.memory_gib)
        assert found.host_gib < 256, label


def test_the_host_holds_the_model_once_while_it_is_loaded_and_no_checkpoint(spec: RunSpec) -> None:
    weights = 8.190735360e9 * 2 / 2**30  # as stored
    four, eight = (predicted(spec, stage="zero3", ranks=ranks) for ranks in (4, 8))
    assert four.host_gib == pytest.approx(4 * 4 + weights)
    assert eight.host_gib == pytest.approx(8 * 4 + weights)
    assert eight.host_gib < 256 < eight.disk_gib


def test_each_rank_has_a_vllm_of_its_own_beside_its_shard(spec: RunSpec) -> None:
    with_engine = replace(spec, training=spec.training.model_copy(update={"engine": "vllm"}))
    alone, four = predicted(with_engine), predicted(with_engine, stage="zero3", ranks=4)
    for name in ("engine", "kv_cache"):
        assert four.rollout_gib[name] == alone.rollout_gib[name]
    assert four.rollout_gib["weights"] == pytest.approx(alone.rollout_gib["weights"] / 4)
    assert "engine" not in four.update_gib


def test_rows_beyond_the_cache_wait_for_the_next_wave(spec: RunSpec) -> None:
    less = replace(spec, training=spec.training.model_copy(update={"kv_cache_gib": 5.0}))
    found = [predicted(s, stage="zero3", ranks=4).rollout_gib["kv_cache"] for s in (spec, less)]
    assert found == [16.0, 5.0]
