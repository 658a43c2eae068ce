"""Weighted likelihood of demonstration tokens: most supervised terms differ only in c_t."""

from torch import Tensor

from bridge.step.objectives._shapes import require_per_token


def weighted_nll(logprob: Tensor, token_weight: Tensor | None = None) -> Tensor:
    """-sg[c_t] log p_t per token, whose gradient is -c_t grad log p_t.

    The weight is detached here, also where it was computed from the policy's own
    probabilities, so no gradient flows through c_t whatever the caller passes.

    Args:
        logprob: [rows, len], log-probability of the demonstration token, nats.
        token_weight: c_t, [rows, len] or [rows, 1]; None is plain SFT, c_t = 1.

    Returns:
        Loss per token, [rows, len], not yet masked or aggregated.

    Raises:
        ValueError: a shape that does not fit.
    """
    if token_weight is None:
        return -logprob
    require_per_token("token_weight", token_weight, logprob)
    return -token_weight.detach() * logprob
