"""The script for a machine with a GPU: its tiny part on the CPU, and that the real part fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu_check
from bridge.jobs.needs import predict
from bridge.jobs.needs.devices import device
from bridge.models.checkpoint import load_policy
from bridge.store.records import read_json


def test_a_tiny_model_with_a_padded_vocabulary_makes_its_steps(tmp_path: Path) -> None:
    gpu_check.make_model(tmp_path / "tiny", gpu_check.TINY)
    policy = load_policy(tmp_path / "tiny")
    assert len(policy.tokenizer) < policy.model.config.vocab_size == 512
    asked = {"folder": str(tmp_path), "model": "tiny", "method": "rl_zero", "engine": "native"}
    gpu_check._train({**asked, "results": str(tmp_path / "results")})
    spec = gpu_check.make_spec(tmp_path, "tiny", "rl_zero", "native")
    record = read_json(spec.folder(tmp_path / "results").done)
    assert record["status"] == "done" and record["n_steps"] == 3
    assert record["tokens"]["trained"] > 0, "without a KL term equal rewards train nothing"


def test_the_ways_to_decode_are_compared(tmp_path: Path) -> None:
    gpu_check.make_model(tmp_path / "tiny", gpu_check.TINY)
    found = gpu_check.decoders(tmp_path / "tiny", n_tokens=4)
    assert found["differences"]["plain"] < 1e-5 and found["issue_us"] > 0
    assert {"plain_float32_ms", "transformers_bfloat16_ms"} <= found.keys()


@pytest.mark.parametrize("repo", gpu_check.REAL)
@pytest.mark.parametrize("method", gpu_check.METHODS)
def test_the_real_shapes_fit_the_cards_that_they_are_meant_for(
    tmp_path: Path, repo: str, method: str
) -> None:
    from transformers import Qwen2Config

    config = Qwen2Config(**gpu_check.shape(repo), max_position_embeddings=512)
    config.save_pretrained(tmp_path / "real")
    card = device("rtx-4090" if "0.5B" in repo else "h100-80gb")
    for engine in ("native", "vllm"):
        spec = gpu_check.make_spec(tmp_path, "real", method, engine)
        assert predict(spec, card).fits(card)
