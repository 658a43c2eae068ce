"""Predictions of memory and hours: numbers of weights, the direction of each setting, refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from bridge.jobs.needs import Prediction, load_devices, predict
from bridge.jobs.needs.devices import device
from bridge.jobs.needs.memory import CHECKPOINT_FILE_GIB, LOGITS_AT_ONCE
from bridge.jobs.needs.shapes import shape_of
from bridge.models import resuming
from bridge.plan.grid import RunSpec, load_plan
from bridge.step import scoring
from bridge.store.schema import ConfigError
from bridge.store.settings import HubModel, LocalModel, TinyModel

WEIGHTS = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
}
"""As the hub counts them in each repository's safetensors files; tied weights once."""
Find = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def run(root: Path) -> Find:
    plan = load_plan("paper", root=root)

    def find(label: str, model: str = "qwen2.5-3b", **training: Any) -> RunSpec:
        spec = next(s for s in plan.runs if (s.model, s.label) == (model, label))
        return replace(spec, training=spec.training.model_copy(update=training))

    return find


def hub(repo: str) -> HubModel:
    return HubModel(source="hub", repo=repo, revision="0" * 40)


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo", list(WEIGHTS))
def test_the_table_of_shapes_gives_the_published_numbers_of_weights(repo: str) -> None:
    assert shape_of(hub(repo), "here").parameters == WEIGHTS[repo]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_weights_are_those_of_the_real_architecture(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    config = AutoConfig.for_model(
        architecture,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=77,
        tie_word_embeddings=tied,
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(LocalModel(source="local", path=str(tmp_path)), "here")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    added = [p for n, p in get_peft_model(model, lora).named_parameters() if "lora_" in n]
    assert shape.lora_parameters(3) == sum(p.numel() for p in added)


def test_a_tiny_model_has_the_vocabulary_of_its_families(root: Path) -> None:
    from bridge.models.tiny import build_model, build_tokenizer
    from bridge.tasks.registry import load_family

    plan = load_plan("matrix", root=root)
    for model in plan.made_models.values():
        assert isinstance(model, TinyModel)
        words = [w for name in model.families for w in load_family(name).vocabulary()]  # type: ignore[attr-defined]
        tokenizer = build_tokenizer(words, context_tokens=model.context_tokens)
        made = build_model(
            model.architecture,
            tokenizer=tokenizer,
            hidden=model.hidden,
            layers=model.layers,
            heads=model.heads,
            context_tokens=model.context_tokens,
            seed=0,
        )
        assert shape_of(model, "here").parameters == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (hub("Qwen/Qwen9-1T"), "models.m: the shape of Qwen/Qwen9-1T is not known; add it to"),
        (LocalModel(source="local", path="nowhere"), "models.m: nowhere/config.json is missing"),
    ],
)
def test_an_unknown_shape_is_one_sentence(made: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shape_of(made, "models.m")
    assert str(caught.value).startswith(said)


# -- memory ----------------------------------------------------------------------------------------


def test_the_state_of_a_run_is_counted_per_weight(run: Find) -> None:
    """Master 4, moments 8, gradient 4, compute copy and reference 2 each; a shadow 12 more."""
    n = WEIGHTS["Qwen/Qwen2.5-3B"] / 2**30
    low = {"precision": "bfloat16", "kl_coef": 0.001, "cpu_offload": False}
    parts = predict(run("rl_zero", **low)).update_gib
    per_weight = {name: parts[name] / n for name in ("master", "optimizer", "gradients")}
    assert per_weight == pytest.approx({"master": 4, "optimizer": 8, "gradients": 4})
    assert parts["weights"] / n == parts["reference"] / n == pytest.approx(2)
    assert predict(run("alternating", **low)).update_gib["optimizer"] / n == pytest.approx(16)
    assert predict(run("bridge", **low)).update_gib["shadow"] / n == pytest.approx(12)
    assert "shadow" not in predict(run("bridge_no_gain", **low)).update_gib


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"micro_batch_tokens": 4096}, "activations"),
        ({"activation_checkpointing": True}, "activations"),
        ({"precision": "bfloat16"}, "weights"),
        ({"cpu_offload": True}, "shadow"),
        ({"kv_cache_gib": 8.0}, "kv_cache"),
    ],
)
def test_a_setting_that_saves_memory_lowers_its_part(
    run: Find, setting: dict[str, Any], part: str
) -> None:
    plain: dict[str, Any] = {
        "micro_batch_rows": 8,
        "micro_batch_tokens": None,
        "activation_checkpointing": False,
        "precision": "float32",
        "cpu_offload": False,
        "kv_cache_gib": 24.0,
    }

    def parts(**chosen: Any) -> tuple[dict[str, float], Prediction]:
        found = predict(run("bridge", **{**plain, **chosen}))
        return {**found.rollout_gib, **found.update_gib}, found

    (before, dear), (after, cheap) = parts(), parts(**setting)
    assert after.get(part, 0.0) < before[part]
    if part == "shadow":
        assert cheap.host_gib > dear.host_gib + before["shadow"]


def test_the_logits_at_once_are_those_of_the_trainer() -> None:
    assert LOGITS_AT_ONCE == scoring.LOGITS_AT_ONCE


def test_the_files_of_a_checkpoint_are_those_that_are_written() -> None:
    assert CHECKPOINT_FILE_GIB * 2**30 == resuming.FILE_BYTES


def test_moments_wait_on_the_host_and_come_when_nothing_is_kept_for_a_backward_pass(
    run: Find,
) -> None:
    n = WEIGHTS["Qwen/Qwen2.5-3B"] / 2**30
    here, away = (predict(run("alternating", cpu_offload=offload)) for offload in (False, True))
    assert here.rollout_gib["optimizer"] / n == pytest.approx(16)
    assert "optimizer" not in away.rollout_gib
    # Those of one weight at a time come for the step, which then needs less than the pass before.
    assert "optimizer" not in away.update_gib and away.update_gib["activations"] > 0
    short = {"max_response_tokens": 16, "micro_batch_tokens": 1}
    brief = predict(run("rl_zero", cpu_offload=True, **short))
    assert brief.update_gib["optimizer"] * 2**30 == pytest.approx(8 * 151_936 * 2048)
    assert "activations" not in brief.update_gib
    assert (away.host_gib - here.host_gib) / n == pytest.approx(16 + 2)  # and the reference


def test_factors_leave_the_frozen_weights_without_gradient_and_moments(run: Find) -> None:
    lora = {"trainable": "lora", "lora_rank": 8, "lora_alpha": 8}
    shape = shape_of(run("bridge").model_config, "here")
    factors = shape.lora_parameters(8) / 2**30
    for offload, frozen in ((False, 2 * shape.linear_parameters / 2**30), (True, 0.0)):
        found = predict(run("bridge", cpu_offload=offload, **lora))
        parts = found.update_gib
        assert parts["master"] == pytest.approx(4 * factors + frozen)
        adapter = 4 * shape.lora_parameters(16) / 2**30
        assert parts["gradients"] == pytest.approx(2 * 4 * factors + adapter)
        assert parts["shadow"] == pytest.approx((4 if offload else 12) * factors)
        if not offload:
            assert parts["optimizer"] == pytest.approx(8 * factors)
    eight = predict(run("bridge", cpu_offload=False, optimizer="adamw_8bit", **lora))
    assert eight.update_gib["optimizer"] == pytest.approx(2 * (1 + 4 / 256) * factors)
    full = predict(run("bridge"), device("rtx-4090")).hours
    less = predict(run("bridge", **lora), device("rtx-4090")).hours
    assert full is not None and less is not None and less["move"] < full["move"]


def test_every_3b_row_fits_a_card_of_80_gib(root: Path) -> None:
    card = device("h100-80gb")
    rows = {(s.model, s.label): s for s in load_plan("paper", root=root).runs}
    small = {key: spec for key, spec in rows.items() if key[0] != "qwen3-8b-base"}
    assert len(small) == 42
    for key, spec in small.items():
        found = predict(spec, card)
        assert found.fits(card) and found.host_gib < 128, key


# -- devices and hours -----------------------------------------------------------------------------


def test_a_larger_device_fits_more_and_is_not_slower(run: Find) -> None:
    spec = run("rl_zero")
    large, small = device("h200"), device("rtx-4090")
    on_large, on_small = predict(spec, large), predict(spec, small)
    assert on_large.fits(large) or not on_small.fits(small)
    assert on_large.hours and on_small.hours
    assert 0 < on_large.hours["total"] < on_small.hours["total"]
    parts = [v for k, v in on_large.hours.items() if k != "total"]
    assert sum(parts) == pytest.approx(on_large.hours["total"])


def test_more_passes_take_longer(run: Find) -> None:
    h100 = device("h100-80gb")
    hours = {}
    for label in ("sft", "rl_zero", "mixing", "bridge"):
        found = predict(run(label), h100).hours
        assert found is not None
        hours[label] = found["update"]
    assert hours["sft"] < hours["rl_zero"] < hours["mixing"] < hours["bridge"]


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown device 'a100-80'; did you mean 'a100-80gb'"):
        device("a100-80")


def test_every_device_names_its_source() -> None:
    assert all(d.source and d.bandwidth_gbs > 100 for d in load_devices().values())


@pytest.mark.slow
def test_predicting_needs_no_torch(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bridge.plan.grid import load_plan\n"
        "from bridge.jobs.needs import load_devices, predict\n"
        "for suite in ('paper', 'single_gpu', 'matrix'):\n"
        "    for s in load_plan(suite, root=Path()).runs: predict(s, load_devices()['h200'])\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
