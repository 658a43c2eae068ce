"""Weighted likelihood: value, gradient, and no gradient through c_t."""

import pytest
import torch

from bridge.step.objectives.likelihood import weighted_nll


def test_no_weight_is_plain_sft() -> None:
    logprob = torch.tensor([[-0.5, -2.0]], requires_grad=True)
    loss = weighted_nll(logprob)
    loss.sum().backward()
    assert loss.tolist() == [[0.5, 2.0]]
    assert logprob.grad is not None and logprob.grad.tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize("shape", [(3, 4), (3, 1)])
def test_value_and_gradient(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logprob = -torch.rand(3, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    logprob.requires_grad_(True)
    loss = weighted_nll(logprob, weight)
    loss.sum().backward()
    assert logprob.grad is not None
    for i in range(3):
        for t in range(4):
            c = weight[i, t if shape[1] > 1 else 0].item()
            assert loss[i, t].item() == pytest.approx(-c * logprob[i, t].item())
            assert logprob.grad[i, t].item() == pytest.approx(-c)


def test_weight_made_of_the_same_probabilities_gets_no_gradient() -> None:
    """DFT's c = p. With a path through c the gradient would be -p (1 + log p), not -p."""
    logprob = torch.tensor([[-0.1, -1.0, -3.0]], dtype=torch.float64, requires_grad=True)
    weighted_nll(logprob, logprob.exp()).sum().backward()
    assert logprob.grad is not None
    torch.testing.assert_close(logprob.grad, -logprob.detach().exp())

    scale = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    weighted_nll(logprob, scale).sum().backward()
    assert scale.grad is None


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 2), (3, 3, 1)])
def test_weight_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="token_weight"):
        weighted_nll(torch.zeros(3, 3), torch.ones(shape))
