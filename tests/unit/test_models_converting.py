"""A GGUF file becomes a checkpoint that computes what the file's model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bridge.models import CheckpointError
from bridge.models.checkpoint import load_policy
from bridge.models.converting import convert, tensors_hash, unpermuted
from bridge.models.gguf import read_gguf
from tests.fixtures import gguf as made


def permuted(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter orders the rows of queries and keys."""
    rows, columns = values.shape
    return (
        values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def test_the_order_of_queries_and_keys_is_undone() -> None:
    values = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    for heads in (1, 3):
        assert (unpermuted(permuted(values, heads), heads) == values).all()
        assert not (permuted(values, heads) == values).all()


def test_a_checkpoint_is_written_that_the_project_loads(tmp_path: Path) -> None:
    path = made.write_gguf(tmp_path / "m.gguf")
    facts = convert(path, tmp_path / "out")
    policy = load_policy(tmp_path / "out")
    stored = dict(read_gguf(path).tensors())
    own = policy.model.state_dict()
    for name, heads in (("q", made.HEADS), ("k", made.KV_HEADS)):
        found = own[f"model.layers.1.self_attn.{name}_proj.weight"].numpy()
        assert (permuted(found, heads) == stored[f"blk.1.attn_{name}.weight"]).all()
    assert (
        own["model.layers.0.mlp.down_proj.weight"].numpy() == stored["blk.0.ffn_down.weight"]
    ).all()
    assert policy.model.config.rms_norm_eps == 1e-5
    assert policy.n_parameters == facts["n_parameters"]
    assert facts["tensors_sha256"] == tensors_hash(
        load_file(tmp_path / "out" / "model.safetensors")
    )
    assert "apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    assert policy.prompt("1 + 1?") == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert policy.end_token_ids == (2,)


def test_each_digit_is_a_token(tmp_path: Path) -> None:
    """Also where the vocabulary has a token for two of them."""
    convert(made.write_gguf(tmp_path / "m.gguf"), tmp_path / "out")
    tokenizer = load_policy(tmp_path / "out").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == [
        "a",
        "Ġ",
        "Ġ",
        "1",
        "2",
    ]


def test_names_and_values_decide_the_hash_of_tensors() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    assert tensors_hash(one) == tensors_hash(dict(reversed(one.items())))
    for other in ({**one, "b": torch.zeros(2)}, {"a": torch.zeros(3, 2), "b": torch.ones(2)}):
        assert tensors_hash(other) != tensors_hash(one)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"general.architecture": "qwen2"},
            "general.architecture is 'qwen2', and only 'llama' can",
        ),
        (
            {"tokenizer.ggml.pre": "llama-bpe"},
            "tokenizer.ggml.pre is 'llama-bpe', and only 'smollm'",
        ),
        ({"llama.block_count": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
        ({"llama.attention.head_count_kv": 4}, r"k_proj.weight is missing.*\(torch.Size"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = made.write_gguf(tmp_path / "m.gguf", made.metadata() | change)
    with pytest.raises(CheckpointError, match=said):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path) -> None:
    fields = made.metadata()
    fields["tokenizer.ggml.tokens"] = [
        "absent" if token == "Ã" else token for token in fields["tokenizer.ggml.tokens"]
    ]
    path = made.write_gguf(tmp_path / "m.gguf", fields)
    with pytest.raises(CheckpointError, match=r"the tokenizer makes 'na.*; fetch the file again"):
        convert(path, tmp_path / "out")


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": (np.ones(32, np.float32), made.F32)}
    path = made.write_gguf(tmp_path / "m.gguf", tensors=made.weights() | extra)
    with pytest.raises(CheckpointError, match=r"no llama model has a tensor rope_freqs.weight"):
        convert(path, tmp_path / "out")
