"""The tokens of each row that the policy is least sure of.

Imported by methods where they have tensors: the module needs torch. Rows carry the column
``entropy`` (:mod:`bridge.methods.columns`).
"""

from __future__ import annotations

import math

from torch import Tensor

from bridge.step.batches import MicroBatch
from bridge.step.rl_loss import spread


def entropy_mask(batch: MicroBatch, share: float) -> Tensor:
    """1 on the share (rounded up) of a row's loss tokens with the highest entropy, else 0.

    Shares are of a row, so the split into micro-batches does not matter; of equal entropies the
    first is kept.

    Returns:
        [rows, tokens]
    """
    assert batch.logprob is not None
    kept = []
    for row in batch.rows:
        entropy = batch.logprob.new_tensor(row.columns["entropy"])
        order = entropy.argsort(descending=True, stable=True)
        n = math.ceil(share * len(entropy) - 1e-9)  # 0.1 x 30 is a little more than 3
        kept.append(entropy.new_zeros(len(entropy)).index_fill(0, order[:n], 1.0))
    return spread(kept, batch, batch.logprob.new_zeros(batch.logprob.shape))
