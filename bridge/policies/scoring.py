"""Log-probabilities of whole answers under a policy, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bridge.objectives.logprobs import token_logprobs
from bridge.policies.checkpoint import Policy

Scored = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and response ids."""


@torch.no_grad()
def sequence_logprobs(
    policy: Policy, sequences: Sequence[Scored], *, batch_rows: int = 128
) -> list[float]:
    """log p(response | prompt) at temperature 1, summed over the response's tokens, in nats.

    Args:
        sequences: (prompt ids, response ids); the end-of-turn token counts where it is given.
        batch_rows: rows per forward pass; changes memory only.
    """
    totals = [0.0] * len(sequences)
    # Rows of like length together: less padding, the same numbers.
    order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    for start in range(0, len(order), batch_rows):
        chunk = order[start : start + batch_rows]
        length = max(len(sequences[i][0]) + len(sequences[i][1]) for i in chunk)
        ids = torch.full((len(chunk), length), policy.pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(chunk), length), dtype=torch.bool)
        for row, i in enumerate(chunk):
            prompt, response = sequences[i]
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor((*prompt, *response))
            mask[row, len(prompt) : end] = True
        ids = ids.to(policy.model.device)
        logits = policy.model(input_ids=ids, use_cache=False).logits[:, :-1]
        logprob = token_logprobs(logits, ids[:, 1:]).cpu().masked_fill(~mask[:, 1:], 0.0)
        # Sums of many small terms: the study takes differences of them.
        for i, total in zip(chunk, logprob.double().sum(dim=1).tolist(), strict=True):
            totals[i] = total
    return totals
