"""A model whose weights are not read is the same model but for their values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bridge.models import checkpoint
from bridge.models.checkpoint import load_policy
from tests.fixtures.tiny_run import make_base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_all_but_the_weights_is_there(
    tmp_path: Path, architecture: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_base(tmp_path / "base", architecture=architecture, steps=20)
    read = load_policy(folder, dtype=dtype)
    monkeypatch.setattr(checkpoint, "_load_model", None)
    unread = load_policy(folder, dtype=dtype, with_weights=False)
    models = read.model, unread.model
    assert [m.training for m in models] == [False, False]
    facts = [{n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in models]
    assert list(facts[0].items()) == list(facts[1].items())
    buffers = [dict(m.named_buffers()) for m in models]
    assert buffers[0].keys() == buffers[1].keys() and buffers[0]
    for name, buffer in buffers[0].items():
        assert torch.equal(buffer, buffers[1][name]) and buffer.dtype == buffers[1][name].dtype
    held = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in unread.model.parameters()}
    assert sum(storage.nbytes() for storage in held.values()) <= 8
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in models]
    assert tied[0] == tied[1]
    assert read.end_token_ids == unread.end_token_ids
    assert models[0].config.to_dict() == models[1].config.to_dict()
