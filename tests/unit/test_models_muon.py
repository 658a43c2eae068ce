"""Pre-training of the tiny base models: its optimiser, and its gradient of a batch cut in parts."""

from __future__ import annotations

import pytest
import torch

from bridge.models.muon import Muon, orthogonal
from bridge.models.tiny import _backward, build_model, build_tokenizer


@pytest.mark.parametrize("shape", [(24, 24), (24, 40), (40, 24)])
def test_steps_are_those_of_torchs_muon_up_to_its_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.1, "weight_decay": 0.2}
    muon = Muon([ours], **settings)
    reference = torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_singular_values_become_one_whatever_the_size() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(1e-4 * matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.allclose(orthogonal(1e-4 * matrix), orthogonal(matrix), atol=1e-5)
    assert torch.equal(orthogonal(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    words = [f"w{i}" for i in range(9)]
    tokenizer = build_tokenizer(words, context_tokens=32)
    shape = {"hidden": 16, "layers": 1, "heads": 2, "context_tokens": 32}
    model = build_model("qwen2", tokenizer=tokenizer, seed=5, **shape).double()
    pairs = [(" ".join(words[: 1 + i % 7]), " ".join(words[: 1 + i % 4])) for i in range(11)]
    found = _backward(model, tokenizer, pairs)
    split = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.zero_grad()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for question, answer in pairs:
        prompt = tokenizer(f"<|user|> {question} <|assistant|>")["input_ids"]
        ids = torch.tensor([prompt + tokenizer(f"{answer} <|end|>")["input_ids"]])
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        scored = logprobs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :]
        total, count = total - scored.sum(), count + len(scored)
    (total / count).backward()
    assert found == pytest.approx(total.item() / count, rel=1e-12)
    for ours, parameter in zip(split, model.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, rtol=1e-10, atol=1e-14)
