"""Both decoders: every step's logits are those of a plain forward pass over the whole text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bridge.models.decoding import (
    GraphedDecoder,
    LibraryDecoder,
    PlainDecoder,
    PreallocatedLayer,
    decoder_of,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
N_STEPS = 40


def build(kind: Any, config: Any, *, heads: int = 6, shared: int = 1, **more: Any) -> Any:
    """A random model in float64, with as many query heads to a key head as ``shared``."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 40,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // shared,
        "max_position_embeddings": 128,
    }
    model = kind(config(**shape | more)).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=48, n_layer=2, n_head=6, n_positions=128)
    return GPT2LMHeadModel(config).eval().double()


DENSE_MOE: dict[str, Any] = {"num_experts": 0, "mlp_only_layers": [0, 1]}
MODELS = {
    "qwen2": lambda: build(Qwen2ForCausalLM, Qwen2Config, shared=3),
    "qwen2_moe": lambda: build(Qwen2MoeForCausalLM, Qwen2MoeConfig, **DENSE_MOE),
    "qwen3": lambda: build(Qwen3ForCausalLM, Qwen3Config, shared=2, head_dim=16),
    "llama": lambda: build(LlamaForCausalLM, LlamaConfig, shared=2, rope_parameters=LLAMA3_ROPE),
    "gpt2": gpt2,
}


class Issued(GraphedDecoder):
    """Without a GPU: the pass that would be replayed is issued each time."""

    recordings = 0

    def _record(self) -> None:
        self.recordings += 1
        self.graph: Any = self

    def replay(self) -> None:
        self.logits = self._pass()


CASES = [(name, LibraryDecoder) for name in MODELS]
CASES += [  # type: ignore[misc]
    (name, kind) for kind in (PlainDecoder, Issued) for name in MODELS if name != "gpt2"
]


def walk(kind: Any, model: Any) -> Iterator[tuple[Tensor, list[list[int]]]]:
    """Logits of each step, with the tokens that each row has seen. Prompts have several lengths
    and rows, some rows are dropped on the way, and there are more steps than the first room."""
    generator = torch.Generator().manual_seed(1)
    device = model.device
    ids = torch.randint(1, 40, (3, 7), generator=generator).to(device)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    owner = torch.tensor([0, 0, 1, 1, 1, 2], device=device)
    seen = [ids[i, mask[i] == 1].tolist() for i in owner]
    decoder = kind(model, mask, owner, N_STEPS)
    yield decoder.start(ids), seen
    for step in range(N_STEPS):
        tokens = torch.randint(1, 40, (len(seen),), generator=generator).to(device)
        logits = decoder.step(tokens)
        for row, token in zip(seen, tokens.tolist(), strict=True):
            row.append(token)
        yield logits, seen
        if step in (5, 20):
            rows = torch.tensor([0, 2, 3] if step == 5 else [2, 0], device=device)
            decoder.keep(rows)
            seen = [seen[i] for i in rows]


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{k.name}-{n}" for n, k in CASES])
def test_logits_are_those_of_a_whole_pass(name: str, kind: Any) -> None:
    model = MODELS[name]()
    assert name == "gpt2" or decoder_of(model) is PlainDecoder
    n_rows = []
    for logits, seen in walk(kind, model):
        n_rows.append(len(seen))
        for row, tokens in zip(logits, seen, strict=True):
            expected = model(torch.tensor([tokens])).logits[0, -1]
            # The library's norms compute in float32, whatever the model's dtype.
            assert torch.allclose(row, expected, rtol=1e-5, atol=1e-5)
    assert (n_rows[0], n_rows[-1], len(n_rows)) == (6, 2, N_STEPS + 1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_decoders_give_the_same_bits(dtype: torch.dtype) -> None:
    model = MODELS["qwen2_moe"]().to(dtype)
    for (plain, _), (library, _) in zip(
        walk(PlainDecoder, model), walk(LibraryDecoder, model), strict=True
    ):
        assert torch.equal(plain, library)


@torch.no_grad()
def test_a_pass_is_recorded_anew_when_shapes_change() -> None:
    decoder: Any = None

    def kind(*arguments: Any) -> Any:
        nonlocal decoder
        decoder = Issued(*arguments)
        return decoder

    for _ in walk(kind, MODELS["llama"]()):
        pass
    # One for the start, one for each time that rows are dropped, one when the first room is full.
    assert decoder.recordings == 4
    assert int(decoder.place) == decoder.length - 1 == 7 + N_STEPS - 1


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_recorded_pass_gives_the_logits_of_one_that_is_issued() -> None:
    model = MODELS["qwen2"]().float().cuda()
    pairs = zip(walk(GraphedDecoder, model), walk(LibraryDecoder, model), strict=True)
    for (graphed, _), (library, _) in pairs:
        assert torch.allclose(graphed, library, rtol=1e-4, atol=1e-4)


def sliding() -> Any:
    layers = ["full_attention", "sliding_attention"]
    more = {"use_sliding_window": True, "sliding_window": 8, "layer_types": layers}
    return build(Qwen2ForCausalLM, Qwen2Config, **more)


def stretching() -> Any:
    rope = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    return build(LlamaForCausalLM, LlamaConfig, rope_parameters=rope)


def gelu() -> Any:
    return build(LlamaForCausalLM, LlamaConfig, hidden_act="gelu")


def experts() -> Any:
    return build(Qwen2MoeForCausalLM, Qwen2MoeConfig, num_experts=4, moe_intermediate_size=8)


def eager() -> Any:
    return build(LlamaForCausalLM, LlamaConfig, attn_implementation="eager")


@pytest.mark.parametrize("model", [gpt2, sliding, stretching, gelu, experts, eager])
def test_models_that_differ_take_the_librarys_pass(model: Any) -> None:
    assert decoder_of(model()) is LibraryDecoder


def test_the_librarys_cache_keeps_what_was_written_and_drops_rows() -> None:
    layer = PreallocatedLayer(extra_tokens=2)
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 4, 5, generator=generator).unbind(0)
    layer.update(keys, values)
    layer.take(torch.tensor([0, 0, 2]))
    more = torch.randn(3, 2, 1, 5, generator=generator)
    seen_keys, seen_values = layer.update(more, more)
    assert torch.equal(seen_keys, torch.cat([keys[[0, 0, 2]], more], dim=2))
    assert torch.equal(seen_values, torch.cat([values[[0, 0, 2]], more], dim=2))
    assert layer.get_seq_length() == 5
