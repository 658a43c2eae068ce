"""GAC: what it measures, how mu follows, and what it reduces to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bridge.methods.gac import GAC
from bridge.step.batches import StepBatch
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    build,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    train,
)
from tests.fixtures.tiny_run import load_double, make_options, make_spec, make_training, read_lines

pytestmark = pytest.mark.usefixtures("no_workers")

FREE = {"mu_min": 0.0, "mu_max": 1.0, "cap": 1.0}


def make_gac(measured: dict[str, float] | None = None, **options: Any) -> GAC:
    training = make_training(norm_adv_by_std_in_grpo=False)
    method = build(GAC, training, **{"steps": 1000, **options})
    method.measured = measured or {"distance": 1.0, "sft": 2.0, "rl": 3.0}
    return method


def test_the_optimum_minimises_the_error() -> None:
    method = make_gac(alpha=0.3)

    def error(mu: float) -> float:
        return (mu - 0.3) ** 2 * 1.0 + mu**2 * 2.0 + (1 - mu) ** 2 * 3.0

    best = min(range(1001), key=lambda i: error(i / 1000)) / 1000
    assert method.optimum == pytest.approx(best, abs=1e-3)


def test_the_limits_of_the_optimum() -> None:
    assert make_gac({"distance": 0.0, "sft": 2.0, "rl": 3.0}).optimum == 0.6
    far = make_gac({"distance": 1e12, "sft": 2.0, "rl": 3.0}, alpha=0.3)
    assert far.optimum == pytest.approx(0.3)
    assert make_gac(dict.fromkeys(("distance", "sft", "rl"), 0.0), alpha=0.3).optimum == 0.3


def test_the_schedule_rises_and_falls() -> None:
    method = make_gac()
    steps = (1, 100, 200, 201, 601, 1001, 1500)
    expected = [0.85 / 200, 0.425, 0.85, 0.85, 0.5, 0.15, 0.15]
    assert [method.prior(step) for step in steps] == pytest.approx(expected)


def test_as_released_the_schedule_decides() -> None:
    """Under constant inputs mu settles at about .990 prior + .010 mu*."""
    method = make_gac(valley=0.15, prior_warmup=0, prior_decay=1)
    for step in range(2, 400):
        method._steer(step)
    assert method.mu == pytest.approx((0.5 * 0.15 + 0.005 * method.optimum) / (1 - 0.495), abs=1e-6)
    own = make_gac(valley=0.15, prior_warmup=0, prior_decay=1, smooth_from="own")
    for step in range(2, 3000):
        own._steer(step)
    assert own.mu == pytest.approx(0.5 * 0.15 + 0.5 * own.optimum, abs=1e-4)


def test_mu_moves_by_the_cap_at_most_and_stays_in_its_bounds() -> None:
    method = make_gac(blend=1.0, smooth=0.0, cap=0.01)
    method._steer(1)
    assert method.mu == pytest.approx(0.51)
    bounded = make_gac(blend=1.0, smooth=0.0, cap=1.0, mu_max=0.55)
    bounded._steer(1)
    assert bounded.mu == 0.55
    fixed = make_gac(cap=0.0, start=0.4)
    fixed._steer(1)
    assert fixed.mu == 0.4


def test_what_is_measured(base: Path) -> None:
    method = make_gac(ema=0.0)
    groups = [make_group([1.0, 0.0, 0.0], name="a"), make_group([1.0, 1.0], name="b")]
    rows = method.rows(groups, (), 1)
    shown = {100 + i: [-0.1 * i, -0.3 * i] for i in range(20)}
    method._measure(StepBatch(tuple(rows)), shown)
    advantages = [2 / 3, -1 / 3, -1 / 3, 0.0, 0.0]
    assert method.measured["rl"] == pytest.approx(sum(a * a for a in advantages) / 5)
    nll = [0.2 * i for i in range(2, 18)]
    mean = sum(nll) / 16
    assert method.measured["sft"] == pytest.approx(sum((x - mean) ** 2 for x in nll) / 16)

    def gap(p: float, advantage: float) -> float:
        return (advantage - p * (1 - p)) ** 2

    gaps = [gap(1.0, a) for a in advantages]  # the fixture's rollouts have p = 1
    gaps += [sum(gap(math.exp(x), 0.0) for x in logprobs) / 2 for logprobs in shown.values()]
    assert method.measured["distance"] == pytest.approx(sum(gaps) / 25)


def test_the_gradient_is_that_of_the_written_loss(base: Path) -> None:
    policy = load_double(base)
    groups = [make_group([1.0, 0.0, 0.0], name="a", shown=1.0)]
    shown = groups[0].demonstration
    assert shown is not None
    method = make_gac(blend=1.0, smooth=0.0, ema=0.0, **FREE)
    found = direction(policy, method, groups, [shown])
    rl = sum(
        (-a * (lp - lp.detach()).exp()).sum()
        for a, lp in zip(
            [2 / 3, -1 / 3, -1 / 3], [row_logprobs(policy, r) for r in groups[0].rows], strict=True
        )
    ) / sum(len(r.response_ids) for r in groups[0].rows)
    logprob = row_logprobs(policy, shown)
    p = logprob.detach().exp()
    loss = (1 - method.optimum) * rl - method.optimum * (p * (1 - p) * logprob).mean()
    expected = flat_gradient(policy, loss)
    assert relative_distance(found, expected) < 1e-6


@pytest.mark.parametrize("phi", [False, True])
def test_without_the_estimate_it_is_chord(base: Path, tmp_path: Path, phi: bool) -> None:
    mu = {"peak": 0.8, "valley": 0.8 if phi else 0.1, "prior_warmup": 0, "prior_decay": 2}
    options = make_options("gac", blend=0.0, phi=phi, **FREE, **mu)
    ours = train(make_spec(base, "gac", options=options), tmp_path)
    theirs = {"mu_start": 0.8, "mu_end": 0.1, "mu_steps": 2, "phi": phi}
    chord = train(make_spec(base, "chord", options=theirs), tmp_path)
    assert_same_run(ours, chord, "mu", "rl_loss", "demonstration_loss", "grad_norm")


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: options\.mu_min is above"):
        make_gac(mu_min=0.95).check("here")


def test_its_numbers_are_logged(base: Path, tmp_path: Path) -> None:
    folder = train(make_spec(base, "gac", options=make_options("gac", 2)), tmp_path)
    for line in read_lines(folder.dynamics)[1:]:
        assert {"mu", "mu_optimum", "gac_rl", "gac_sft", "gac_distance"} <= set(line)
