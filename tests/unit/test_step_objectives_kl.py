"""KL estimators against the exact KL of random categoricals; the entropy against a loop."""

import math

import pytest
import torch
from torch import Tensor

from bridge.step.objectives.kl import MAX_LOG_RATIO, kl_per_token


def two_policies(seed: int, size: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of the policy (with gradient) and log-probabilities of the reference, [size]."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, size, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(True), torch.log_softmax(reference, dim=0)


def exact_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def in_loss(logits: Tensor, log_ref: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """Expectation over all tokens, samples held fixed: value, and gradient in the logits."""
    log_p = torch.log_softmax(logits, dim=0)
    per_token = kl_per_token(log_p[None], log_ref[None], estimator)  # type: ignore[arg-type]
    value = (log_p.detach().exp() * per_token[0]).sum()
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("seed", range(5))
def test_values(seed: int) -> None:
    logits, log_ref = two_policies(seed)
    log_p = torch.log_softmax(logits, dim=0).detach()
    exact = exact_kl(log_p, log_ref)
    for estimator in ("k1", "k3", "low_var_kl"):  # unbiased
        torch.testing.assert_close(in_loss(logits, log_ref, estimator)[0], exact)
    second_moment = sum(
        math.exp(p) * (p - q) ** 2 / 2
        for p, q in zip(log_p.tolist(), log_ref.tolist(), strict=True)
    )
    assert in_loss(logits, log_ref, "k2")[0].item() == pytest.approx(second_moment)
    k3_values = kl_per_token(log_p, log_ref, "k3").tolist()
    for p, q, k3 in zip(log_p.tolist(), log_ref.tolist(), k3_values, strict=True):
        assert k3 == pytest.approx(math.exp(q - p) - 1 - (q - p))
        assert k3 >= 0


@pytest.mark.parametrize("seed", range(5))
def test_expected_gradient_in_the_loss(seed: int) -> None:
    logits, log_ref = two_policies(seed)
    log_p = torch.log_softmax(logits, dim=0)
    forward = torch.autograd.grad(exact_kl(log_p, log_ref), logits, retain_graph=True)[0]
    reverse = torch.autograd.grad(exact_kl(log_ref, log_p), logits)[0]
    assert (forward - reverse).abs().max() > 0.01  # the two claims can be told apart
    torch.testing.assert_close(in_loss(logits, log_ref, "k1")[1], torch.zeros_like(logits))
    torch.testing.assert_close(in_loss(logits, log_ref, "k2")[1], forward)
    torch.testing.assert_close(in_loss(logits, log_ref, "k3")[1], reverse)
    torch.testing.assert_close(in_loss(logits, log_ref, "low_var_kl")[1], reverse)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_reference_gets_no_gradient(estimator: str) -> None:
    logprob = torch.tensor([[-1.0]], requires_grad=True)
    reference = torch.tensor([[-2.0]], requires_grad=True)
    kl_per_token(logprob, reference, estimator).sum().backward()  # type: ignore[arg-type]
    assert reference.grad is None and logprob.grad is not None


@pytest.mark.parametrize("distance", [7e-4, 3e-4, -7e-4])
def test_k3_keeps_its_digits_near_zero_in_float32(distance: float) -> None:
    """exp(-u) - 1 + u in float32 is wrong by 1 to 50 % here."""
    logprob = torch.tensor([[distance]])
    u = logprob.item()
    value = kl_per_token(logprob, torch.zeros(1, 1), "k3").item()
    assert value == pytest.approx(math.expm1(-u) + u, rel=1e-3)


def test_k3_far_from_the_reference_is_finite_and_never_pushes_away() -> None:
    logprob = torch.tensor([[-500.0, -19.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[0.0, 0.0, -500.0]])
    value = kl_per_token(logprob, reference, "k3")
    value.sum().backward()
    assert logprob.grad is not None
    assert value[0, 0].item() == pytest.approx(math.exp(MAX_LOG_RATIO) - 1 - MAX_LOG_RATIO)
    assert value[0, 2].item() == 499.0
    assert logprob.grad[0, 0].item() == 0.0  # beyond the clamp; +1 would lower it further
    assert logprob.grad[0, 1].item() == pytest.approx(1 - math.exp(19.0))
    assert logprob.grad[0, 2].item() == 1.0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown estimator"):
        kl_per_token(torch.zeros(1, 1), torch.zeros(1, 1), "k4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ref_logprob"):
        kl_per_token(torch.zeros(2, 2), torch.zeros(2, 1), "k1")
