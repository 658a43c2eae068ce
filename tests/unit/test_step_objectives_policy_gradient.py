"""The clipped policy loss against a loop, and its four sign / side cases."""

import math

import pytest
import torch
from torch import Tensor

from bridge.step.objectives.aggregation import masked_sum, token_weights, zero_masked
from bridge.step.objectives.policy_gradient import MAX_LOG_RATIO, clipped_policy_loss

CLIPS = [(0.2, 0.2), (0.2, 0.28), (None, 0.2), (0.2, None), (None, None), (0.0, 0.0), (1.0, 3.0)]


def random_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """logprob, old_logprob [5, 7] with ratios of about 0.3 to 3, advantage [5, 7]."""
    generator = torch.Generator().manual_seed(seed)
    logprob, step, advantage = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    logprob = -logprob.abs()
    return logprob, logprob - 0.5 * step, advantage


def slow_loss(
    logprob: float, old: float, advantage: float, low: float | None, high: float | None
) -> float:
    ratio = math.exp(logprob - old)
    bounded = ratio
    if low is not None:
        bounded = max(bounded, 1 - low)
    if high is not None:
        bounded = min(bounded, 1 + high)
    return -min(ratio * advantage, bounded * advantage)


@pytest.mark.parametrize(("low", "high"), CLIPS)
def test_matches_a_loop_in_value_and_finite_difference(
    low: float | None, high: float | None
) -> None:
    logprob, old, advantage = random_batch()
    logprob.requires_grad_(True)
    loss, _ = clipped_policy_loss(logprob, old, advantage, clip_low=low, clip_high=high)
    loss.sum().backward()
    assert logprob.grad is not None
    h, detached = 1e-6, logprob.detach()
    for index in torch.cartesian_prod(torch.arange(5), torch.arange(7)).tolist():
        lp, o, a = (float(t[tuple(index)]) for t in (detached, old, advantage))
        assert loss[tuple(index)].item() == pytest.approx(slow_loss(lp, o, a, low, high))
        slope = (slow_loss(lp + h, o, a, low, high) - slow_loss(lp - h, o, a, low, high)) / (2 * h)
        assert logprob.grad[tuple(index)].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # the policy already moved far enough the way A wants: constant, no gradient
        (1.5, +2.0, -2.0 * 1.28, 0.0, "high"),
        (0.5, -2.0, +2.0 * 0.8, 0.0, "low"),
        # it moved the wrong way: never clipped
        (1.5, -2.0, +3.0, +3.0, "no"),
        (0.5, +2.0, -1.0, -1.0, "no"),
        # inside the range, and A = 0
        (1.1, +2.0, -2.2, -2.2, "no"),
        (0.9, -2.0, +1.8, +1.8, "no"),
        (9.0, 0.0, 0.0, 0.0, "no"),
    ],
)
def test_sign_and_side(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: str
) -> None:
    logprob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    per_token, stats = clipped_policy_loss(
        logprob,
        torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([[advantage]], dtype=torch.float64),
        clip_low=0.2,
        clip_high=0.28,
    )
    per_token.sum().backward()
    assert logprob.grad is not None
    assert per_token.item() == pytest.approx(loss)
    assert logprob.grad.item() == pytest.approx(gradient)
    assert stats.ratio.item() == pytest.approx(ratio)
    assert (stats.clipped_low.item(), stats.clipped_high.item()) == (
        clipped == "low",
        clipped == "high",
    )


def test_statistics_mark_exactly_the_tokens_without_gradient() -> None:
    logprob, old, advantage = random_batch(1)
    logprob.requires_grad_(True)
    loss, stats = clipped_policy_loss(logprob, old, advantage, clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    assert logprob.grad is not None
    assert torch.equal(stats.clipped_low | stats.clipped_high, logprob.grad == 0)
    assert stats.clipped_low.any() and stats.clipped_high.any()
    assert not any(tensor.requires_grad for tensor in stats)


def test_on_policy_gradient_is_minus_the_advantage() -> None:
    logprob, _, advantage = random_batch(2)
    logprob.requires_grad_(True)
    loss, _ = clipped_policy_loss(logprob, logprob, advantage, clip_low=0.2, clip_high=0.2)
    loss.sum().backward()
    assert logprob.grad is not None
    torch.testing.assert_close(logprob.grad, -advantage)


def test_row_advantage_broadcasts_along_tokens_and_gets_no_gradient() -> None:
    logprob, old, advantage = random_batch(3)
    row = advantage[:, :1].clone().requires_grad_(True)
    old = old.requires_grad_(True)
    logprob.requires_grad_(True)
    loss, stats = clipped_policy_loss(logprob, old, row, clip_low=0.2, clip_high=0.2)
    full = row.detach().expand(5, 7)
    expected, _ = clipped_policy_loss(logprob, old, full, clip_low=0.2, clip_high=0.2)
    loss.sum().backward()
    assert torch.equal(loss, expected)
    assert stats.clipped_low.shape == (5, 7)
    assert row.grad is None and old.grad is None and logprob.grad is not None


@pytest.mark.parametrize("distance", [-200.0, 200.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_far_apart_policies_stay_finite(distance: float, advantage: float) -> None:
    logprob = torch.full((1, 1), distance, requires_grad=True)
    loss, stats = clipped_policy_loss(
        logprob, torch.zeros(1, 1), torch.full((1, 1), advantage), clip_low=None, clip_high=None
    )
    loss.sum().backward()
    assert logprob.grad is not None
    expected = math.exp(math.copysign(MAX_LOG_RATIO, distance))
    assert stats.ratio.item() == pytest.approx(expected, rel=1e-5)
    assert loss.isfinite().all() and logprob.grad.item() == 0.0


def test_nan_in_masked_columns_is_harmless_after_zero_masked() -> None:
    logprob, old, advantage = random_batch(4)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(5)) < 0.6
    weights = token_weights(
        mask, mode="token-mean", total_tokens=int(mask.sum()), total_rows=5, dtype=torch.float64
    )

    def run(fill: float) -> tuple[Tensor, Tensor]:
        column = logprob.masked_fill(~mask, fill).requires_grad_(True)
        loss, _ = clipped_policy_loss(
            zero_masked(column, mask),
            zero_masked(old.masked_fill(~mask, fill), mask),
            advantage,
            clip_low=0.2,
            clip_high=0.2,
        )
        total = masked_sum(loss, weights)
        total.backward()
        assert column.grad is not None
        return total.detach(), column.grad

    for clean, dirty in zip(run(0.0), run(math.nan), strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize(
    ("old_shape", "advantage_shape", "low", "high", "message"),
    [
        ((3, 2), (3, 1), 0.2, 0.2, "old_logprob"),
        ((3, 3), (3,), 0.2, 0.2, "advantage"),
        ((3, 3), (1, 3), 0.2, 0.2, "advantage"),
        ((3, 3), (3, 1), 1.5, 0.2, "clip_low"),
        ((3, 3), (3, 1), -0.1, 0.2, "clip_low"),
        ((3, 3), (3, 1), 0.2, -0.1, "clip_high"),
        ((3, 3), (3, 1), 0.2, math.nan, "clip_high"),
    ],
)
def test_bad_arguments_are_refused(
    old_shape: tuple[int, ...],
    advantage_shape: tuple[int, ...],
    low: float,
    high: float,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        clipped_policy_loss(
            torch.zeros(3, 3),
            torch.zeros(old_shape),
            torch.zeros(advantage_shape),
            clip_low=low,
            clip_high=high,
        )
