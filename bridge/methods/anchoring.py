"""The anchor of an SFT stage: KL from the reference's distributions to the policy's.

    KL(q_t, p_t) = sum over the vocabulary of q_t (log q_t - log p_t),    q: the reference policy

on the demonstration tokens, so its gradient in the policy's logits is p_t - q_t.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bridge.step.batches import MicroBatch, StepBatch, micro_batches
from bridge.step.gradients import Gradient
from bridge.step.objectives.aggregation import token_weights
from bridge.step.reference import Reference
from bridge.step.scoring import LOGITS_AT_ONCE, output_weight, too_many_logits
from bridge.step.trainer import Trainer


def anchor_gradient(trainer: Trainer, batch: StepBatch) -> tuple[Gradient, float]:
    """Gradient of the anchor, aggregated as the demonstration term is, and its value in nats.

    The whole model of both policies is asked, so it works in one process only.
    """
    config, policy = trainer.training, trainer.policy
    reference = cast(Reference, trainer.reference)
    rows = [batch.rows[i] for i in batch.places_of("demonstration")]
    total = 0.0
    policy.refresh()
    with reference.active(), trainer.collecting():
        for micro in micro_batches(
            [rows[i] for i in trainer.pass_order(rows)],
            "demonstration",
            size=config.micro_batch_rows,
            tokens=config.micro_batch_tokens,
            pad_token_id=policy.sampler.pad_token_id,
            device=policy.sampler.model.device,
        ):
            kl = kl_per_token(policy.sampler.model, reference.model, micro)
            weights = token_weights(
                micro.mask,
                mode=config.sft_loss_agg_mode,
                total_tokens=batch.n_tokens("demonstration"),
                total_rows=len(rows),
                norm_length=config.max_response_tokens,
                dtype=kl.dtype,
            )
            loss = (kl * weights[micro.mask]).sum()
            total += loss.item()
            policy.backward(loss)
    n_tokens = sum(len(row.prompt_ids) + len(row.response_ids) for row in rows)
    trainer.tokens_trained += n_tokens
    trainer.tokens_scored += n_tokens
    return Gradient(policy.take_gradient(), ranks=trainer.ranks), total


def kl_per_token(model: nn.Module, reference: nn.Module, micro: MicroBatch) -> Tensor:
    """KL(reference, model) [masked tokens] in nats, differentiable in the model's weights."""
    ids, mask = micro.input_ids, micro.mask
    if not too_many_logits(model, micro.targets):
        ours = model(input_ids=ids, use_cache=False).logits[:, :-1][mask]
        with torch.no_grad():
            theirs = reference(input_ids=ids, use_cache=False).logits[:, :-1][mask]
        return forward_kl(ours, theirs)
    ours = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1][mask]  # type: ignore[operator]
    with torch.no_grad():
        theirs = reference.base_model(input_ids=ids, use_cache=False)[0][:, :-1][mask]  # type: ignore[operator]
    heads = output_weight(model), output_weight(reference).detach()
    size = max(1, LOGITS_AT_ONCE // len(heads[0]))
    # Logits of a chunk at a time, made again in the backward pass.
    parts = [
        checkpoint(_kl_of_hidden, own, other, *heads, use_reentrant=False)
        for own, other in zip(ours.split(size), theirs.split(size), strict=True)
    ]
    return torch.cat(parts)


def _kl_of_hidden(ours: Tensor, theirs: Tensor, head: Tensor, their_head: Tensor) -> Tensor:
    return forward_kl(ours @ head.T, theirs @ their_head.T)


def forward_kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """KL(target, policy) [tokens] of distributions given by logits [tokens, vocabulary]."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = logits.to(dtype).log_softmax(-1)
    log_q = target_logits.detach().to(dtype).log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)
