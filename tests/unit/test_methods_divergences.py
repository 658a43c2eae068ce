"""The divergences of self-distillation: values, gradients and limits, against plain formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.methods.divergences import Divergence

V = 12
FORMS = ["sampled", "reverse", "forward", "js"]


def logits(seed: int = 0, tokens: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, g = 2.0 * torch.randn(2, tokens, V, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), g, torch.randint(V, (tokens,), generator=generator)


def gradient(form: Divergence, z: Tensor, g: Tensor, y: Tensor) -> Tensor:
    return torch.autograd.grad(form(z, g, y)[0].sum(), z)[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_gradients_are_the_written_ones(form: Any) -> None:
    z, g, y = logits()
    p, q, w = z.detach().softmax(-1), g.softmax(-1), 0.3

    def centred(d: Tensor) -> Tensor:
        return p * (d - (p * d).sum(-1, keepdim=True))

    one = torch.nn.functional.one_hot(y, V)
    c = (q / p).log().gather(-1, y[:, None])
    middle = (1 - w) * p + w * q
    expected = {
        "sampled": -c * (one - p),
        "reverse": centred((p / q).log()),
        "forward": p - q,
        "js": (1 - w) * centred((p / middle).log()),
    }[form]
    assert torch.allclose(gradient(Divergence(form, js_weight=w), z, g, y), expected, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_that_agrees_teaches_nothing(form: Any) -> None:
    z, _, y = logits()
    assert gradient(Divergence(form), z, z.detach(), y).abs().max() < 1e-15


def test_over_all_tokens_the_sampled_form_is_reverse_kl() -> None:
    z, g, _ = logits(tokens=1)
    p = z.detach().softmax(-1)[0]
    parts = [p[v] * gradient(Divergence("sampled"), z, g, torch.tensor([v])) for v in range(V)]
    reverse = gradient(Divergence("reverse"), z, g, torch.tensor([0]))
    assert torch.allclose(torch.stack(parts).sum(0), reverse, atol=1e-14)


def test_a_teacher_that_is_certain_is_sft() -> None:
    z, _, y = logits()
    certain = torch.full((5, V), -1e9, dtype=torch.float64).scatter(1, y[:, None], 0.0)
    found = gradient(Divergence("forward"), z, certain, y)
    nll = torch.autograd.grad(-z.log_softmax(-1).gather(-1, y[:, None]).sum(), z)[0]
    assert torch.allclose(found, nll, atol=1e-12)


def test_js_is_symmetric_at_a_half_and_a_quarter_of_kl_nearby() -> None:
    z, g, y = logits()
    js = Divergence("js")
    assert torch.allclose(js(z, g, y)[0], js(g, z, y)[0])
    near = z.detach() + 1e-3 * g
    ratio = js(z, near, y)[0] / Divergence("forward")(z, near, y)[0]
    assert ratio.tolist() == pytest.approx([0.25] * 5, rel=0.01)


@pytest.mark.parametrize("w", [1e-6, 1 - 1e-6])
def test_js_over_its_factor_tends_to_either_kl(w: float) -> None:
    z, g, y = logits()
    found = Divergence("js", js_weight=w)(z, g, y)[0] / (w * (1 - w))
    limit = Divergence("forward" if w < 0.5 else "reverse")(z, g, y)[0]
    assert torch.allclose(found, limit, rtol=1e-3)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("support", [V, V + 5])
def test_a_support_of_all_tokens_or_more_is_the_vocabulary(tail: bool, support: int) -> None:
    z, g, y = logits()
    found = Divergence("forward", support=support, tail=tail)(z, g, y)[0]
    assert torch.equal(found, Divergence("forward")(z, g, y)[0])


def test_what_a_support_leaves_out() -> None:
    z, g, y = logits()
    q, p = g.softmax(-1), z.detach().softmax(-1)
    kept = q.topk(4).indices
    a, b = q.gather(1, kept), p.gather(1, kept)
    rest = 1 - a.sum(1), 1 - b.sum(1)
    whole = (a * (a / b).log()).sum(1) + rest[0] * (rest[0] / rest[1]).log()
    a, b = (x / x.sum(1, keepdim=True) for x in (a, b))
    bare = (a * (a / b).log()).sum(1)
    assert torch.allclose(Divergence("forward", support=4)(z, g, y)[0], bare)
    assert torch.allclose(Divergence("forward", support=4, tail=True)(z, g, y)[0], whole)


def test_a_clipped_token_keeps_its_value_and_loses_its_gradient() -> None:
    z, g, y = logits()
    free = Divergence("forward")(z, g, y)[0].detach()
    limit = float(free.median())
    clipped = Divergence("forward", clip=limit)
    assert torch.equal(clipped(z, g, y)[0].detach(), free.clamp(max=limit))
    assert ((gradient(clipped, z, g, y).abs().sum(1) == 0) == (free > limit)).all()


def test_temperature_divides_both() -> None:
    z, g, y = logits()
    hot = Divergence("js", temperature=2.0)(z, g, y)[0]
    assert torch.equal(hot, Divergence("js")(z / 2, g / 2, y)[0])
