"""UFT: how much of a demonstration is given, where it is cut, and what it reduces to."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from bridge.methods.base import StepStats
from bridge.methods.uft import UFT
from bridge.tasks.base import Problem
from tests.fixtures.method_runs import (
    SHARED,
    assert_same_run,
    build,
    curve,
    direction,
    flat_gradient,
    make_group,
    ratio,
    relative_distance,
    row_logprobs,
    train,
    with_prefixes,
)
from tests.fixtures.tiny_run import load_double, make_options, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")

SHOWN = "a = 3 + 4 = 7 ; b = 7 * 2 = 4 ; c = 4 - 5 = 9 ; \\boxed{ 9 }"
PROBLEM = Problem("p", "mod 10 : a = 3 + 4 ; find a", "9", 3, demonstration=SHOWN)


make_uft = functools.partial(build, UFT, steps=500)


def test_the_share_of_the_hint_falls_by_a_cosine_and_ends() -> None:
    method = make_uft(hint_steps=300)
    assert [method.hint_share(step) for step in (1, 300, 301, 500)] == [0.95, 0.05, 0.0, 0.0]
    assert method.hint_share(150) == pytest.approx(0.5, abs=0.005)


def test_the_number_of_parts_is_binomial() -> None:
    method = make_uft()
    drawn = [method.parts(80, place) for place in range(4000)]
    q = method.hint_share(80)
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(5 * q, abs=4 * (5 * q * (1 - q) / 4000) ** 0.5)
    spread = sum((k - mean) ** 2 for k in drawn) / len(drawn)
    assert spread == pytest.approx(5 * q * (1 - q), rel=0.1)


def test_a_hint_ends_with_a_step_of_the_demonstration(base: Path) -> None:
    method = make_uft(base=base)
    given = [method.demonstration_ids(PROBLEM)[: method.cut(PROBLEM, k)] for k in range(6)]
    texts = [method.policy.text(list(ids)) for ids in given]
    first, second, third = (
        SHOWN[: SHOWN.index(step)].strip() for step in ("b =", "c =", "\\boxed")
    )
    assert texts == ["", first, first, second, third, SHOWN]
    assert given[5] == method.demonstration_ids(PROBLEM)[:-1]  # to end the turn is left to it


def test_a_demonstration_without_a_cut_point_is_cut_between_tokens(base: Path) -> None:
    problem = Problem("p", "q", "7", 1, demonstration="\\boxed{ 7 }")
    assert [make_uft(base=base).cut(problem, k) for k in range(6)] == [0, 0, 1, 1, 2, 3]
    assert make_uft(base=base).cut(Problem("p", "q", "7", 1), 5) == 0


def test_all_answers_of_a_prompt_get_the_same_hint(base: Path) -> None:
    method = make_uft(base=base, q_start=1.0, q_end=1.0)
    requests = method.requests([PROBLEM, Problem("plain", "q", "7", 1)], 1)
    assert [(r.n, len(r.prefix_ids)) for r in requests] == [(6, method.cut(PROBLEM, 5)), (6, 0)]


def test_the_gradient_is_that_of_the_written_loss(base: Path) -> None:
    policy = load_double(base)
    groups = [
        with_prefixes(make_group([1.0, 0.0, 0.0], name="a", shown=1.0, seed=3), 1, 1, 0),
        make_group([1.0, 0.0], name="b"),
    ]
    method = make_uft(make_training(norm_adv_by_std_in_grpo=False), beta=0.3)
    found = direction(policy, method, groups)
    rl, hint, own, given = 0.0, 0.0, 0, 0
    for group in groups:
        for row, reward in zip(group.rows, group.rewards, strict=True):
            logprob, cut = row_logprobs(policy, row), row.prefix_tokens
            advantage = reward - sum(group.rewards) / len(group.rewards)
            rl = rl - (advantage * ratio(logprob))[cut:].sum()
            hint = hint - logprob[:cut].sum()
            own, given = own + len(logprob) - cut, given + cut
    expected = flat_gradient(policy, rl / own + 0.3 * hint / given)
    assert relative_distance(found, expected) < 1e-6


def test_a_step_without_hints_has_no_hint_term() -> None:
    counts = {"rl": 5, "demonstration": 0}
    assert make_uft().mix(400, StepStats(400, (), counts, counts)) == (1.0, 0.0)


def test_without_hints_it_is_grpo_with_the_same_kl(base: Path, tmp_path: Path) -> None:
    options = make_options("uft", hint_steps=0, beta=0.0, demonstrated_share=0.0)
    uft = train(make_spec(base, "uft", options=options, kl_coef=0.05), tmp_path)
    grpo = train(make_spec(base, "rl_zero", kl_coef=0.05), tmp_path)
    assert_same_run(uft, grpo, *SHARED, "kl")


def test_hints_reach_the_loss_of_a_run(base: Path, tmp_path: Path) -> None:
    options = make_options("uft", q_start=1.0, q_end=1.0, demonstrated_share=1.0)
    folder = train(make_spec(base, "uft", options=options), tmp_path)
    assert all(loss > 0 for (loss,) in curve(folder, "demonstration_loss")[1:])
