"""Log-probabilities of given tokens from the last hidden states, without all logits at once.

A vocabulary of 152,000 makes the logits the largest tensor of an update: 16,000 tokens of them take
10 GB in float32. Here a chunk of tokens at a time goes through the output layer, is reduced and
dropped; the backward pass computes it again. The gradient of the output weight is summed over the
chunks in float32, whatever the weight's dtype. Second derivatives are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(targets.shape, dtype=dtype, device=hidden.device)
        lse = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else logprob.new_empty(0)
        for begin in range(0, len(targets), chunk_tokens):
            at = slice(begin, begin + chunk_tokens)
            z = _logits(hidden[at], weight, dtype, temperature)  # [chunk, vocab]
            lse[at] = torch.logsumexp(z, dim=-1)
            logprob[at] = z.gather(-1, targets[at].unsqueeze(-1)).squeeze(-1) - lse[at]
            if with_entropy:
                log_p = z.sub_(lse[at].unsqueeze(-1))
                entropy[at] = -(log_p.exp() * log_p).nan_to_num_().sum(dim=-1)
            del z  # before the next chunk is made
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprob: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=lse.dtype) if ctx.needs_input_grad[1] else None
        for begin in range(0, len(targets), ctx.chunk_tokens):
            at = slice(begin, begin + ctx.chunk_tokens)
            g = grad_logprob[at].unsqueeze(-1)
            # d log p_y / dz_j = 1[j = y] - p_j
            z = _logits(hidden[at], weight, lse.dtype, ctx.temperature)
            log_p = z.sub_(lse[at].unsqueeze(-1))
            if len(entropy):  # dH / dz_j = -p_j (log p_j + H)
                surprise = (log_p + entropy[at].unsqueeze(-1)).mul_(grad_entropy[at].unsqueeze(-1))
                z = log_p.exp().mul_(surprise.add_(g)).nan_to_num_().neg_()
                del surprise
            else:
                z = log_p.exp_().mul_(-g)
            z.scatter_add_(-1, targets[at].unsqueeze(-1), g)
            grad = z.div_(ctx.temperature).to(hidden.dtype)
            del z
            if grad_hidden is not None:
                grad_hidden[at] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[at]
            del grad
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            *(None, None, None, None),
        )


def _logits(hidden: Tensor, weight: Tensor, dtype: torch.dtype, temperature: float) -> Tensor:
    """[tokens, vocab] in ``dtype``; the product itself is made in the dtype of the weights."""
    z = (hidden @ weight.T).to(dtype)
    return z if temperature == 1.0 else z.div_(temperature)


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    chunk_tokens: int,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(hidden @ weight.T / temperature) at the targets, and optionally the entropy.

    Differentiable with respect to both. What it holds at a time is bounded by about three tensors
    of chunk_tokens x vocab (one in the dtype of the weights, two in float32), and in the backward
    pass by a float32 copy of the weight's shape. The result depends on ``chunk_tokens`` only by
    rounding.

    Args:
        hidden: [rows, len, width], the last hidden states.
        weight: [vocab, width] of the output layer, which has no bias; it may be the embedding's.
        targets: [rows, len], integer ids in [0, vocab), also at masked positions.
        temperature: above 0; the sampling temperature.
        chunk_tokens: tokens whose logits exist at a time.

    Returns:
        Log-probs and entropies [rows, len] in nats, in float32 (float64 stays float64).

    Raises:
        ValueError: shapes that do not fit, a temperature not above 0, chunk_tokens below 1.
    """
    if hidden.dim() != 3 or hidden.shape[:2] != targets.shape or hidden.shape[2] != weight.shape[1]:
        raise ValueError(
            "hidden must be [rows, len, width], weight [vocab, width] and targets [rows, len], "
            f"got {list(hidden.shape)}, {list(weight.shape)} and {list(targets.shape)}"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    apply: Callable[..., tuple[Tensor, Tensor]] = _HeadScores.apply  # untyped in torch
    rows, flat = hidden.reshape(-1, hidden.shape[2]), targets.reshape(-1)
    logprob, entropy = apply(rows, weight, flat, temperature, chunk_tokens, with_entropy)
    return logprob.view(targets.shape), entropy.view(targets.shape) if with_entropy else None
