"""Token weights: the definitions, and invariance under split, order and padding."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bridge.step.objectives.aggregation import LossAggMode, masked_sum, token_weights, zero_masked

MODES = get_args(LossAggMode)
NORM_LENGTH = 11


def slow_loss(losses: list[list[float]], mode: str) -> float:
    """The definition of each mode over rows of unpadded losses, in plain Python."""
    rows = len(losses)
    if mode == "token-mean":
        flat = [x for row in losses for x in row]
        return sum(flat) / len(flat)
    if mode == "seq-mean-token-sum":
        return sum(sum(row) for row in losses) / rows
    if mode == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in losses if row) / rows
    assert mode == "seq-mean-token-sum-norm"
    return sum(sum(row) / NORM_LENGTH for row in losses) / rows


def padded(losses: list[list[float]], extra: int = 0, left: int = 0) -> tuple[Tensor, Tensor]:
    """Losses and mask of [rows, width], with NaN at the padding."""
    width = left + max((len(row) for row in losses), default=0) + extra
    values = torch.full((len(losses), width), torch.nan, dtype=torch.float64)
    mask = torch.zeros(len(losses), width, dtype=torch.bool)
    for i, row in enumerate(losses):
        values[i, left : left + len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, left : left + len(row)] = True
    return values, mask


def loss_in_pieces(pieces: list[list[list[float]]], mode: LossAggMode, **padding: int) -> float:
    """Sum of the micro-batch losses, each padded to its own width."""
    total_rows = sum(len(piece) for piece in pieces)
    total_tokens = sum(len(row) for piece in pieces for row in piece)
    total = 0.0
    for piece in pieces:
        values, mask = padded(piece, **padding)
        weights = token_weights(
            mask,
            mode=mode,
            total_tokens=total_tokens,
            total_rows=total_rows,
            norm_length=NORM_LENGTH,
            dtype=torch.float64,
        )
        total += float(masked_sum(values, weights))
    return total


batches = st.lists(st.lists(st.floats(-5, 5), max_size=8), min_size=1, max_size=7).filter(
    lambda rows: any(rows)
)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(losses=batches, data=st.data())
def test_any_cut_order_and_padding_gives_the_definition(
    mode: LossAggMode, losses: list[list[float]], data: st.DataObject
) -> None:
    expected = slow_loss(losses, mode)
    order = data.draw(st.permutations(range(len(losses))))
    shuffled = [losses[i] for i in order]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(losses)))) | {0, len(losses)})
    pieces = [shuffled[a:b] for a, b in pairwise(cuts)]
    extra, left = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    assert loss_in_pieces(pieces, mode, extra=extra, left=left) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("micro", [1, 2, 3, 6])
def test_gradient_of_a_model_is_the_same_for_every_split(mode: LossAggMode, micro: int) -> None:
    """Through shared parameters, with another order and wider padding in the split run."""
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 9, 4, 0, 7, 2]
    features = torch.randn(6, 12, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(12)[None, :] < torch.tensor(lengths)[:, None]  # [6, 12]

    def gradient(batches: list[Tensor], width: int) -> Tensor:
        parameter = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64, requires_grad=True)
        for rows in batches:
            per_token = torch.tanh(features[rows, :width] @ parameter).square()
            weights = token_weights(
                mask[rows, :width],
                mode=mode,
                total_tokens=sum(lengths),
                total_rows=6,
                norm_length=NORM_LENGTH,
                dtype=torch.float64,
            )
            masked_sum(per_token, weights).backward()
        assert parameter.grad is not None
        return parameter.grad

    whole = gradient([torch.arange(6)], width=9)
    split = gradient(list(torch.tensor([4, 0, 3, 5, 1, 2]).split(micro)), width=12)
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-12)


def test_mean_of_micro_batch_means_is_another_gradient() -> None:
    """The published bug on 8 sequences of 2 to 60 tokens: short answers take over the sign."""
    lengths = [2, 3, 4, 6, 10, 25, 40, 60]
    # d loss / d parameter of each token: +1 in the short answers, -1 in the long ones
    slopes = [[1.0 if n < 20 else -1.0] * n for n in lengths]
    true = (2 + 3 + 4 + 6 + 10 - 25 - 40 - 60) / 150

    def mean_of_means(micro: int) -> float:
        chunks = [slopes[i : i + micro] for i in range(0, 8, micro)]
        return sum(slow_loss(chunk, "token-mean") for chunk in chunks) / len(chunks)

    for micro in (1, 2, 4, 8):
        pieces = [slopes[i : i + micro] for i in range(0, 8, micro)]
        assert loss_in_pieces(pieces, "token-mean") == pytest.approx(true, abs=1e-12)
    assert mean_of_means(8) == pytest.approx(true)
    assert mean_of_means(1) == pytest.approx(+0.25)  # against -0.667: the sign flips
    assert abs(mean_of_means(2) - true) > 0.3
    assert abs(mean_of_means(4) - true) > 0.3


def test_rows_without_tokens_count_as_rows_only_where_rows_are_counted() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    expected = {
        "token-mean": 1 / 2,
        "seq-mean-token-sum": 1 / 2,
        "seq-mean-token-mean": 1 / 4,
        "seq-mean-token-sum-norm": 1 / 22,
    }
    for mode in MODES:
        weights = token_weights(
            mask, mode=mode, total_tokens=2, total_rows=2, norm_length=NORM_LENGTH
        )
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, mask * expected[mode])


@pytest.mark.parametrize("mode", MODES)
def test_integer_and_float_masks_mean_the_same(mode: LossAggMode) -> None:
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    weights = [
        token_weights(m, mode=mode, total_tokens=5, total_rows=4, norm_length=3)
        for m in (mask, mask.bool(), mask.to(torch.float64), mask.to(torch.bfloat16))
    ]
    for other in weights[1:]:
        assert torch.equal(other, weights[0])


def test_nan_and_inf_under_the_mask_touch_neither_sum_nor_gradient() -> None:
    values = torch.tensor([[1.0, torch.nan, torch.inf], [-torch.inf, 2.0, 5.0]], requires_grad=True)
    weights = torch.tensor([[0.5, 0.0, 0.0], [0.0, 2.0, 0.0]])
    total = masked_sum(values, weights)
    total.backward()
    assert total.item() == 4.5
    assert values.grad is not None and torch.equal(values.grad, weights)


def test_visible_nan_is_not_hidden() -> None:
    assert masked_sum(torch.tensor([[torch.nan, 1.0]]), torch.tensor([[1.0, 1.0]])).isnan()


def test_zero_masked_stops_nan_before_an_exponential() -> None:
    logprob = torch.tensor([[-1.0, torch.nan, torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, False, False]])
    masked_sum(zero_masked(logprob, mask).exp(), mask).backward()
    assert logprob.grad is not None
    torch.testing.assert_close(logprob.grad, torch.tensor([[-1.0, 0.0, 0.0]]).exp() * mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_tokens": 0}, "no loss token"),
        ({"total_rows": 0}, "total_rows"),
        ({"mode": "token-sum"}, "unknown loss_agg_mode"),
        ({"norm_length": None}, "norm_length"),
        ({"norm_length": 0}, "norm_length"),
        ({"mask": torch.ones(3)}, "mask must be"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "mask": torch.ones(1, 3),
        "mode": "seq-mean-token-sum-norm",
        "total_tokens": 3,
        "total_rows": 1,
        "norm_length": 3,
    }
    with pytest.raises(ValueError, match=message):
        token_weights(**(arguments | change))  # type: ignore[arg-type]
