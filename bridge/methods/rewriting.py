"""Answers that are sampled from two prompts at once: the decoder of ``hinted_decoding``.

p is the model behind a prompt that shows a demonstration, q the same model behind the plain one.
Both read the answer as it grows:

    m_t ~ p_t^(1 - l_t) q_t^l_t,    l_t = clip(beta H(p_t) / log V, 0, 1)

H is the entropy and V the size of the vocabulary. As soon as the answer holds ``\\boxed{``, only q
is sampled from. Imported by methods where they have tensors: the module needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.models.checkpoint import Policy
from bridge.models.decoding import decoder_of
from bridge.models.sampling import draw, left_pad, nucleus, uniforms

BOX = "\\boxed{"
ROWS_AT_ONCE = 32
"""Answers that are sampled together; each has keys and values behind two prompts."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """How a token is drawn."""

    beta: float
    """How soon an open choice is left to the plain prompt; 0: never."""
    temperature: float
    top_p: float
    """Mass of the likeliest tokens that are drawn from, at the temperature."""

    def logits(self, hinted: Tensor, plain: Tensor, is_hinted: Tensor) -> Tensor:
        """log m up to a constant, [rows, vocabulary].

        Args:
            hinted, plain: logits [rows, vocabulary] behind the two prompts.
            is_hinted: [rows], bool; elsewhere m is q.
        """
        log_p, log_q = hinted.log_softmax(-1), plain.log_softmax(-1)
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        share = (self.beta * entropy / math.log(log_p.shape[-1])).clamp(0.0, 1.0)
        return torch.lerp(log_p, log_q, share.where(is_hinted, 1.0)[:, None])

    def draw(self, hinted: Tensor, plain: Tensor, is_hinted: Tensor, uniform: Tensor) -> Tensor:
        """A token [rows] for each number of ``uniform`` [rows]."""
        mixed = self.logits(hinted, plain, is_hinted) / self.temperature
        return draw(nucleus(mixed, self.top_p), uniform, 1.0)[0]


def rewrite(
    policy: Policy,
    prompts: Sequence[tuple[Ids, Ids]],
    seeds: Sequence[int],
    mixture: Mixture,
    max_new_tokens: int,
) -> list[Ids]:
    """One answer per pair of prompts, its end-of-turn token included where one was drawn.

    Args:
        prompts: (hinted, plain), token ids.
        seeds: of each answer.
    """
    out: list[Ids] = []
    for begin in range(0, len(prompts), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        out += _rewrite(policy, prompts[part], seeds[part], mixture, max_new_tokens)
    return out


@torch.inference_mode()
def _rewrite(
    policy: Policy,
    prompts: Sequence[tuple[Ids, Ids]],
    seeds: Sequence[int],
    mixture: Mixture,
    max_new_tokens: int,
) -> list[Ids]:
    device = policy.model.device
    started = [_start(policy, asked, max_new_tokens) for asked in zip(*prompts, strict=True)]
    decoders, logits = [d for d, _ in started], [x for _, x in started]
    numbers = uniforms(seeds, max_new_tokens).to(device)
    is_hinted = torch.ones(len(prompts), dtype=torch.bool, device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    left = answers  # those that have not ended
    for t in range(max_new_tokens):
        token = mixture.draw(logits[0], logits[1], is_hinted, numbers[:, t])
        for answer, drawn in zip(left, token.tolist(), strict=True):
            answer.append(drawn)
        before_box = [not _ends_with_box(policy, answer) for answer in left]
        is_hinted &= torch.tensor(before_box, device=device)
        going = [i for i, answer in enumerate(left) if answer[-1] not in policy.end_token_ids]
        if not going or t + 1 == max_new_tokens:
            break
        if len(going) < len(left):
            left, keep = [left[i] for i in going], torch.tensor(going, device=device)
            token, numbers, is_hinted = token[keep], numbers[keep], is_hinted[keep]
            for decoder in decoders:
                decoder.keep(keep)
        logits = [decoder.step(token) for decoder in decoders]
    return [tuple(answer) for answer in answers]


def _start(policy: Policy, prompts: Sequence[Ids], max_new_tokens: int) -> tuple[Any, Tensor]:
    """A decoder with one answer per prompt, and logits [rows, vocabulary] of its first token."""
    ids, mask = left_pad(prompts, policy.pad_token_id, policy.model.device)
    rows = torch.arange(len(prompts), device=ids.device)
    decoder = decoder_of(policy.model)(policy.model, mask, rows, max_new_tokens)
    return decoder, decoder.start(ids)


def _ends_with_box(policy: Policy, answer: list[int]) -> bool:
    # A token of text has one character or more.
    return BOX in policy.text(answer[-len(BOX) :])
