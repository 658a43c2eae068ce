"""A llama model in a GGUF file as an ordinary Hugging Face checkpoint, for training.

transformers loads such files but refuses to save what it loaded, and builds a tokenizer that does
not split digits. Here the weights are decoded to float32 (:mod:`bridge.models.gguf`), the order of
llama.cpp's query and key rows is undone, and the tokenizer is built with its digit splitting. The
chat template is ChatML without a system turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bridge.models import CheckpointError
from bridge.models.gguf import Array, Gguf, read_gguf
from bridge.store.records import CARD, file_hash

CHATML: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's template without the system turn of about 20 tokens that it adds by itself."""

_OUTSIDE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_CONTROL: Final = 3
"""Type of a token that is no text, as ``<|im_end|>``."""
_ROUND_TRIPS: Final = ("Tom had  12 apples.\n\n3 + 45 = 48\t(don't)", "naïve café, 7 × 8 ≠ 54 ☕")


def convert(path: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file as a checkpoint in float32, and its model card.

    Returns:
        ``gguf_sha256``, ``tensors_sha256`` (see :func:`tensors_hash`) and ``n_parameters``.

    Raises:
        CheckpointError: another architecture, tokenizer or quantisation, or a damaged file.
    """
    source = read_gguf(path)
    _check_kind(source)
    config = _config(source.metadata)
    tensors = _tensors(source, config)
    tokenizer = build_tokenizer(source.metadata, path)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(do_sample=False, **ends).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    licence = source.metadata.get("general.license")
    if licence is not None:
        (folder / CARD).write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")
    return {
        "gguf_sha256": file_hash(path),
        "tensors_sha256": tensors_hash(tensors),
        "n_parameters": sum(t.numel() for t in tensors.values()),
    }


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, whatever file they lie in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {list(tensors[name].shape)}\n".encode())
        found.update(tensors[name].numpy().astype("<f4", copy=False).tobytes())
    return found.hexdigest()


def _check_kind(source: Gguf) -> None:
    wanted = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
    }
    for key, value in wanted.items():
        if (found := source.metadata.get(key)) != value:
            raise CheckpointError(
                f"{source.path}: {key} is {found!r}, and only {value!r} can be converted; use the "
                "model's safetensors (source: hub or local)."
            )


def _config(metadata: Mapping[str, Any]) -> LlamaConfig:
    end = metadata["tokenizer.ggml.eos_token_id"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rope_theta=metadata["llama.rope.freq_base"],
        # Stored in float32: 9.99999975e-06 is meant as 1e-05.
        rms_norm_eps=float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        tie_word_embeddings=True,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=end,
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id", end),
        dtype="float32",
    )


def _tensors(source: Gguf, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """All weights under their Hugging Face names.

    Raises:
        CheckpointError: they are not those of the architecture.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {}
    for stored, values in source.tensors():
        name, part = _renamed(stored, source.path)
        if part in heads:
            values = unpermuted(values, heads[part])
        tensors[name] = torch.from_numpy(values)
    with torch.device("meta"):
        wanted = {n: p.shape for n, p in LlamaForCausalLM(config).named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if wanted != found:
        names = sorted(n for n in wanted | found if wanted.get(n) != found.get(n))
        raise CheckpointError(
            f"{source.path}: the tensor {names[0]} is missing, unexpected or of another shape "
            f"({found.get(names[0])} where {wanted.get(names[0])} is needed)."
        )
    return tensors


def _renamed(stored: str, path: Path) -> tuple[str, str]:
    """The Hugging Face name of a tensor, and which part of a layer it is."""
    layer = _LAYER.fullmatch(stored)
    part = layer[2] if layer else stored.removesuffix(".weight")
    known = _INSIDE if layer else _OUTSIDE
    if part not in known:
        raise CheckpointError(f"{path}: no llama model has a tensor {stored}.")
    above = f"model.layers.{layer[1]}." if layer else ""
    return f"{above}{known[part]}.weight", part


def unpermuted(values: Array, heads: int) -> Array:
    """Rows of a query or key matrix [heads x head size, hidden] in the order of transformers.

    llama.cpp rotates neighbouring rows of a head together, transformers row i with row i + half.
    """
    rows, columns = values.shape
    paired = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows, columns))


def build_tokenizer(metadata: Mapping[str, Any], path: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE of the file, with each digit a token of its own.

    Raises:
        CheckpointError: it does not give texts back as they were.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    try:
        core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    except Exception as error:  # the library raises the plain class, whatever the cause
        raise CheckpointError(f"{path}: the tokenizer cannot be built ({error}).") from None
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    end = metadata["tokenizer.ggml.eos_token_id"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=tokens[end],
        pad_token=tokens[metadata.get("tokenizer.ggml.padding_token_id", end)],
        padding_side="left",
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    for text in _ROUND_TRIPS:
        if (back := tokenizer.decode(tokenizer(text)["input_ids"])) != text:
            raise CheckpointError(
                f"{path}: the tokenizer makes {back!r} of {text!r}; fetch the file again."
            )
    return tokenizer
