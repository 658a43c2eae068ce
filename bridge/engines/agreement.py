"""Whether an engine has the weights that are trained: both score the same few tokens after a push.

A push that was lost, incomplete, or that left a packed copy at old values shows before anything is
sampled. Left out: a lost push of an update so small that it moves these log-probs by less than the
tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bridge.step.protocols import Weights
from bridge.store.records import RecordError

TOLERANCE_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Mean |difference| of the log-probs by the precision of both models. In bfloat16 logits around 20
have steps of 0.125."""
_QUESTION = "What is 1 + 1?"


@torch.no_grad()
def check_agreement(trained: Weights, logprobs: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Compare an engine with the trainer; all ranks make this call together.

    Args:
        logprobs: the engine's log-probs [n - 1] of n tokens, each after those before it.

    Raises:
        RecordError: they differ by more than the tolerance.
    """
    model = trained.sampler.model
    ids = trained.sampler.prompt_ids(_QUESTION)
    tokens = torch.tensor([ids], device=model.device)
    expected = trained.score(tokens, tokens[:, 1:], 1.0)[0].float().cpu()
    gap = float((torch.tensor(logprobs(ids)) - expected).abs().mean())
    tolerance = TOLERANCE_NATS[model.dtype]
    if not gap <= tolerance:
        raise RecordError(
            f"after a push of the weights vLLM's log-probs differ from the trainer's by {gap:.3g} "
            f"nats on average, more than {tolerance}, so it would sample from other weights than "
            "those being trained; this is a bug of the engine's weight sync, set engine: native."
        )
