"""Checkpoints with random weights, from 0.3 to 135 million parameters: speed needs no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from bridge.models.checkpoint import Policy, load_policy
from bridge.models.tiny import build_tokenizer, save_base
from bridge.tasks.base import Problem

WORDS = tuple(f"w{i}" for i in range(59))
CONTEXT_TOKENS = 1024
_TEMPLATE_TOKENS = 2

SIZES: dict[str, dict[str, int]] = {
    "0.3M": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64,
    },
    "3M": {
        "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 512,
    },
    "20M": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 24_000,
    },
    # The shapes of SmolLM2-135M.
    "135M": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
    },
}  # fmt: skip


def make_policy(folder: Path, size: str) -> Policy:
    """Write and load a llama of a size of :data:`SIZES`; most of a large vocabulary has no word."""
    tokenizer = build_tokenizer(WORDS, context_tokens=CONTEXT_TOKENS)
    shared: dict[str, Any] = {
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES[size], **shared))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    save_base(model, tokenizer, folder)
    return load_policy(folder)


def make_problems(n: int, prompt_tokens: int) -> list[Problem]:
    """Different questions whose prompts have so many tokens."""
    words = prompt_tokens - _TEMPLATE_TOKENS
    return [
        Problem(
            id=f"p{i}",
            question=" ".join(WORDS[(i + j) % len(WORDS)] for j in range(words)),
            answer="w0",
            difficulty=1,
        )
        for i in range(n)
    ]
