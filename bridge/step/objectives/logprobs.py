"""Log-probabilities and entropies of given tokens from logits, in float32 and in chunks.

Half-precision logits of a long batch are the largest tensor of an update. A float32
log_softmax of all of them would need twice that again, forward and once more for autograd.
Here a chunk of tokens at a time is upcast, reduced and dropped; the backward pass recomputes
it and writes the gradient in the dtype of the logits. Second derivatives are left out.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_VALUES_AT_ONCE = 2**23
"""Logits of a chunk, 32 MiB in float32."""


def _blocks(targets: Tensor, chunk_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Cut [rows, len] into rectangles of at most chunk_tokens; views, whatever the strides."""
    rows, length = targets.shape
    row_step = max(1, min(rows, chunk_tokens))
    col_step = max(1, chunk_tokens // row_step)
    for row in range(0, rows, row_step):
        for col in range(0, length, col_step):
            yield slice(row, row + row_step), slice(col, col + col_step)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logprob = torch.empty(targets.shape, dtype=dtype, device=logits.device)
        lse = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else logprob.new_empty(0)
        for block in _blocks(targets, chunk_tokens):
            z = logits[block].to(dtype) / temperature  # [r, c, vocab]
            lse[block] = torch.logsumexp(z, dim=-1)
            chosen = z.gather(-1, targets[block].unsqueeze(-1)).squeeze(-1)
            logprob[block] = chosen - lse[block]
            if with_entropy:
                log_p = z - lse[block].unsqueeze(-1)
                p = log_p.exp()
                # p log p at p = 0 is 0 x -inf
                entropy[block] = -(p * log_p.masked_fill(p == 0, 0.0)).sum(dim=-1)
        ctx.save_for_backward(logits, targets, lse, entropy)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.set_materialize_grads(False)  # an unused output arrives as None in backward
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor, None, None, None, None]:
        logits, targets, lse, entropy = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for block in _blocks(targets, ctx.chunk_tokens):
            z = logits[block].to(lse.dtype) / ctx.temperature
            log_p = z - lse[block].unsqueeze(-1)
            p = log_p.exp()
            grad = torch.zeros_like(p)
            if grad_logprob is not None:  # d log p_y / dz_j = 1[j = y] - p_j
                g = grad_logprob[block].unsqueeze(-1)
                grad.addcmul_(p, g, value=-1.0).scatter_add_(-1, targets[block].unsqueeze(-1), g)
            if grad_entropy is not None:  # dH / dz_j = -p_j (log p_j + H)
                surprise = log_p.masked_fill(p == 0, 0.0) + entropy[block].unsqueeze(-1)
                grad.addcmul_(p * grad_entropy[block].unsqueeze(-1), surprise, value=-1.0)
            grad_logits[block] = (grad / ctx.temperature).to(logits.dtype)
        return grad_logits, None, None, None, None


@overload
def token_logprobs(
    logits: Tensor,
    targets: Tensor,
    temperature: float = ...,
    chunk_tokens: int | None = ...,
    *,
    with_entropy: Literal[False] = ...,
) -> Tensor: ...


@overload
def token_logprobs(
    logits: Tensor,
    targets: Tensor,
    temperature: float = ...,
    chunk_tokens: int | None = ...,
    *,
    with_entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def token_logprobs(
    logits: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    *,
    with_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(logits / temperature) at the targets, and optionally the entropy.

    Computed in float32 (float64 logits stay float64) as chosen logit minus logsumexp. Both
    results are differentiable with respect to the logits. The result does not depend on
    `chunk_tokens`, which bounds the float32 working memory to a few times
    chunk_tokens x vocab x 4 bytes.

    Args:
        logits: [rows, len, vocab]; position t already predicts targets[:, t].
        targets: [rows, len], integer ids in [0, vocab), also at masked positions.
        temperature: above 0; the sampling temperature, so that ratios compare like with like.
        chunk_tokens: tokens upcast at a time; None: as many as 32 MiB hold.
        with_entropy: also return the exact entropy of softmax(logits / temperature).

    Returns:
        Log-probabilities [rows, len] in nats, or the pair (log-probabilities, entropies).

    Raises:
        ValueError: shapes that do not fit, a temperature not above 0, chunk_tokens below 1.
    """
    if logits.dim() != 3 or logits.shape[:2] != targets.shape:
        raise ValueError(
            "logits must be [rows, len, vocab] and targets [rows, len], "
            f"got {list(logits.shape)} and {list(targets.shape)}"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if chunk_tokens is None:
        chunk_tokens = max(1, _VALUES_AT_ONCE // logits.shape[-1])
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    apply: Callable[..., tuple[Tensor, Tensor]] = _TokenScores.apply  # untyped in torch
    logprob, entropy = apply(logits, targets, temperature, chunk_tokens, with_entropy)
    return (logprob, entropy) if with_entropy else logprob
