"""Log-probs through the output layer in chunks: value, both gradients, and the memory they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridge.step.objectives.head_logprobs import head_scores

ROWS, LENGTH, WIDTH, VOCAB = 3, 7, 5, 11


def random_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    return hidden.to(dtype), weight.to(dtype), targets


def head_logprobs(*arguments: Any, **named: Any) -> Tensor:
    return head_scores(*arguments, **named)[0]


def slow(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = torch.einsum("rth,vh->rtv", hidden, weight) / temperature
    return logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)


@pytest.mark.parametrize("chunk_tokens", [1, 2, 4, 20, 21, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_both_gradients_match_autograd(chunk_tokens: int, temperature: float) -> None:
    hidden, weight, targets = random_batch()
    upstream = torch.randn(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for function in (slow, lambda *a: head_logprobs(*a, chunk_tokens=chunk_tokens)):
        h, w = hidden.clone().requires_grad_(True), weight.clone().requires_grad_(True)
        logprob = function(h, w, targets, temperature)
        found.append((logprob.detach(), *torch.autograd.grad((upstream * logprob).sum(), (h, w))))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_a_tied_weight_is_the_sum_of_both_uses() -> None:
    _, weight, targets = random_batch()
    ids = targets.roll(1, dims=1)
    found = []
    for function in (slow, lambda *a: head_logprobs(*a, chunk_tokens=4)):
        w = weight.clone().requires_grad_(True)
        logprob = function(w[ids], w, targets, 1.0)
        found.append(torch.autograd.grad(logprob.sum(), w)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("needed", ["hidden", "weight"])
def test_either_input_may_need_no_gradient(needed: str) -> None:
    hidden, weight, targets = random_batch()
    leaf = {"hidden": hidden, "weight": weight}[needed].requires_grad_(True)
    head_logprobs(hidden, weight, targets, chunk_tokens=4).sum().backward()
    assert leaf.grad is not None and bool((leaf.grad != 0).any())


def test_a_view_of_the_hidden_states_will_do() -> None:
    hidden, weight, targets = random_batch()
    found = head_logprobs(hidden[:, :-1], weight, targets[:, 1:], chunk_tokens=5)
    expected = head_logprobs(hidden[:, :-1].contiguous(), weight, targets[:, 1:], chunk_tokens=5)
    assert torch.equal(found, expected)


def test_half_precision_sums_the_weights_gradient_in_float32() -> None:
    """Added up in bfloat16, 1,024 equal chunks would stop growing after 256."""
    hidden = torch.ones(1, 1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1, 1024, dtype=torch.long)
    logprob = head_logprobs(hidden, weight, targets, chunk_tokens=1)
    assert logprob.dtype == torch.float32
    logprob.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [512.0, -512.0]


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    vocab, tokens, chunk = 500, 64, 4
    hidden = torch.randn(1, tokens, 8, requires_grad=True)
    weight = torch.randn(vocab, 8, requires_grad=True)
    targets = torch.randint(vocab, (1, tokens))
    with LargestTensor() as seen:
        head_logprobs(hidden, weight, targets, chunk_tokens=chunk).sum().backward()
    assert seen.elements == max(chunk * vocab, weight.numel()) < tokens * vocab


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": torch.zeros(2, 7, dtype=torch.long)}, "hidden must be"),
        ({"weight": torch.zeros(11, 4)}, "hidden must be"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"chunk_tokens": 0}, "chunk_tokens must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    hidden, weight, targets = random_batch()
    named = {"hidden": hidden, "weight": weight, "targets": targets, "chunk_tokens": 3}
    with pytest.raises(ValueError, match=said):
        head_logprobs(**{**named, **change})
