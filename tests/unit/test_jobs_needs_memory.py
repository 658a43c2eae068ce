"""Predicted memory against the tensors that real updates hold; benchmarks/ has larger models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.memory_prediction import (
    SIZES,
    Ledger,
    compare,
    make_spec,
    measured_gib,
    write_config,
)
from bridge.jobs.needs import memory, own, predict
from bridge.methods import divergences
from bridge.methods.mifo import MIFO
from bridge.step import scoring
from tests.fixtures.tiny_run import make_method

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


@pytest.mark.parametrize(
    ("form", "rl_weight", "training"),
    [
        ("sampled", 0.0, {}),
        ("reverse", 0.0, {}),
        ("js", 1.0, {}),
        ("reverse", 0.0, {"trainable": "lora", "micro_batch_rows": 1}),
    ],
)
def test_the_chunks_of_distillation_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    rl_weight: float,
    training: dict[str, Any],
) -> None:
    for module in (scoring, memory, own, divergences):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 2**20)
    folder = write_config(tmp_path / "model", "qwen2", **{**SIZES["0.1M"], "vocab_size": 20_000})
    options = {"steps": 2, "n": 2, "divergence": form, "rl_weight": rl_weight}
    found = compare("chunks", make_spec(folder, "opsd", options, **training))
    assert abs(found.error) < 0.08, found


def test_the_copies_of_mifo_too(tmp_path: Path) -> None:
    """Here the importance counts as well, which lies on the host: one copy while SFT updates."""
    folder = write_config(tmp_path / "model", "qwen2", **{**SIZES["0.1M"], "hidden_size": 256})
    spec = make_spec(
        folder,
        "mifo",
        {"steps": 3, "rho": 1.0},
        max_response_tokens=4,
        sft_batch_size=1,
        micro_batch_rows=1,
    )
    predicted = predict(spec).update_gib
    importance_gib = predicted["weights"]
    measured = measured_gib(spec)
    assert predicted["total"] + importance_gib == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("freeze_share", [0.25, 0.75])
def test_a_mask_of_mifo_is_made_on_the_host(freeze_share: float) -> None:
    n = 50_000
    method = make_method("mifo", freeze_share=freeze_share)
    assert isinstance(method, MIFO)
    base = [torch.nn.Parameter(torch.randn(n // 2)) for _ in range(2)]
    method._start = [torch.randn(n // 2) for _ in range(2)]
    method._importance = [torch.rand(n // 2) for _ in range(2)]
    with Ledger() as ledger:
        for tensor in (*base, *method._start, *method._importance):
            ledger.add(tensor)
        kept = ledger.now
        method._frozen(base)
    assert ledger.peak - kept == pytest.approx(own.mask_bytes(n, method), rel=0.02)


def test_the_chunked_output_layer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scoring, memory):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 2**20)
    folder = write_config(tmp_path / "model", "qwen2", **{**SIZES["0.1M"], "vocab_size": 20_000})
    training = {"precision": "bfloat16", "micro_batch_tokens": 1024}
    found = compare("chunks", make_spec(folder, "sft", {"steps": 2}, **training))
    assert abs(found.error) < LIMIT, found
    assert found.measured_gib < 1024 * 20_000 * 4 / 2**30, "all logits existed at once"
