"""The suites with real models and data: what they ask for, and that each choice has a source."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.plan.grid import Plan, load_plan
from bridge.store.settings import HubModel
from bridge.tasks.registry import load_family

PAPER_ROWS = {
    *("base", "sft", "rl_zero", "cold_start", "alternating", "mixing", "bridge"),
    *("bridge_no_gain", "chord_mu", "chord_phi", "luffy"),
}
OWN_RATES = {
    **dict.fromkeys(("chord_mu", "chord_phi", "luffy", "dr_grpo", "dapo"), 1e-6),
    **dict.fromkeys(("hpt", "hpt_gate_2"), 5e-6),
}
SOURCED = re.compile(r"\[(paper|SimpleRL|author|ours)[^\]]*\]|arXiv")


@pytest.fixture(params=["paper", "single_gpu"])
def plan(request: pytest.FixtureRequest, root: Path) -> Plan:
    return load_plan(request.param, root=root)


def test_the_paper_s_grid(root: Path) -> None:
    plan = load_plan("paper", root=root)
    blocks = {(s.model, s.dataset) for s in plan.runs}
    assert blocks == {
        ("qwen2.5-3b", "limr"),
        ("llama-3.2-3b-instruct", "math8k"),
        ("qwen3-8b-base", "math8k"),
    }
    for block in blocks:
        rows = [(s.label, s.seed) for s in plan.runs if (s.model, s.dataset) == block]
        assert {label for label, _ in rows} >= PAPER_ROWS
        assert {seed for _, seed in rows} == {0, 1, 2}
    for spec in plan.runs:
        settings = spec.training
        assert (settings.prompts_per_step, settings.n, settings.max_response_tokens) == (
            64,
            5,
            3000,
        )
        # One rate for the paper's own rows; the others have that of their own papers.
        if spec.label in OWN_RATES:
            assert settings.lr_rl == OWN_RATES[spec.label] and settings.kl_coef == 0.0
        elif not spec.label.startswith("cold_start_lr_"):
            assert (settings.lr_sft, settings.lr_rl) == (5e-7, 5e-7)
        assert spec.evaluation.max_response_tokens == 5000


def test_each_training_setting_of_the_paper_names_its_source(root: Path) -> None:
    text = (root / "suites" / "paper.yaml").read_text(encoding="utf-8")
    block = text.partition("\ntraining:\n")[2].partition("\n\n")[0]
    # What follows changes speed and records, not the method; the reward's source is one line up.
    free = (
        *("reward_wrong", "engine", "kv_cache", "micro_batch", "probe", "checkpoint"),
        *("activation_checkpointing", "cpu_offload"),
    )
    lines = [line.strip() for line in block.splitlines() if not line.strip().startswith(free)]
    assert len(lines) >= 15
    assert [line for line in lines if not SOURCED.search(line)] == []


def test_models_are_pinned_and_recorded_options_are_read_back(plan: Plan) -> None:
    used = {spec.model for spec in plan.runs}
    for name, model in plan.suite.models.items():
        assert isinstance(model, HubModel) and name in used
    for spec in plan.runs:
        options = load_family(spec.family).Options.model_validate(spec.dataset_options)
        assert options.model_dump(mode="json") == spec.dataset_options


@pytest.mark.slow
def test_planning_loads_no_heavy_library(root: Path, plan: Plan) -> None:
    program = (
        "import sys, pathlib; from bridge.plan.grid import load_plan;"
        f"load_plan('{plan.name}', root=pathlib.Path('.'));"
        "print([m for m in ('torch', 'datasets', 'huggingface_hub', 'transformers', 'sympy')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_two_stage_baseline_is_sound(root: Path) -> None:
    """A literal row, and a tuned one with the grid that arXiv 2604.23747 asks for."""
    plan = load_plan("paper", root=root)
    rows = {s.label: s for s in plan.runs if s.dataset == "limr" and s.seed == 0}
    assert rows["cold_start"].method_options["sft_steps"] == 130  # six epochs of LIMR
    grid = {k: s.training for k, s in rows.items() if k.startswith("cold_start_lr_")}
    assert sorted(t.lr_sft for t in grid.values()) == [1e-6, 5e-6, 1e-5, 5e-5]
    for training in grid.values():
        assert training.sft_lr_scheduler_type == "cosine" and training.sft_lr_warmup_ratio == 0.1
        assert training.lr_scheduler_type == "constant"
