"""What a run asks of a cluster: constants for tiny models, else its prediction with a margin."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

from bridge.jobs.needs import predict
from bridge.jobs.needs.devices import device
from bridge.jobs.needs.requests import (
    LOADING_MINUTES,
    LONGEST_MINUTES,
    MARGIN,
    PLANNED_FOR,
    TINY,
    UNKNOWN,
    request_of,
)
from bridge.plan.grid import RunSpec, load_plan
from bridge.store.settings import HubModel


def spec_of(root: Path, suite: str, model: str, method: str) -> RunSpec:
    runs = load_plan(suite, root=root).runs
    return next(s for s in runs if (s.model, s.label, s.seed) == (model, method, 0))


def test_a_tiny_run_asks_for_little(root: Path) -> None:
    assert request_of(spec_of(root, "smoke", "tiny-qwen", "bridge")) == TINY


def test_a_real_run_asks_for_its_prediction_and_a_margin(root: Path) -> None:
    spec = spec_of(root, "single_gpu", "qwen2.5-0.5b", "bridge")
    asked, told = request_of(spec), predict(spec, device(PLANNED_FOR))
    assert told.hours is not None
    evaluation = told.hours["evaluate"]
    assert asked.memory_mb == ceil(MARGIN * 1024 * told.host_gib)
    minutes = [MARGIN * 60 * hours for hours in (told.hours["total"] - evaluation, evaluation)]
    assert [asked.training_minutes, asked.evaluation_minutes] == [
        LOADING_MINUTES + ceil(m) for m in minutes
    ]
    assert request_of(spec, "h200").training_minutes < asked.training_minutes
    shorter = request_of(spec_of(root, "single_gpu", "qwen2.5-0.5b", "sft"))
    assert shorter.training_minutes < asked.training_minutes


def test_no_run_asks_for_more_than_a_day(root: Path) -> None:
    spec = spec_of(root, "paper", "qwen3-8b-base", "bridge")
    assert request_of(spec).training_minutes == LONGEST_MINUTES


def test_an_unknown_shape_is_no_obstacle(root: Path) -> None:
    spec = spec_of(root, "single_gpu", "qwen2.5-0.5b", "sft")
    model = HubModel(source="hub", repo="some/model", revision="0" * 40)
    assert request_of(replace(spec, model_config=model)) == UNKNOWN
