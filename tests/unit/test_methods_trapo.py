"""TRAPO: rounds of micro-groups, the trust region on given tokens, and what it reduces to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.methods.trapo import Trapo
from bridge.step.rows import Group
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    DR_GRPO,
    assert_same_run,
    build,
    direction,
    flat_gradient,
    make_group,
    ratio,
    relative_distance,
    row_logprobs,
    train,
    weight_at,
    with_prefixes,
)
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_options,
    make_spec,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")


def make_trapo(training: Any = None, **options: Any) -> Trapo:
    return build(Trapo, training or make_training(n=8), **options)


def weights_at(p: list[float], **options: Any) -> list[float]:
    return weight_at(make_trapo(**options), torch.tensor(p, dtype=torch.float64), -3.0).tolist()


# -- rounds -------------------------------------------------------------------------------------


def test_a_round_gives_a_prefix_to_the_prompts_that_fail(base: Path) -> None:
    method = make_trapo(base=base)
    shown = [make_group([], name=name, shown=1.0).problem for name in "ab"]
    assert [(r.n, r.prefix_ids) for r in method.requests(shown, 1)] == [(4, ())] * 2
    hard, easy = (
        make_group([0.0] * 4, name="a", shown=1.0),
        make_group([1.0] * 4, name="b", shown=1.0),
    )
    ids = method.demonstration_ids(hard.problem)
    groups: list[Group] = [hard, easy]
    for round_, (n, given) in enumerate(
        [(2, int(0.2 * len(ids))), (1, len(ids) // 2), (1, len(ids))]
    ):
        requests = method.followup(groups, round_, lambda n: [])
        assert [(r.n, len(r.prefix_ids)) for r in requests] == [(n, given), (n, 0)]
        groups += [make_group([0.0] * n, name="a", shown=1.0), make_group([1.0] * n, name="b")]
    assert requests[0].prefix_ids == ids  # with its end of turn: nothing is left to sample
    assert method.followup(groups, 3, lambda n: []) == []
    assert [g.rewards for g in method.regroup(groups)] == [[0.0] * 8, [1.0] * 8]


def test_a_prompt_without_a_demonstration_gets_no_prefix() -> None:
    method = make_trapo()
    (request,) = method.followup([make_group([0.0] * 4)], 0, lambda n: [])
    assert (request.n, request.prefix_ids) == (2, ())


def test_the_threshold_looks_at_all_earlier_answers(base: Path) -> None:
    method = make_trapo(base=base)
    first = make_group([1.0, 1.0, 1.0, 0.0], shown=1.0)  # 0.75 is not below 0.5
    assert not method.followup([first], 0, lambda n: [])[0].prefix_ids
    second = make_group([0.0, 0.0], shown=1.0)  # with the first four 0.5, below 0.7
    assert method.followup([first, second], 1, lambda n: [])[0].prefix_ids


def test_a_whole_demonstration_is_not_continued(base: Path, tmp_path: Path) -> None:
    """Its row has no RL token, its reward is the demonstration's, and nothing is generated."""
    options = make_options(
        "trapo",
        2,
        micro_groups=(2, 2),
        ratios=(0.0, 1.0),
        thresholds=(-1.0, 2.0),
        demonstrated_share=1.0,
    )
    folder = train(make_spec(base, "trapo", options=options, dataset={"slip": 0.0}), tmp_path)
    for line in read_lines(folder.dynamics)[1:]:
        assert line["reward_mean"] >= 0.5 and line["demonstration_loss"] > 0


# -- the weight and the gradient ----------------------------------------------------------------


def test_the_weight_at_eight_probabilities() -> None:
    """The values of the one-coefficient table in docs/methods/README.md."""
    p = [0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99]
    assert weights_at(p) == pytest.approx([0.1, 0.5, 1, 1, 1, 1, 1, 1])
    assert weights_at(p, alpha=1.0) == pytest.approx(p)  # DFT
    assert weights_at(p, alpha=1e-9) == [1.0] * 8  # plain likelihood


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-sum-norm"])
def test_the_gradient_is_that_of_the_written_loss(base: Path, mode: str) -> None:
    policy = load_double(base)
    modes: dict[str, Any] = {"loss_agg_mode": mode, "sft_loss_agg_mode": mode}
    training = make_training(micro_batch_rows=2, **modes)
    groups = [
        with_prefixes(make_group([1.0, 0.0, 0.0], name="a", shown=1.0, seed=3), 0, 2, 9),
        make_group([0.0, 1.0], name="b"),
    ]
    found = direction(policy, make_trapo(training), groups)
    rows = [(row, group) for group in groups for row in group.rows]
    loss = torch.zeros((), dtype=torch.float64)
    for row, group in rows:
        logprob, cut = row_logprobs(policy, row), row.prefix_tokens
        assert row.reward is not None
        advantage = row.reward - sum(group.rewards) / len(group.rewards)
        loss = loss - (advantage * ratio(logprob))[cut:].sum()
        p = logprob[:cut].exp()
        loss = loss - (p / p.detach().clamp(min=0.1)).sum()
    n_tokens = sum(len(row.response_ids) for row, _ in rows)
    scale = n_tokens if mode == "token-mean" else len(rows) * training.max_response_tokens
    expected = flat_gradient(policy, loss / scale)
    assert relative_distance(found, expected) < 1e-6


# -- reductions ---------------------------------------------------------------------------------


def test_in_one_round_it_is_dr_grpo(base: Path, tmp_path: Path) -> None:
    options = {"micro_groups": (6,), "ratios": (0.0,), "thresholds": (-1.0,)}
    ours = train(make_spec(base, "trapo", options=options, **DR_GRPO), tmp_path)
    theirs = train(make_spec(base, "rl_zero", **DR_GRPO), tmp_path)
    assert_same_run(ours, theirs, "reward_mean", "rl_loss", "grad_norm", "zero_spread_share")


def test_without_thresholds_its_update_is_that_of_dr_grpo(base: Path) -> None:
    """In four rounds the answers have other random numbers; the update on them is the same."""
    training = make_training(n=8, **DR_GRPO)
    method = make_trapo(training, base=base, thresholds=(-1.0,) * 4)
    groups = [make_group([0.0] * 3 + [1.0], name=name, shown=1.0) for name in "ab"]
    for round_, n in enumerate((2, 1, 1)):
        requests = method.followup(groups, round_, lambda n: [])
        assert not any(request.prefix_ids for request in requests)
        groups += [make_group([0.0] * n, name=name, shown=1.0, seed=round_) for name in "ab"]
    whole = method.regroup(groups)
    policy = load_double(base)
    ours = direction(policy, method, whole)
    assert torch.equal(ours, direction(policy, make_method("rl_zero", training), whole))


def test_impossible_rounds_are_refused() -> None:
    make_trapo().check("here")
    for options, message in (
        ({"micro_groups": (4, 2, 1)}, r"has 7 answers, but training\.n is 8"),
        ({"ratios": (0.0, 0.5, 1.0)}, "one entry a round"),
        ({"ratios": (0.1, 0.2, 0.5, 1.0)}, "begin with 0"),
        ({"ratios": (0.0, 0.2, 0.5, 1.5)}, "from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_trapo(**options).check("here")
    modes = dict.fromkeys(("loss_agg_mode", "sft_loss_agg_mode"), "seq-mean-token-mean")
    with pytest.raises(ConfigError, match="take another mode"):
        make_trapo(make_training(n=8, **modes)).check("here")
