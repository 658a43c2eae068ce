"""Per-token estimators of KL(pi || ref) from sampled tokens, and the exact entropy.

The estimators are those of J. Schulman, "Approximating KL divergence" (2020), with
u = log pi - log ref of a token sampled from pi. They agree on the value and differ in the
gradient. In the loss, with samples from the current pi, the *expected* gradient per token is:

| name                | value           | bias | expected gradient in the loss        |
|---------------------|-----------------|------|--------------------------------------|
| `k1`                | u               | none | zero: it regularises nothing         |
| `k2`                | u^2 / 2         | some | that of KL(pi || ref)                |
| `k3`, `low_var_kl`  | exp(-u) - 1 + u | none | that of KL(ref || pi), the other way |

GRPO's usual penalty is k3 in the loss (arXiv 2402.03300, eq. 4). k1 subtracted from the
*reward* has, like k2 in the loss, the gradient of KL(pi || ref). "Expected gradient" is at a
given prefix: the effect of a token on the KL of later tokens is not in it.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3", "low_var_kl"]

MAX_LOG_RATIO = 20.0
"""k3 treats u < -20 as -20 (value 4.9e8, zero gradient), so that exp(-u) stays finite."""


def kl_per_token(logprob: Tensor, ref_logprob: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate of KL(pi || ref) for each sampled token; see the module for values and gradients.

    In k3 the clamp covers both places where u stands. Clamping the exponential alone would
    leave the gradient of the linear part, which points away from the reference.

    Args:
        logprob: [rows, len], log pi of the sampled token, nats.
        ref_logprob: [rows, len], log ref of the same token, nats; detached here.
        estimator: `k1`, `k2`, `k3`, or `low_var_kl`, verl's name of k3.

    Returns:
        [rows, len], nats; k1 may be negative, k2 and k3 are not.

    Raises:
        ValueError: different shapes or an unknown estimator.
    """
    if logprob.shape != ref_logprob.shape:
        raise ValueError(
            f"ref_logprob is {list(ref_logprob.shape)}, logprob is {list(logprob.shape)}"
        )
    u = logprob - ref_logprob.detach()
    if estimator == "k1":
        return u
    if estimator == "k2":
        return 0.5 * u.square()
    if estimator in ("k3", "low_var_kl"):
        u = u.clamp(min=-MAX_LOG_RATIO)
        return torch.expm1(-u) + u  # expm1: exp(-u) - 1 loses all digits when u is small
    raise ValueError(f"unknown estimator {estimator!r}, known: {', '.join(get_args(KlEstimator))}")
