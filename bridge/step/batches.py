"""Rows of a step and the padded micro-batches that are cut from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridge.models.packing import Packed
from bridge.step.rows import Group, Row, Term
from bridge.step.scoring import row_slices


def term_tokens(row: Row, term: Term) -> int:
    """Number of the row's tokens that belong to a loss term."""
    rest = len(row.response_ids) - row.prefix_tokens
    if term == "ref_kl":
        return max(0, rest - row.skipped_tokens) if row.teacher_prompt_ids else 0
    if row.kind == "demonstration":
        return rest if term == "demonstration" else 0
    return row.prefix_tokens if term == "demonstration" else rest


@dataclass(frozen=True)
class StepBatch:
    """All rows of one optimiser step, over all ranks and micro-batches."""

    rows: tuple[Row, ...]
    groups: tuple[Group, ...] = ()
    shadow: StepBatch | None = None
    """The same prompts answered by the shadow policy, for methods with ``shadow_rollouts``."""
    old_logprobs: Mapping[int, Tensor] | None = None
    """Log-probs [response tokens] under the policy before the first update on these rollouts, by a
    row's place. None: this is the first and only update, so the ratio is exactly 1."""

    def places_of(self, term: Term) -> list[int]:
        """Places in :attr:`rows` of those that hold at least one token of a term."""
        return [i for i, row in enumerate(self.rows) if term_tokens(row, term) > 0]

    def n_rows(self, term: Term) -> int:
        """Global number of rows of a term, rows with a zero advantage included."""
        return len(self.places_of(term))

    def n_tokens(self, term: Term) -> int:
        """Global number of loss tokens of a term."""
        return sum(term_tokens(row, term) for row in self.rows)


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded rows. Causal attention needs no mask: nothing looks at what comes after it.

    Token tensors are [rows, tokens] over the positions that are predicted, i.e. without the first.
    """

    rows: tuple[Row, ...]
    input_ids: Tensor
    """[rows, tokens + 1]"""
    targets: Tensor
    """[rows, tokens]: the token that each position predicts."""
    mask: Tensor
    """[rows, tokens], bool: positions whose target belongs to the loss term."""
    advantage: Tensor
    """[rows, 1], float64: the model's precision decides how much of it is used."""
    logprob: Tensor | None = None
    """[rows, tokens], detached, once the forward pass has been made."""
    packed: Packed | None = None
    """The same rows for a forward pass that computes each prompt once; None: row by row."""

    def asked(self, temperature: float) -> tuple[Any, ...]:
        """Arguments of :data:`bridge.step.protocols.Score`."""
        packed = () if self.packed is None else (self.packed,)
        return self.input_ids, self.targets, temperature, *packed


def empty_micro_batch(pad_token_id: int, device: torch.device) -> MicroBatch:
    """One row of padding that belongs to no row of the step, for a pass that has to be made."""
    ids = torch.full((1, 2), pad_token_id, device=device)
    return MicroBatch(
        rows=(),
        input_ids=ids,
        targets=ids[:, 1:],
        mask=torch.zeros_like(ids[:, 1:], dtype=torch.bool),
        advantage=torch.zeros((1, 1), dtype=torch.float64, device=device),
    )


def micro_batches(
    rows: Sequence[Row],
    term: Term,
    *,
    size: int,
    tokens: int | None = None,
    pad_token_id: int,
    device: torch.device,
) -> Iterator[MicroBatch]:
    """Cut rows, in their order, into micro-batches of at most ``size`` rows and, where given, at
    most ``tokens`` tokens with their padding (a longer row comes alone)."""
    lengths = [len(r.prompt_ids) + len(r.response_ids) for r in rows]
    for part in row_slices(lengths, rows=size, tokens=tokens):
        chunk, length = tuple(rows[part]), max(lengths[part])
        ids = torch.full((len(chunk), length), pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(chunk), length), dtype=torch.bool)
        for i, row in enumerate(chunk):
            begin, end = len(row.prompt_ids), len(row.prompt_ids) + len(row.response_ids)
            ids[i, :end] = torch.tensor((*row.prompt_ids, *row.response_ids))
            if row.kind == "hybrid":
                cut = begin + row.prefix_tokens
                begin, end = (begin, cut) if term == "demonstration" else (cut, end)
            if term == "ref_kl":
                begin += row.skipped_tokens
            mask[i, begin:end] = True
        advantage = torch.tensor([[row.advantage] for row in chunk], dtype=torch.float64)
        yield MicroBatch(
            rows=chunk,
            input_ids=ids.to(device),
            targets=ids[:, 1:].to(device),
            mask=mask[:, 1:].to(device),
            advantage=advantage.to(device),
        )
