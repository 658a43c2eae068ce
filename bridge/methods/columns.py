"""Columns of a batch: numbers about each loss token that its weight is made from.

They are computed once per update, without gradient and at the weights before it, and only those
that a method names:

``logprob``       log-prob of the token, in nats
``entropy``       of the whole next-token distribution, in nats
``topk_mass``     probability of its k likeliest tokens together
``topk_entropy``  entropy of these k, renormalised among themselves, in nats
``reference``     log-prob of the token under the reference policy

The first four come from one pass of the policy. What was sampled is scored at the sampling
temperature, what was demonstrated at 1, as in the update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bridge.models.checkpoint import Policy
from bridge.step.batches import StepBatch, micro_batches, term_tokens
from bridge.step.rows import Row, Term
from bridge.step.scoring import LOGITS_AT_ONCE, output_weight, too_many_logits
from bridge.step.trainer import Trainer
from bridge.store.settings import TrainingConfig

REFERENCE = "reference"


def with_columns(
    trainer: Trainer,
    batch: StepBatch,
    needs: Sequence[str],
    *,
    term: Term = "demonstration",
    top_k: int = 1,
) -> StepBatch:
    """The batch with the columns on the rows of a term."""
    places = batch.places_of(term)
    if not needs or not places:
        return batch
    # In the order of the passes, so that equal weights give equal log-probs to the last bit.
    places = [places[i] for i in trainer.pass_order([batch.rows[i] for i in places])]
    rows = [batch.rows[i] for i in places]
    columns: list[dict[str, Tensor]] = [{} for _ in rows]
    own = [name for name in needs if name != REFERENCE]
    if own:
        with trainer.policy.whole_model():
            columns = distribution_columns(
                trainer.policy.sampler, rows, own, trainer.training, term=term, top_k=top_k
            )
    if REFERENCE in needs:
        assert trainer.reference is not None, "a method that asks for it has uses_reference"
        with trainer.reference.active() as score:
            found = trainer.logprobs(term, StepBatch(tuple(rows)), score)
        for i, logprob in found.items():
            columns[i][REFERENCE] = logprob
    passes = bool(own) + (REFERENCE in needs)
    trainer.tokens_scored += passes * sum(len(r.prompt_ids) + len(r.response_ids) for r in rows)
    out = list(batch.rows)
    for place, row, values in zip(places, rows, columns, strict=True):
        out[place] = _with(row, values)
    return replace(batch, rows=tuple(out))


def _with(row: Row, columns: dict[str, Tensor]) -> Row:
    values = {name: tuple(column.tolist()) for name, column in columns.items()}
    return replace(row, columns={**row.columns, **values})


@torch.no_grad()
def distribution_columns(
    policy: Policy,
    rows: Sequence[Row],
    names: Sequence[str],
    config: TrainingConfig,
    *,
    term: Term = "demonstration",
    top_k: int = 1,
) -> list[dict[str, Tensor]]:
    """Columns [loss tokens], on the host, of each row that come from a policy's distributions."""
    model = policy.model
    temperature = config.temperature if term == "rl" else 1.0
    out: list[dict[str, Tensor]] = []
    for micro in micro_batches(
        rows,
        term,
        size=config.micro_batch_rows,
        tokens=config.micro_batch_tokens,
        pad_token_id=policy.pad_token_id,
        device=model.device,
    ):
        targets, parts, begin = micro.targets[micro.mask], [], 0
        for logits in scored_logits(model, micro.input_ids, micro.mask):
            end = begin + len(logits)
            parts.append(columns_of(logits / temperature, targets[begin:end], names, top_k))
            begin = end
        lengths = [term_tokens(row, term) for row in micro.rows]
        whole = {n: torch.cat([p[n] for p in parts]).cpu().split(lengths) for n in names}
        out += [{n: whole[n][i] for n in names} for i in range(len(micro.rows))]
    return out


def columns_of(
    logits: Tensor, targets: Tensor, names: Sequence[str], top_k: int
) -> dict[str, Tensor]:
    """Columns [tokens] of distributions given by their logits [tokens, vocabulary]."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    out = {}
    for name in names:
        if name == "logprob":
            out[name] = log_p.gather(-1, targets[:, None])[:, 0]
        elif name == "entropy":
            out[name] = torch.special.entr(log_p.exp()).sum(-1)
        elif name == "topk_mass":
            out[name] = log_p.topk(top_k).values.exp().sum(-1)
        elif name == "topk_entropy":
            among = log_p.topk(top_k).values.softmax(-1)
            out[name] = torch.special.entr(among).sum(-1)
        else:
            raise ValueError(f"no column is called {name!r}")
    return out


def scored_logits(model: nn.Module, input_ids: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Logits [tokens, vocabulary] at the masked positions, as many at a time as may exist.

    Args:
        input_ids: [rows, tokens + 1], padded on the right.
        mask: [rows, tokens], bool: whose next token is asked for.
    """
    if not too_many_logits(model, mask):
        yield model(input_ids=input_ids, use_cache=False).logits[:, :-1][mask]
        return
    hidden = model.base_model(input_ids=input_ids, use_cache=False)[0]  # type: ignore[operator]
    weight = output_weight(model)
    for part in hidden[:, :-1][mask].split(max(1, LOGITS_AT_ONCE // len(weight))):
        yield part @ weight.T
