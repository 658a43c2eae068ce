"""Drawing tokens from next-token distributions, each row from its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at ``uniform``.

    Args:
        logits: [rows, vocabulary]; a token of -inf is never drawn.
        uniform: [rows], in [0, 1).
        temperature: 0 takes the likeliest token.

    Returns:
        Tokens, their log-probs and the entropies of the distributions in nats, each [rows].
    """
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        p, token = logprobs.exp(), logits.argmax(-1)
    else:
        logprobs = (logits / temperature).log_softmax(-1)
        p = logprobs.exp()
        # In units of 2^-40, since sums of integers do not depend on their order: on a GPU the sum
        # of floats does, or costs the square of the vocabulary in memory.
        cumulative = (p * 2.0**40).long().cumsum(-1)
        # Scaling by the last entry takes care of what was rounded off. A uniform number is at most
        # 1 - 2^-24, so the product is less than the sum.
        target = (uniform * cumulative[:, -1].double()).long()[:, None]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        token = token.clamp_max(logits.shape[-1] - 1)  # only where the logits are not numbers
    entropy = -(p * logprobs).nan_to_num(0.0).sum(-1)
    return token, logprobs.gather(-1, token[:, None]).squeeze(-1), entropy


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The logits [rows, vocabulary] with -inf outside of the smallest set of likeliest tokens that
    together have the probability ``top_p``."""
    if top_p == 1:
        return logits  # a sum of all probabilities may round to less or more
    ordered, places = logits.softmax(-1).sort(dim=-1, descending=True)
    likelier = ordered.cumsum(-1) - ordered  # mass of the tokens before each
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, likelier >= top_p)
    return logits.masked_fill(outside, -torch.inf)


def uniforms(seeds: Sequence[int], n: int) -> Tensor:
    """Return [len(seeds), n] uniform numbers, each row from its own seed."""
    generator = torch.Generator()
    return torch.stack([torch.rand(n, generator=generator.manual_seed(s)) for s in seeds])


def left_pad(
    rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask (0 at the padding), both [rows, tokens], padded on the left."""
    length = max(len(r) for r in rows)
    ids = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.tensor(row)
        mask[i, length - len(row) :] = 1
    return ids.to(device), mask.to(device)
