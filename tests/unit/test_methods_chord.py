"""CHORD: the schedule of mu, the phi weight and its mean, and what it reduces to."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from bridge.methods.base import StepStats
from bridge.methods.chord import Chord
from bridge.step.batches import MicroBatch
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    build,
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    same_weights,
    train,
    weight_at,
)
from tests.fixtures.tiny_run import load_double, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")


make_chord = functools.partial(build, Chord, steps=30)


def phi_of(p: torch.Tensor) -> torch.Tensor:
    return weight_at(make_chord(phi=True), p)


# -- the schedule -------------------------------------------------------------------------------


def test_mu_falls_along_half_a_cosine_and_stays() -> None:
    method = make_chord(mu_start=0.9, mu_end=0.05, mu_steps=20)
    assert method.mu(1) == pytest.approx(0.9)
    assert method.mu(6) == pytest.approx(0.05 + 0.85 * (1 + 0.5**0.5) / 2)
    assert method.mu(11) == pytest.approx((0.9 + 0.05) / 2)  # half of the decay
    assert [method.mu(step) for step in (21, 22, 30)] == [pytest.approx(0.05)] * 3
    steps = [method.mu(step) for step in range(1, 31)]
    assert steps == sorted(steps, reverse=True)
    assert method.mix(11, StepStats(11)) == pytest.approx((0.525, 0.475))


def test_phi_holds_mu() -> None:
    method = make_chord(phi=True, mu_start=0.1)
    assert {method.mu(step) for step in range(1, 31)} == {0.1}


def test_the_stream_has_a_size_of_its_own() -> None:
    assert make_chord(demo_batch=7).demonstrations_wanted(1) == 7
    assert make_chord().demonstrations_wanted(1) == make_training().sft_batch_size


# -- the weight ---------------------------------------------------------------------------------


def test_the_phi_weight_is_symmetric_with_a_quarter_at_most() -> None:
    p = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
    phi = phi_of(p)
    assert torch.allclose(phi, p * (1 - p), atol=1e-15)
    assert torch.allclose(phi, phi.flip(0), atol=1e-15)
    assert float(phi.max()) == 0.25 and float(p[phi.argmax()]) == 0.5


def test_the_mu_variant_weighs_all_tokens_alike() -> None:
    row = torch.ones(1, 1)
    batch = MicroBatch((), row, row, row > 0, row, logprob=-row)
    assert make_chord().token_weight(batch) is None


@pytest.mark.parametrize("options", [{}, {"phi": True}, {"phi": True, "renormalise": True}])
@pytest.mark.parametrize("rows", [1, 1000])
def test_the_gradient_is_that_of_the_written_loss(
    base: Path, rows: int, options: dict[str, bool]
) -> None:
    policy = load_double(base)
    method = make_chord(make_training(micro_batch_rows=rows), mu_start=0.3, **options)
    group = make_group([1.0, 0.0, 0.0], name="g")
    shown = [make_group([], name=name, shown=1.0).demonstration for name in "abcd"]
    demonstrations = [row for row in shown if row is not None]
    found = direction(policy, method, [group], demonstrations)

    rollouts = [(row, row_logprobs(policy, row)) for row in method.rows([group], (), 1)]
    rl = torch.cat([-row.advantage * (lp - lp.detach()).exp() for row, lp in rollouts]).mean()
    logprob = torch.cat([row_logprobs(policy, row) for row in demonstrations])
    p = logprob.detach().exp()
    c = p * (1 - p) if "phi" in options else torch.ones_like(p)
    if "renormalise" in options:
        c = c / c.mean()
    taught = -(c * logprob).mean()
    expected = flat_gradient(policy, 0.7 * rl + 0.3 * taught)
    assert relative_distance(found, expected) < 1e-6


def test_renormalising_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: options\.renormalise .* set options\.phi"):
        make_chord(renormalise=True).check("here")
    make_chord(renormalise=True, phi=True).check("here")


# -- reductions ---------------------------------------------------------------------------------


def test_without_mu_it_is_rl_zero(base: Path, tmp_path: Path) -> None:
    options = {"mu_start": 0.0, "mu_end": 0.0}
    chord = train(make_spec(base, "chord", options=options), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(chord, rl_zero)


def test_with_mu_alone_it_is_sft_on_its_stream(base: Path, tmp_path: Path) -> None:
    options = {"mu_start": 1.0, "mu_end": 1.0, "demo_batch": 5}
    chord = train(make_spec(base, "chord", options=options), tmp_path)
    spec = make_spec(base, "sft", lr_sft=make_training().lr_rl, sft_batch_size=5)
    assert same_weights(chord, train(spec, tmp_path))
    assert [mu for (mu,) in curve(chord, "mu")[1:]] == [1.0] * 3
