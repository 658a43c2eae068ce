"""Log-probabilities under a policy: of a batch's tokens, and of whole answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bridge.models.checkpoint import CheckpointError, Policy
from bridge.models.packing import Packed
from bridge.step.objectives.head_logprobs import head_scores
from bridge.step.objectives.logprobs import token_logprobs

Scored = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and response ids."""

LOGITS_AT_ONCE = 2**26
"""Logits that may exist at a time, 0.25 GiB of them in float32. A batch with more goes through the
output layer in chunks of tokens."""

_AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of configurations whose models change logits after the output layer."""


def next_token_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    packed: Packed | None = None,
) -> Tensor:
    """Log-probs [rows, tokens] alone, see :func:`next_token_scores`."""
    return next_token_scores(model, input_ids, targets, temperature, packed=packed)[0]


def next_token_scores(
    model: nn.Module,
    input_ids: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    with_entropy: bool = False,
    cut: bool | None = None,
    packed: Packed | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [rows, tokens] in nats of the token that follows each position but the last, and
    where wanted the entropies of the distributions it is taken from.

    Args:
        model: a causal language model of transformers.
        input_ids: [rows, tokens + 1], padded on the right; causal attention needs no mask then.
        targets: [rows, tokens], ``input_ids`` without the first column.
        temperature: that the tokens were sampled at.
        cut: whether logits are made in chunks of tokens; None: where there are too many.
        packed: the same rows with each prompt once. The scores of tokens that are not scored there
            are 0.

    Raises:
        CheckpointError: the batch has to be cut, and the model's logits are more than one product.
    """
    if packed is not None:
        return _packed_scores(model, packed, targets, temperature, with_entropy)
    if not (too_many_logits(model, targets) if cut is None else cut):
        logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
        if with_entropy:
            return token_logprobs(logits, targets, temperature, with_entropy=True)
        return token_logprobs(logits, targets, temperature), None
    hidden = model.base_model(input_ids=input_ids, use_cache=False)  # type: ignore[operator]
    return _head_scores(model, hidden[0][:, :-1], targets, temperature, with_entropy)


def _packed_scores(
    model: nn.Module, packed: Packed, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """See :func:`next_token_scores`; the output layer runs at the scored tokens only."""
    hidden = model.base_model(  # type: ignore[operator]
        input_ids=packed.input_ids,
        attention_mask=packed.attention,
        position_ids=packed.positions,
        use_cache=False,
    )
    chosen = hidden[0].flatten(0, 1)[packed.places]
    wanted = targets[packed.scored]
    found = _head_scores(model, chosen[None], wanted[None], temperature, with_entropy)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(targets.shape).masked_scatter(packed.scored, values)

    return spread(found[0]), None if found[1] is None else spread(found[1])


def _head_scores(
    model: nn.Module, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    weight = output_weight(model)
    at_once = max(1, LOGITS_AT_ONCE // len(weight))
    return head_scores(
        hidden, weight, targets, temperature, chunk_tokens=at_once, with_entropy=with_entropy
    )


def too_many_logits(model: nn.Module, targets: Tensor) -> bool:
    """Whether the logits of all targets are more than may exist at a time."""
    vocabulary: int = model.config.vocab_size  # type: ignore[union-attr, assignment]
    return targets.numel() * vocabulary > LOGITS_AT_ONCE


def output_weight(model: nn.Module) -> Tensor:
    """[vocabulary, width] of the output layer, where logits are that product and nothing more."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    changed = [n for n in _AFTER_HEAD if getattr(model.config, n, None) not in (None, 1.0)]
    if changed or head.bias is not None:
        why = changed[0] if changed else "a bias of its output layer"
        raise CheckpointError(
            f"{type(model).__name__} changes its logits by {why}, so a batch of this size cannot "
            "be scored in chunks; lower micro_batch_rows and micro_batch_tokens, or take a model "
            "without it."
        )
    weight: Tensor = head.weight
    return weight


def row_slices(lengths: Sequence[int], *, rows: int, tokens: int | None = None) -> Iterator[slice]:
    """Cut a sequence of rows, in their order, into batches that a device can hold.

    Args:
        lengths: tokens of each row.
        rows: rows of a batch at most.
        tokens: tokens of a batch at most, padding to its longest row included; a row that is
            longer by itself makes a batch alone. None: no such limit.
    """
    begin, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        full = i - begin == rows or (tokens is not None and (i - begin + 1) * longest > tokens)
        if full and i > begin:
            yield slice(begin, i)
            begin, longest = i, length
    if lengths:
        yield slice(begin, len(lengths))


@torch.no_grad()
def sequence_logprobs(
    policy: Policy,
    sequences: Sequence[Scored],
    *,
    batch_rows: int = 128,
    batch_tokens: int | None = None,
) -> list[float]:
    """log p(response | prompt) at temperature 1, summed over the response's tokens, in nats.

    Args:
        sequences: (prompt ids, response ids); the end-of-turn token counts where it is given.
        batch_rows, batch_tokens: limits of a forward pass, see :func:`row_slices`; memory only.
    """
    totals = [0.0] * len(sequences)
    # Rows of like length together: less padding, the same numbers.
    order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    lengths = [sum(map(len, sequences[i])) for i in order]
    for part in row_slices(lengths, rows=batch_rows, tokens=batch_tokens):
        chunk, length = order[part], lengths[part][-1]
        ids = torch.full((len(chunk), length), policy.pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(chunk), length), dtype=torch.bool)
        for row, i in enumerate(chunk):
            prompt, response = sequences[i]
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor((*prompt, *response))
            mask[row, len(prompt) : end] = True
        ids = ids.to(policy.model.device)
        logprob = next_token_logprobs(policy.model, ids, ids[:, 1:])
        logprob = logprob.cpu().masked_fill(~mask[:, 1:], 0.0)
        # Sums of many small terms: the study takes differences of them.
        for i, total in zip(chunk, logprob.double().sum(dim=1).tolist(), strict=True):
            totals[i] = total
    return totals
