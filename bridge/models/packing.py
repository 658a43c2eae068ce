"""Prompts computed once: the answers to a prompt follow it in one sequence and see it, but not each
other.

A group of n answers repeats its prompt n times if every row is a sequence of its own. Here prompts
with their answers are laid out as trees, end to end in sequences of one length: a mask lets a token
see its own answer up to itself, and the whole prompt; positions count from the prompt's beginning.
The model computes what it computes row by row, so log-probs and gradients differ by rounding only.
What such a mask costs is attention over longer sequences. It grows with their square, so the number
of answers in a tree is the one with the least work by a count of multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and response ids of a row."""


@dataclass(frozen=True)
class Packed:
    """Rows, laid out in sequences."""

    input_ids: Tensor
    """[sequences, length]"""
    positions: Tensor | None
    """[sequences, length]; None: each sequence is one row."""
    attention: Tensor | None
    """[sequences, 1, length, length], added to attention scores: 0 or minus infinity. None: each
    sequence is one row."""
    places: Tensor
    """[scored tokens]: where in the flat sequences each scored token is predicted, in the order of
    the rows."""
    scored: Tensor
    """[rows, tokens], bool: the scored tokens among the rows' tokens without their first."""


@dataclass(frozen=True)
class _Tree:
    """A prompt and some of its answers, by the rows they come from."""

    prompt: tuple[int, ...]
    rows: tuple[int, ...]
    length: int


def row_order(pairs: Sequence[Pair], *, by_prompt: bool) -> list[int]:
    """An order of rows that saves work; the gradient is the same in any.

    Args:
        by_prompt: rows of a prompt together, for a pass that computes it once; otherwise rows of
            like length, for less padding.
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    if not by_prompt:
        return sorted(range(len(pairs)), key=lengths.__getitem__)
    longest: dict[tuple[int, ...], int] = {}
    for (prompt, _), length in zip(pairs, lengths, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), length)
    prompts = [prompt for prompt, _ in pairs]
    return sorted(range(len(pairs)), key=lambda i: (longest[prompts[i]], prompts[i], lengths[i]))


def pack(pairs: Sequence[Pair], scored: Tensor, model: PreTrainedModel) -> Packed:
    """Lay rows out with each prompt once, or row by row where that is less work.

    Args:
        scored: [rows, tokens], see :class:`Packed`.
        model: gives the sizes that work is counted with, dtype and device.
    """
    config: Any = model.config
    # A pair of tokens costs 4 multiplications per unit of width; a token 2 per weight of a layer.
    layers = sum(p.numel() for p in model.model.layers.parameters())
    pairs_per_token = layers / (2 * config.num_hidden_layers * config.hidden_size)
    # Row by row the mask is causal, and half of all pairs are left out.
    best = [[tree] for tree in _trees(pairs, 1)]
    length = _length(best)
    least, causal = len(best) * length * (1 + length / 2 / pairs_per_token), True
    for answers in _sizes(pairs):
        bins = _bins(_trees(pairs, answers))
        length = _length(bins)
        work = len(bins) * length * (1 + length / pairs_per_token)
        if work < least:
            best, least, causal = bins, work, False
    return _laid_out(best, pairs, scored.cpu(), model, causal=causal)


def _sizes(pairs: Sequence[Pair]) -> Iterator[int]:
    """Numbers of answers that a tree may have: all of a prompt, half of them, and so on."""
    prompts = [prompt for prompt, _ in pairs]
    size = max(prompts.count(prompt) for prompt in set(prompts))
    while size >= 1:
        yield size
        size //= 2


def _trees(pairs: Sequence[Pair], answers: int) -> list[_Tree]:
    """Prompts with at most so many answers each."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, (prompt, _) in enumerate(pairs):
        rows_of.setdefault(prompt, []).append(row)
    trees = []
    for prompt, rows in rows_of.items():
        for begin in range(0, len(rows), answers):
            part = tuple(rows[begin : begin + answers])
            length = len(prompt) + sum(len(pairs[row][1]) for row in part)
            trees.append(_Tree(prompt, part, length))
    return trees


def _bins(trees: Sequence[_Tree]) -> list[list[_Tree]]:
    """Trees shared out to sequences as long as the longest tree, the long ones first."""
    bins: list[list[_Tree]] = []
    room: list[int] = []
    ordered = sorted(trees, key=lambda tree: -tree.length)
    for tree in ordered:
        free = next((i for i, left in enumerate(room) if left >= tree.length), None)
        if free is None:
            free = len(bins)
            bins.append([])
            room.append(ordered[0].length)
        bins[free].append(tree)
        room[free] -= tree.length
    return bins


def _length(bins: Sequence[Sequence[_Tree]]) -> int:
    return max(sum(tree.length for tree in trees) for trees in bins)


def _laid_out(
    bins: Sequence[Sequence[_Tree]],
    pairs: Sequence[Pair],
    scored: Tensor,
    model: PreTrainedModel,
    *,
    causal: bool,
) -> Packed:
    length = _length(bins)
    ids = torch.zeros((len(bins), length), dtype=torch.long)
    positions = torch.zeros_like(ids)
    # A token sees its own part, and the part before it: an answer's is the prompt. Padding is 0.
    part, before = torch.zeros_like(ids), torch.zeros_like(ids)
    found: dict[int, Tensor] = {}
    number = 0
    for line, trees in enumerate(bins):
        begin = 0
        for tree in trees:
            number += 1
            root, end = number, begin + len(tree.prompt)
            ids[line, begin:end] = torch.tensor(tree.prompt)
            positions[line, begin:end] = torch.arange(len(tree.prompt))
            part[line, begin:end] = before[line, begin:end] = root
            prompt = torch.arange(begin, end)
            for row in tree.rows:
                number += 1
                begin, answer = end, pairs[row][1]
                end = begin + len(answer)
                ids[line, begin:end] = torch.tensor(answer)
                positions[line, begin:end] = len(tree.prompt) + torch.arange(len(answer))
                part[line, begin:end], before[line, begin:end] = number, root
                whole = torch.cat([prompt, torch.arange(begin, end)]) + line * length
                # The last token predicts nothing that is there; columns behind are padding.
                found[row] = whole[:-1][scored[row, : len(whole) - 1]]
            begin = end
    places = torch.cat([found[row] for row in range(len(pairs))])
    where = model.device
    if causal:
        return Packed(ids.to(where), None, None, places.to(where), scored.to(where))
    attention = _attention(part, before, model.dtype)
    return Packed(*(x.to(where) for x in (ids, positions, attention, places, scored)))


def _attention(part: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
    """[sequences, 1, length, length] from the parts of tokens and the parts before them."""
    length = part.shape[1]
    sees = (part[:, :, None] == part[:, None]) | (before[:, :, None] == part[:, None])
    sees &= torch.ones(length, length, dtype=torch.bool).tril()
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, -torch.inf)[:, None]
