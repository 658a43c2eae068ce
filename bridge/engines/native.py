"""Rollouts in plain PyTorch.

One prefill per prompt is shared by all its samples, and rows that have ended leave the batch as
soon as that is worth a copy of the others' keys and values. Each sample draws from its own
generator, so a completion depends on its seed and the weights only, not on its neighbours (up to
the rounding of batched matrix products).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bridge.models.decoding import decoder_of
from bridge.models.sampling import draw, left_pad, uniforms
from bridge.step.rollouts import Completion, Prompt

_COMPACT_BELOW = 0.6
"""Share of a batch's rows that still run, below which the others are dropped: a copy of all keys
and values, which dropping each row at its end would make at most steps."""


class NativeEngine:
    """The :class:`~bridge.step.rollouts.Engine` for small models and for tests.

    Args:
        model: the policy to sample from; eval mode.
        end_token_ids: tokens that end an answer.
        refresh: copies the trainer's weights into ``model``; None where the trainer trains
            ``model`` itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        end_token_ids: Sequence[int],
        pad_token_id: int,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.end_token_ids = tuple(end_token_ids)
        self.pad_token_id = pad_token_id
        self._refresh = refresh

    def sync(self) -> None:
        if self._refresh is not None:
            self._refresh()

    def sleep(self) -> None:
        """Nothing to give back: the model is the trainer's own, the cache lives for one call."""

    def wake(self) -> None:
        """It never sleeps."""

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        device = self.model.device
        ids, mask = left_pad([p.ids for p in prompts], self.pad_token_id, device)
        seeds = [s for p in prompts for s in p.seeds]
        owner = torch.tensor([i for i, p in enumerate(prompts) for _ in p.seeds], device=device)
        decoder = decoder_of(self.model)(self.model, mask, owner, max_new_tokens)
        logits = decoder.start(ids)
        numbers = uniforms(seeds, max_new_tokens).to(device)
        ends = torch.tensor(self.end_token_ids, device=device)

        tokens = torch.full((len(seeds), max_new_tokens), self.pad_token_id, device=device)
        logprobs = torch.zeros(tokens.shape, device=device, dtype=logits.dtype)
        entropies = torch.zeros_like(logprobs)
        active = torch.arange(len(seeds), device=device)
        running = torch.ones_like(active, dtype=torch.bool)
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []  # since rows were last dropped
        for t in range(max_new_tokens):
            drawn.append(draw(logits, numbers[:, t], temperature))
            token = drawn[-1][0]
            running &= (token[:, None] != ends).all(-1)
            left = int(running.sum())
            last = left == 0 or t + 1 == max_new_tokens
            if last or left < _COMPACT_BELOW * len(active):
                at = slice(t + 1 - len(drawn), t + 1)
                for whole, *columns in zip((tokens, logprobs, entropies), *drawn, strict=True):
                    whole[active, at] = torch.stack(columns, dim=1)
                if last:
                    break
                keep = running.nonzero().squeeze(-1)
                active, running, token, numbers = (
                    x[keep] for x in (active, running, token, numbers)
                )
                decoder.keep(keep)
                drawn = []
            logits = decoder.step(token)
        return _collect(prompts, tokens, logprobs, entropies, ends)


def _collect(
    prompts: Sequence[Prompt], tokens: Tensor, logprobs: Tensor, entropies: Tensor, ends: Tensor
) -> list[list[Completion]]:
    """Cut each row [tokens] after its first end token; what follows one was drawn for nobody."""
    is_end = torch.isin(tokens, ends)
    ended = is_end.any(dim=1)
    lengths = torch.where(ended, is_end.int().argmax(dim=1) + 1, tokens.shape[1])
    rows = zip(*(x.tolist() for x in (tokens, logprobs, entropies, lengths, ended)), strict=True)
    return [
        [
            Completion(
                ids=tuple(ids[:n]),
                logprobs=tuple(logprob[:n]),
                entropies=tuple(entropy[:n]),
                truncated=not has_ended,
            )
            for ids, logprob, entropy, n, has_ended in itertools.islice(rows, len(prompt.seeds))
        ]
        for prompt in prompts
    ]
