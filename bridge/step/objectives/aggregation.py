"""From per-token losses to one scalar, independent of how the batch was cut.

The loss of a global batch is a sum over its tokens of weight x per-token loss, and the weight
of a token depends on its own row and on *global* counts only. So the micro-batch losses add
up to the full-batch loss, and neither the split, the row order, the padding nor the number of
ranks can change the gradient. (Averaging micro-batch means instead gives short answers more
weight: arXiv 2604.23747.)

Where an engine averages gradients over ranks (DDP, DeepSpeed), multiply the loss by the number
of ranks; the counts stay global.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

LossAggMode = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]


def token_weights(
    mask: Tensor,
    *,
    mode: LossAggMode,
    total_tokens: int,
    total_rows: int,
    norm_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weight of each token of a micro-batch; `masked_sum(loss, weights)` is its share of the loss.

    With m the mask, N = total_tokens, R = total_rows and len_i the loss tokens of row i:

    - `token-mean`: m / N (DAPO, arXiv 2503.14476, eq. 8).
    - `seq-mean-token-sum`: m / R.
    - `seq-mean-token-mean`: m / (R len_i) (GRPO, arXiv 2402.03300, eq. 3).
    - `seq-mean-token-sum-norm`: m / (R norm_length) (Dr.GRPO, arXiv 2503.20783): the paper's
      mean over answers of the token sum, over a constant such as the longest allowed answer.
      Recent verl divides by the global rows and by `loss_scale_factor`, as here; its default
      factor is the padded width of the batch, and older versions divided by that width alone,
      i.e. R times larger. A width that depends on padding is not offered.

    The names are verl's `loss_agg_mode`. A row without loss tokens gets zero weights and still
    counts in R when the caller counts it. Count every row of the term's global batch, also rows
    skipped because their advantage is zero or masked because they were truncated: then leaving
    such rows out of the update does not rescale the others. This is verl's rule when it is
    given the global batch size. A row lies whole in one micro-batch.

    Args:
        mask: [rows, len], bool or 0/1, true on the tokens of this loss term.
        mode: one of `LossAggMode`.
        total_tokens: loss tokens of this term over all micro-batches and ranks.
        total_rows: rows of this term over all micro-batches and ranks.
        norm_length: tokens; required by `seq-mean-token-sum-norm`, ignored by the other modes.
        dtype: dtype of the result.

    Returns:
        [rows, len], zero exactly where the mask is zero.

    Raises:
        ValueError: a mask that is not two-dimensional, an unknown mode, a count below one, or
            a missing norm_length.
    """
    if mask.dim() != 2:
        raise ValueError(f"mask must be [rows, len], got {list(mask.shape)}")
    if total_tokens < 1:
        raise ValueError(
            f"total_tokens is {total_tokens}: the global batch has no loss token for this term, "
            "so its mean is undefined; skip the term in this step"
        )
    if total_rows < 1:
        raise ValueError(f"total_rows is {total_rows}, must be at least 1")
    keep = (mask != 0).to(dtype)
    if mode == "token-mean":
        return keep / total_tokens
    if mode == "seq-mean-token-sum":
        return keep / total_rows
    if mode == "seq-mean-token-mean":
        # [rows, 1]; an empty row has only zeros above, the clamp just avoids 0 / 0
        row_tokens = keep.sum(dim=1, keepdim=True).clamp(min=1.0)
        return keep / (row_tokens * total_rows)
    if mode == "seq-mean-token-sum-norm":
        if norm_length is None or norm_length < 1:
            raise ValueError(f"{mode} needs norm_length of at least 1 token, got {norm_length}")
        return keep / (total_rows * norm_length)
    raise ValueError(f"unknown loss_agg_mode {mode!r}, known: {', '.join(get_args(LossAggMode))}")


def zero_masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` with zeros where `mask` is zero; value and gradient are clean there.

    Selects instead of multiplying, since 0 x NaN and 0 x inf are NaN. Apply it to log-prob
    columns *before* a per-token loss when masked positions may hold NaN or inf: the chain rule
    through exp() would otherwise turn the zero gradient back into NaN.

    Args:
        values, mask: [rows, len]; the mask is bool, 0/1 or a weight.
    """
    return torch.where(mask != 0, values, torch.zeros_like(values))


def masked_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of weights x values over the positions with a non-zero weight; a scalar.

    A mask is a weight of one. NaN or inf where the weight is zero changes neither the sum nor
    the gradient with respect to `values`.

    Args:
        values, weights: [rows, len].
    """
    return (weights * zero_masked(values, weights)).sum()
