"""The answers of Hugging Face's ``generate``, bit for bit, in a third of its time.

Around the forward pass of one token of a small model the library does more than the pass itself.
For models that :class:`~bridge.models.decoding.PlainDecoder` gives the same bits for, the tokens
are drawn here, by the same operations on numbers of the same shapes, so that a sampled answer uses
up the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.models.decoding import PlainDecoder, is_plain

_NEUTRAL = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}


def gives_same_bits(model: Any, settings: dict[str, Any]) -> bool:
    """Whether :func:`generate` can stand for the library's, for a model and the task's settings.

    Query heads that share a key head are multiplied in another order there, and so is everything on
    a GPU and in bfloat16.
    """
    config = model.config
    known = {**_NEUTRAL, "do_sample": None, "temperature": None}
    return (
        is_plain(model)
        and config.num_key_value_heads == config.num_attention_heads
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and settings.keys() <= known.keys()
        and all(settings.get(name, value) == value for name, value in _NEUTRAL.items())
    )


@torch.inference_mode()
def generate(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    max_length: int,
    *,
    end_ids: Sequence[int],
    pad_id: int,
    segment_tokens: int,
    temperature: float | None,
) -> Tensor:
    """Ids [rows, max_length] of prompts and answers, padding behind an end.

    Args:
        ids, mask: [rows, tokens], padded on the left.
        segment_tokens: after how many tokens, again and again, rows that have ended are dropped;
            until then they draw random numbers like the others.
        temperature: of sampling; None: the likeliest token.
    """
    start = ids.shape[1]
    out = ids.new_full((len(ids), max_length), pad_id)
    out[:, :start] = ids
    ends = torch.tensor(end_ids, device=ids.device)
    alive = torch.arange(len(ids), device=ids.device)
    running = torch.ones_like(alive, dtype=torch.bool)
    decoder = PlainDecoder(model, mask, alive, max_length - start)
    logits = decoder.start(ids)
    for at in range(start, max_length):
        token = _drawn(logits, temperature).where(running, pad_id)
        out[alive, at] = token
        running &= ~torch.isin(token, ends)
        if at + 1 == max_length or not running.any():
            break
        if (at + 1 - start) % segment_tokens == 0 and not running.all():
            keep = running.nonzero().squeeze(1)
            alive, token, running = alive[keep], token[keep], running[keep]
            decoder.keep(keep)
        logits = decoder.step(token)
    return out


def _drawn(logits: Tensor, temperature: float | None) -> Tensor:
    """One token per row of logits [rows, vocabulary]."""
    if temperature is None:
        return logits.argmax(-1)
    scores = logits if temperature == 1.0 else logits / temperature
    return torch.multinomial(scores.softmax(-1), 1).squeeze(1)
