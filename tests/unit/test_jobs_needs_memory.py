"""Predicted memory against the tensors that real updates hold; benchmarks/ has larger models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_prediction import SIZES, compare, make_spec, write_config
from bridge.jobs.needs import memory
from bridge.step import scoring

SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("qwen2", "sft", {}),
    "reference": ("llama", "rl_zero", {"kl_coef": 0.01}),
    "bfloat16": ("qwen3", "mixing", {"precision": "bfloat16", "micro_batch_tokens": 1024}),
    "bridge": ("qwen2", "bridge", {"precision": "bfloat16", "activation_checkpointing": True}),
    "factors": ("llama", "sft", {"trainable": "lora"}),
    "bridge on factors": ("qwen3", "bridge", {"trainable": "lora", "precision": "bfloat16"}),
}
LIMIT = 0.15


@pytest.mark.parametrize("name", list(SETTINGS))
def test_predictions_are_near_what_is_measured(tmp_path: Path, name: str) -> None:
    architecture, method, training = SETTINGS[name]
    folder = write_config(tmp_path / "model", architecture, **SIZES["0.1M"])
    found = compare(name, make_spec(folder, method, {"steps": 2}, **training))
    assert abs(found.error) < LIMIT, found


def test_moments_of_8_bits_too(tmp_path: Path) -> None:
    """More weights than tokens, so that moments count."""
    pytest.importorskip("bitsandbytes")
    sizes = {**SIZES["0.1M"], "hidden_size": 256}
    folder = write_config(tmp_path / "model", "qwen2", **sizes)
    small = {"max_response_tokens": 16, "micro_batch_tokens": 64}
    plain, eight = (
        compare(kind, make_spec(folder, "bridge", {"steps": 2}, optimizer=kind, **small))
        for kind in ("adamw", "adamw_8bit")
    )
    assert abs(plain.error) < LIMIT and abs(eight.error) < LIMIT, (plain, eight)
    assert eight.measured_gib < 0.75 * plain.measured_gib


def test_the_chunked_output_layer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scoring, memory):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 2**20)
    folder = write_config(tmp_path / "model", "qwen2", **{**SIZES["0.1M"], "vocab_size": 20_000})
    training = {"precision": "bfloat16", "micro_batch_tokens": 1024}
    found = compare("chunks", make_spec(folder, "sft", {"steps": 2}, **training))
    assert abs(found.error) < LIMIT, found
    assert found.measured_gib < 1024 * 20_000 * 4 / 2**30, "all logits existed at once"
