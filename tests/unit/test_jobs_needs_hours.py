"""Predictions of hours: what a part depends on, and published runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.jobs.needs import predict
from bridge.jobs.needs.decoding import Decoder
from bridge.jobs.needs.devices import device
from bridge.jobs.needs.shapes import shape_of
from bridge.plan.grid import Plan, RunSpec, load_plan
from bridge.store.settings import HubModel, ShardingConfig

Hours = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def paper(root: Path) -> Plan:
    return load_plan("paper", root=root)


@pytest.fixture(scope="module")
def hours(paper: Plan) -> Hours:
    """Of a row of the paper's suite on an A100, with some of its training settings changed."""

    def of(label: str, **training: Any) -> dict[str, float]:
        spec = next(s for s in paper.runs if (s.model, s.label) == ("qwen2.5-3b", label))
        changed = replace(spec, training=spec.training.model_copy(update=training))
        found = predict(changed, device("a100-80gb")).hours
        assert found is not None
        return found

    return of


ONE_RANK = ShardingConfig(stage="zero3", ranks=1)
"""Its engine gathers weights layer by layer, so nothing is recorded."""


def decoder(room_gib: float | None) -> Decoder:
    model = HubModel(source="hub", repo="Qwen/Qwen2.5-3B", revision="0" * 40)
    return Decoder(shape_of(model, "here"), device("a100-80gb"), 2, room_gib)


def test_a_batch_waits_for_its_longest_row() -> None:
    lengths = {"prompt": 100.0, "mean": 900.0, "longest": 3000}
    one, few, many = (decoder(40.0).draw_s(n, **lengths) for n in (1, 80, 160))
    # A single row ends after its mean; in a batch some row is always there to the limit.
    assert few > 2 * one
    assert many < 1.5 * few
    longest_alone = 3000 * decoder(40.0)._step_s(1, 1600.0)
    assert few > longest_alone


def test_rows_that_do_not_fit_the_cache_wait_for_others_to_end() -> None:
    lengths = {"prompt": 100.0, "mean": 900.0, "longest": 3000}
    assert decoder(1.0).draw_s(160, **lengths) > 2 * decoder(16.0).draw_s(160, **lengths)
    twice = decoder(16.0).draw_s(2, batch=1, **lengths)
    assert twice == pytest.approx(2 * decoder(16.0).draw_s(1, **lengths))


def test_devices_share_the_rows_and_not_the_wait(hours: Hours) -> None:
    alone = hours("rl_zero", cpu_offload=False)
    four = ShardingConfig(stage="zero3", ranks=4)
    shared = hours("rl_zero", cpu_offload=False, sharding=four)
    assert shared["update"] == pytest.approx(alone["update"] / 4)
    assert shared["rollout"] > 0.6 * alone["rollout"]
    assert shared["move"] > 0


@pytest.mark.parametrize(
    ("label", "part", "dear", "cheap"),
    [
        ("bridge", "move", {"cpu_offload": True}, {"cpu_offload": False}),
        ("rl_zero", "move", {"cpu_offload": True}, {"cpu_offload": True, "kl_coef": 0.0}),
        ("rl_zero", "checkpoint", {"checkpoint_every": 10}, {"checkpoint_every": 20}),
        ("rl_zero", "rollout", {"engine": "native", "sharding": ONE_RANK}, {"engine": "native"}),
        ("rl_zero", "grade", {"n": 8}, {"n": 4}),
        ("rl_zero", "start", {"engine": "vllm"}, {"engine": "native"}),
        ("rl_zero", "score", {"ppo_mini_batch_size": 16}, {"ppo_mini_batch_size": 64}),
    ],
)
def test_a_part_follows_its_setting(
    hours: Hours, label: str, part: str, dear: dict[str, Any], cheap: dict[str, Any]
) -> None:
    assert hours(label, **dear)[part] > 1.1 * hours(label, **cheap)[part]


def test_the_optimiser_on_the_host_is_one_thread(hours: Hours) -> None:
    base = {"cpu_offload": False}
    on_host = ShardingConfig(stage="zero2", ranks=1, offload_optimizer=True)
    slow = hours("sft", sharding=on_host, **base)["move"]
    assert slow > 10 * hours("sft", **base)["move"]
    # 130 steps of 3.09e9 weights at 1 ns.
    assert slow == pytest.approx(130 * 3.086 / 3600, rel=0.1)


def test_published_runs_are_near_or_explained(root: Path, paper: Plan) -> None:
    sys.path.insert(0, str(root))
    from benchmarks import hours_anchors

    like: RunSpec = paper.runs[0]
    for anchor in hours_anchors.ANCHORS:
        ratio = hours_anchors.predicted(anchor, like)["total"] / anchor.published_h
        near = 1 / hours_anchors.NEAR < ratio < hours_anchors.NEAR
        assert near or anchor.why, (anchor.name, ratio)
    page = (root / hours_anchors.PAGE).read_text(encoding="utf-8")
    assert hours_anchors.page_with(hours_anchors.table(like), page) == page
