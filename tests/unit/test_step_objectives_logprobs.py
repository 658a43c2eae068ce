"""Chunked log-probabilities and entropies: value, gradient, and the memory they promise."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridge.step.objectives.logprobs import token_logprobs

ROWS, LENGTH, VOCAB = 3, 7, 11
CHUNKS = [1, 2, 4, 10, 21, 1000]


def random_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(ROWS, LENGTH, VOCAB, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    return logits.to(dtype), targets


@pytest.mark.parametrize("chunk_tokens", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_match_a_loop(chunk_tokens: int, temperature: float) -> None:
    logits, targets = random_batch()
    logprob, entropy = token_logprobs(logits, targets, temperature, chunk_tokens, with_entropy=True)
    for i in range(ROWS):
        for t in range(LENGTH):
            weights = [math.exp(z / temperature) for z in logits[i, t].tolist()]
            shares = [w / sum(weights) for w in weights]
            chosen = shares[int(targets[i, t])]
            assert logprob[i, t].item() == pytest.approx(math.log(chosen), rel=1e-12)
            expected = -sum(s * math.log(s) for s in shares)
            assert entropy[i, t].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(token_logprobs(logits, targets, temperature, chunk_tokens), logprob)


@pytest.mark.parametrize("chunk_tokens", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("used", ["logprob", "entropy", "both"])
def test_gradient_matches_autograd(chunk_tokens: int, temperature: float, used: str) -> None:
    logits, targets = random_batch()
    weights = torch.randn(2, ROWS, LENGTH, generator=torch.Generator().manual_seed(1)).double()
    if used != "both":
        weights[1 if used == "logprob" else 0] = 0.0

    slow = logits.clone().requires_grad_(True)
    log_p = torch.log_softmax(slow / temperature, dim=-1)
    chosen = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    (weights[0] * chosen - weights[1] * (log_p.exp() * log_p).sum(-1)).sum().backward()

    fast = logits.clone().requires_grad_(True)
    logprob, entropy = token_logprobs(fast, targets, temperature, chunk_tokens, with_entropy=True)
    terms = {"logprob": logprob, "entropy": entropy}
    loss = sum(
        (w * value).sum()
        for (name, value), w in zip(terms.items(), weights, strict=True)
        if used in (name, "both")
    )
    assert isinstance(loss, Tensor)
    loss.backward()
    assert fast.grad is not None and slow.grad is not None
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-12, atol=1e-12)


def test_gradient_matches_finite_differences() -> None:
    logits, targets = random_batch()

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(z, targets[:, :2], 0.7, 4, with_entropy=True)

    assert torch.autograd.gradcheck(both, logits[:, :2].clone().requires_grad_(True))


def test_shifted_view_of_the_logits() -> None:
    """The usual next-token view logits[:, :-1] is not contiguous."""
    logits, targets = random_batch()
    leaf = logits.clone().requires_grad_(True)
    token_logprobs(leaf[:, :-1], targets[:, 1:], chunk_tokens=4).sum().backward()
    copy = logits[:, :-1].clone().requires_grad_(True)
    token_logprobs(copy, targets[:, 1:]).sum().backward()
    assert leaf.grad is not None and copy.grad is not None
    torch.testing.assert_close(leaf.grad[:, :-1], copy.grad)
    assert leaf.grad[:, -1].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits, targets = random_batch(dtype)
    half = logits.clone().requires_grad_(True)
    exact = logits.double().requires_grad_(True)
    logprob, entropy = token_logprobs(half, targets, chunk_tokens=4, with_entropy=True)
    reference = token_logprobs(exact, targets)
    assert logprob.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprob.double(), reference, rtol=1e-5, atol=1e-5)
    expected = torch.distributions.Categorical(logits=logits.float()).entropy()
    torch.testing.assert_close(entropy, expected, rtol=1e-5, atol=1e-5)
    logprob.sum().backward()
    reference.sum().backward()
    assert half.grad is not None and half.grad.dtype == dtype and exact.grad is not None
    # one rounding to the dtype of the logits, not a sum of rounded parts
    torch.testing.assert_close(half.grad, exact.grad.float().to(dtype), rtol=1e-2, atol=1e-6)


class LargestFloat32(TorchDispatchMode):
    """Records the largest float32 tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float32:
                self.numel = max(self.numel, leaf.numel())
        return result


@pytest.mark.parametrize(("rows", "length"), [(4, 16), (40, 3), (1, 64)])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_no_float32_copy_of_the_logits_exists_or_is_kept(
    rows: int, length: int, with_entropy: bool
) -> None:
    vocab, chunk_tokens = 64, 8
    logits = torch.randn(rows, length, vocab).bfloat16().requires_grad_(True)
    targets = torch.zeros(rows, length, dtype=torch.long)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with LargestFloat32() as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if with_entropy:
                logprob, entropy = token_logprobs(
                    logits, targets, 1.0, chunk_tokens, with_entropy=True
                )
                output = logprob + entropy
            else:
                output = token_logprobs(logits, targets, 1.0, chunk_tokens)
        output.sum().backward()
    assert 0 < seen.numel <= chunk_tokens * vocab
    float32_kept = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.float32)
    assert 0 < float32_kept <= 2 * rows * length


def test_impossible_tokens_and_extreme_logits() -> None:
    logits = torch.tensor([[[0.0, -torch.inf, 0.0], [1e4, -1e4, 0.0]]], requires_grad=True)
    logprob, entropy = token_logprobs(logits, torch.tensor([[0, 0]]), with_entropy=True)
    torch.testing.assert_close(logprob, torch.tensor([[-math.log(2), 0.0]]))
    torch.testing.assert_close(entropy, torch.tensor([[math.log(2), 0.0]]))
    (logprob + entropy).sum().backward()
    assert logits.grad is not None
    expected = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(logits.grad, expected)


def test_empty_batch() -> None:
    logits = torch.zeros(0, 5, VOCAB, requires_grad=True)
    logprob = token_logprobs(logits, torch.zeros(0, 5, dtype=torch.long))
    assert logprob.shape == (0, 5)


@pytest.mark.parametrize(
    ("target_shape", "temperature", "chunk_tokens", "message"),
    [
        ((3, 6), 1.0, 4, "logits must be"),
        ((3, 7, 1), 1.0, 4, "logits must be"),
        ((3, 7), 0.0, 4, "temperature"),
        ((3, 7), math.nan, 4, "temperature"),
        ((3, 7), 1.0, 0, "chunk_tokens"),
    ],
)
def test_bad_arguments_are_refused(
    target_shape: tuple[int, ...], temperature: float, chunk_tokens: int, message: str
) -> None:
    logits, _ = random_batch()
    with pytest.raises(ValueError, match=message):
        token_logprobs(
            logits, torch.zeros(target_shape, dtype=torch.long), temperature, chunk_tokens
        )
