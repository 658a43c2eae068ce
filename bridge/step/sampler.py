"""Rollouts in plain PyTorch.

One prefill per prompt is shared by all its samples, keys and values live in a preallocated cache,
and rows that have ended leave the batch. Each sample draws from its own generator, so a completion
depends on its seed and the weights only, not on its neighbours (up to the rounding of batched
matrix products).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from bridge.step.rollouts import Completion, Prompt


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer in a buffer that new tokens are written into.

    The library's dynamic cache copies everything for each token; its static one cannot drop rows.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, extra_tokens: int) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads, length, width = key_states.shape
        shape = (rows, heads, length + self.extra_tokens, width)
        self.keys = key_states.new_empty(shape)
        self.values = value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


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
        ids, mask = _left_pad([p.ids for p in prompts], self.pad_token_id, device)
        owner = torch.tensor(
            [i for i, p in enumerate(prompts) for _ in p.seeds], dtype=torch.long, device=device
        )
        layers = [
            PreallocatedLayer(max_new_tokens) for _ in range(self.model.config.num_hidden_layers)
        ]
        cache = Cache(layers=list(layers))
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        logits = self._forward(ids, mask, positions, cache)[owner]
        for layer in layers:
            layer.take(owner)
        mask, position = mask[owner], positions[owner, -1]

        rows = len(owner)
        uniforms = _uniforms([s for p in prompts for s in p.seeds], max_new_tokens).to(device)
        tokens = torch.full((rows, max_new_tokens), self.pad_token_id, device=device)
        logprobs = torch.zeros(rows, max_new_tokens, device=device, dtype=logits.dtype)
        entropies = torch.zeros_like(logprobs)
        lengths = torch.full((rows,), max_new_tokens, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        active = torch.arange(rows, device=device)
        ends = torch.tensor(self.end_token_ids, device=device)
        for t in range(max_new_tokens):
            token, logprob, entropy = _draw(logits, uniforms[active, t], temperature)
            tokens[active, t], logprobs[active, t], entropies[active, t] = token, logprob, entropy
            finished = torch.isin(token, ends)
            lengths[active[finished]] = t + 1
            ended[active[finished]] = True
            if t + 1 == max_new_tokens or bool(finished.all()):
                break
            if bool(finished.any()):
                keep = (~finished).nonzero().squeeze(-1)
                active, token, mask, position = (
                    active[keep],
                    token[keep],
                    mask[keep],
                    position[keep],
                )
                for layer in layers:
                    layer.take(keep)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits = self._forward(token[:, None], mask, position[:, None], cache)
        return _collect(prompts, tokens, logprobs, entropies, lengths, ended)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the logits [rows, vocabulary] after the last position, in float32 or better."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at ``uniform``."""
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        token = logits.argmax(-1)
    else:
        logprobs = (logits / temperature).log_softmax(-1)
        cumulative = logprobs.exp().cumsum(-1)
        # Scaling by the last entry makes rounding in the sum harmless: a float32 uniform number is
        # at most 1 - 2^-24, and its product with a sum near 1 rounds to less than the sum.
        target = (uniform * cumulative[:, -1])[:, None]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        token = token.clamp_max(logits.shape[-1] - 1)  # only where the logits are not numbers
    entropy = -(logprobs.exp() * logprobs).nan_to_num(0.0).sum(-1)
    return token, logprobs.gather(-1, token[:, None]).squeeze(-1), entropy


def _uniforms(seeds: Sequence[int], n: int) -> Tensor:
    """Return [len(seeds), n] uniform numbers, each row from its own seed."""
    generator = torch.Generator()
    return torch.stack([torch.rand(n, generator=generator.manual_seed(s)) for s in seeds])


def _left_pad(
    rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    length = max(len(r) for r in rows)
    ids = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.tensor(row)
        mask[i, length - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _collect(
    prompts: Sequence[Prompt],
    tokens: Tensor,
    logprobs: Tensor,
    entropies: Tensor,
    lengths: Tensor,
    ended: Tensor,
) -> list[list[Completion]]:
    token_rows, logprob_rows, entropy_rows = tokens.tolist(), logprobs.tolist(), entropies.tolist()
    length_list, ended_list = lengths.tolist(), ended.tolist()
    out, row = [], 0
    for prompt in prompts:
        completions = []
        for _ in prompt.seeds:
            n = length_list[row]
            completions.append(
                Completion(
                    ids=tuple(token_rows[row][:n]),
                    logprobs=tuple(logprob_rows[row][:n]),
                    entropies=tuple(entropy_rows[row][:n]),
                    truncated=not ended_list[row],
                )
            )
            row += 1
        out.append(completions)
    return out
