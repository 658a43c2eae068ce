"""Answers on plain tensors are those of Hugging Face's generate, to the last id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bridge.evaluation import model as policies
from bridge.evaluation.model import EvaluatedPolicy
from bridge.evaluation.plain_generation import gives_same_bits
from bridge.models.tiny import build_model, build_tokenizer, save_base

WORDS = [f"w{i}" for i in range(20)]
N_PROMPTS, TOKENS = 24, 30
GREEDY: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
SAMPLED: dict[str, Any] = GREEDY | {"do_sample": True, "top_p": 1.0, "top_k": 0}


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random weights, large enough for answers that differ, and end."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    tokenizer = build_tokenizer(WORDS, context_tokens=96)
    model = build_model(
        request.param, tokenizer=tokenizer, hidden=32, layers=2, heads=2, context_tokens=96, seed=1
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    save_base(model, tokenizer, folder)
    return EvaluatedPolicy(folder, batch_size=N_PROMPTS, max_response_tokens=TOKENS)


def answers(lm: Any, settings: dict[str, Any]) -> Tensor:
    """Ids of prompts of several lengths, and of what follows."""
    prompts = [" ".join(WORDS[i % 5 : i % 5 + i % 7 + 1]) for i in range(N_PROMPTS)]
    ids, mask = lm.tok_batch_encode(prompts)
    torch.manual_seed(3)
    out: Tensor = lm._model_generate(
        ids, ids.shape[1] + TOKENS, [lm._end_text], attention_mask=mask, **settings
    )
    return out


@pytest.mark.parametrize(
    "settings", [GREEDY, SAMPLED | {"temperature": 1.0}, SAMPLED | {"temperature": 0.7}]
)
def test_ids_are_those_of_the_library(
    policy: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gives_same_bits(policy.model, settings)
    plain = answers(policy, settings)
    monkeypatch.setattr(policies, "gives_same_bits", lambda *asked: False)
    monkeypatch.setattr(policies, "generate", None)
    assert torch.equal(plain, answers(policy, settings))
    ended = (plain[:, -TOKENS:] == policy.tokenizer.pad_token_id).any(dim=1)
    assert ended.any() and not ended.all(), "some answers end, some are cut"


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"num_key_value_heads": 2}, GREEDY),
        ({}, GREEDY | {"repetition_penalty": 1.1}),
        ({}, SAMPLED | {"top_k": 50}),
        ({}, SAMPLED | {"min_p": 0.1}),
    ],
)
def test_what_is_done_otherwise_is_left_to_the_library(
    change: dict[str, int], settings: dict[str, Any]
) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 20}
    shape |= {"intermediate_size": 32, "num_key_value_heads": 4} | change
    model = LlamaForCausalLM(LlamaConfig(**shape))
    assert not gives_same_bits(model, settings)
    assert not gives_same_bits(model.double(), GREEDY)
