"""SRFT: its four terms, the entropies that weigh them, and the whole gradient against autograd."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.methods.luffy import Luffy
from bridge.methods.srft import SRFT
from bridge.models.checkpoint import Policy
from bridge.step.batches import micro_batches
from bridge.step.rows import Group, Row
from tests.fixtures.method_runs import (
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_distributions,
    row_logprobs,
    train,
)
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_options,
    make_spec,
    make_training,
)

pytestmark = pytest.mark.usefixtures("no_workers")


def make(**options: Any) -> SRFT:
    training = make_training(micro_batch_rows=3, norm_adv_by_std_in_grpo=False)
    method = make_method("srft", training, **options)
    assert isinstance(method, SRFT)
    return method


def groups() -> list[Group]:
    return [
        make_group([0.0, 0.0, 0.0], name="failed", shown=1.0),
        make_group([1.0, 0.0, 1.0], name="mixed", shown=0.0),
        make_group([1.0, 0.0, 0.0, 0.0], name="plain"),
    ]


def test_rewards_are_plus_and_minus_one() -> None:
    rows = make().rows(groups(), (), 1)
    assert [row.advantage for row in rows[:6]] == [-1.0, -1.0, -1.0, 1.0, -1.0, 1.0]
    # Among its three rollouts and itself: +1 of a mean of -1/2, and -1 of a mean of 0.
    assert [row.advantage for row in rows if row.kind == "demonstration"] == [1.5, -1.0]


def test_the_demonstration_takes_the_place_of_a_rollout() -> None:
    problems = [make_group([], name="plain").problem, make_group([], shown=1.0).problem]
    assert [r.n for r in make().requests(problems, 1)] == [6, 5]
    assert [r.n for r in make(n_demo=0).requests(problems, 1)] == [6, 6]
    assert all(row.kind == "rollout" for row in make(n_demo=0).rows(groups(), (), 1))


def entropies(policy: Policy, rows: list[Row], scope: str) -> list[float]:
    """Of each row, or the mean over the tokens of all."""
    every = [row_distributions(policy, row).detach() for row in rows]
    found = [-(log_p.exp() * log_p).sum(-1) for log_p in every]
    if scope == "row":
        return [h.mean().item() for h in found]
    return [torch.cat(found).mean().item()] * len(rows)


def written_loss(policy: Policy, rows: list[Row], scope: str, sign: int) -> Tensor:
    """The four terms, row by row: (a) and (b) over their tokens, (c) and (d) over theirs."""
    taught = [row for row in rows if row.kind == "demonstration"]
    right = [row for row in rows if row.kind == "rollout" and row.reward == 1.0]
    wrong = [row for row in rows if row.kind == "rollout" and row.reward == 0.0]
    demonstration = rl = torch.zeros((), dtype=torch.float64)
    for row, h in zip(taught, entropies(policy, taught, scope), strict=True):
        logprob = row_logprobs(policy, row)
        demonstration = demonstration - 0.5 * math.exp(sign * h) * logprob.sum()
        demonstration = demonstration - row.advantage * logprob.exp().sum()
    for row, h in zip(right, entropies(policy, right, scope), strict=True):
        rl = rl - 0.1 * math.exp(h) * row_logprobs(policy, row).sum()
    for row in wrong:
        rl = rl + row_logprobs(policy, row).sum()

    def tokens(some: list[Row]) -> int:
        return sum(len(row.response_ids) for row in some)

    return demonstration / tokens(taught) + rl / tokens([*right, *wrong])


@pytest.mark.parametrize("scope", ["batch", "row"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_gradient_is_that_of_the_written_loss(base: Path, scope: str, sign: int) -> None:
    policy, method = load_double(base), make(entropy_scope=scope, entropy_sign=sign)
    rows = method.rows(groups(), (), 1)
    expected = flat_gradient(policy, written_loss(policy, rows, scope, sign))
    found = direction(policy, method, groups())
    assert relative_distance(found, expected) < 1e-9


def test_without_demonstrations_and_entropy_it_is_reinforce_without_a_baseline(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.methods.srft.exp", lambda entropy: 1.0)
    policy, method = load_double(base), make(w_demo=0.0, n_demo=0, w_pos=1.0)
    rows = [row for group in groups() for row in group.rows]
    signs = [1.0 if row.reward == 1.0 else -1.0 for row in rows]
    loss = sum(-s * row_logprobs(policy, r).sum() for s, r in zip(signs, rows, strict=True))
    n_tokens = sum(len(row.response_ids) for row in rows)
    expected = flat_gradient(policy, loss / n_tokens)  # type: ignore[arg-type]
    found = direction(policy, method, groups())
    assert relative_distance(found, expected) < 1e-9


def test_the_off_policy_term_is_luffys_without_shaping() -> None:
    rows = [
        Row(**{**row.__dict__, "columns": {"likelihood": (0.0,) * len(row.response_ids)}})
        for row in make().rows(groups(), (), 1)
        if row.kind == "demonstration"
    ]
    luffy = Luffy(Luffy.Options(steps=3, shape=False), make_training())
    device = torch.device("cpu")
    (micro,) = micro_batches(rows, "demonstration", size=9, pad_token_id=0, device=device)
    shape = micro.targets.shape
    logprob = -torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    micro = type(micro)(**{**micro.__dict__, "logprob": logprob})
    ours, theirs = make().token_weight(micro), luffy.token_weight(micro)
    assert torch.equal(ours, theirs)


def test_its_entropies_are_logged(base: Path, tmp_path: Path) -> None:
    options = make_options("srft", 2, demonstrated_share=1.0)
    folder = train(make_spec(base, "srft", options=options), tmp_path)
    keys = ("entropy_demonstrations", "entropy_right_rollouts", "demonstration_loss")
    assert all(None not in line for line in curve(folder, *keys)[1:])
    assert all(h > 0 for h, *_ in curve(folder, *keys)[1:])
