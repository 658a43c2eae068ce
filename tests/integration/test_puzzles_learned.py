"""The suite `puzzles` at smoke size: a base is made, SFT and RL run, verdicts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.evaluation.runner import evaluate_run
from bridge.models.preparing import prepare_base
from bridge.plan.grid import RunSpec, load_plan
from bridge.run.loop import train_run
from bridge.store.records import base_folder, read_json
from tests.fixtures.workflow import ROOT

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "models": {
        name: {"hidden": 64, "skill_steps": 140, "habit_steps": 10}
        for name in ("points-qwen", "knights-qwen")
    },
    "datasets": {
        "points": {"options": {"questions_scale": 0.3}},
        "knights": {"options": {"questions_scale": 0.1, "train_size": 160}},
    },
    "training": {"prompts_per_step": 2, "n": 4, "probe_size": 16, "probe_every": 12},
    "evaluation": {"n_samples": 2, "sampled_questions": 2},
    "methods": {"cold_start": {"options": {"sft_steps": 24, "rl_steps": 2}}},
}


@pytest.mark.parametrize("dataset", ["points", "knights"])
def test_sft_learns_the_puzzle_and_the_answers_are_read(dataset: str, tmp_path: Path) -> None:
    plan = load_plan("puzzles", root=ROOT, overrides=SMALL)
    chosen = (dataset, "cold_start", 0)
    (spec,) = [r for r in plan.runs if (r.dataset, r.label, r.seed) == chosen]
    model = spec.model_config
    prepare_base(spec.model, model, base_folder(tmp_path, plan.name, spec.base_name), 1)  # type: ignore[arg-type]
    assert train_run(spec, results=tmp_path, threads=1) == "done"
    before, halfway, learned, *_ = _losses(spec, tmp_path)
    assert min(halfway, learned) < before
    evaluate_run(spec, results=tmp_path, threads=1)
    scores = read_json(spec.folder(tmp_path).scores)
    assert scores["status"] == "done", scores["reason"]
    said = [word for one in scores["benchmarks"].values() for word in one["verdicts"]]
    assert {"wrong"} <= set(said) <= {"correct", "wrong", "unparsed", "truncated"}


def _losses(spec: RunSpec, results: Path) -> list[float]:
    """Loss on held-out demonstrations at each probe."""
    lines = spec.folder(results).dynamics.read_text().splitlines()
    found = [json.loads(line).get("demo_loss_heldout") for line in lines]
    return [loss for loss in found if loss is not None]
