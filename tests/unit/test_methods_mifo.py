"""MIFO: what enters, what is learnt, what is frozen, and that without all three it is ReLIFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.methods.mifo import MIFO
from bridge.run.state import Run
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    train,
)
from tests.fixtures.tiny_run import load_double, make_method, make_options, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")

RUN: dict[str, Any] = {"sft_batch_size": 2, "n": 2}  # of two rollouts both are often wrong


def make(**options: Any) -> MIFO:
    method = make_method("mifo", make_training(sft_batch_size=2), **options)
    assert isinstance(method, MIFO)
    return method


def mifo(steps: int, **options: Any) -> dict[str, Any]:
    return make_options("mifo", steps, demonstrated_share=1.0, **options)


@pytest.mark.parametrize(("q", "expected"), [(0.0, "a"), (0.25, "ab"), (0.5, "abc"), (1.0, "abcd")])
def test_prompts_up_to_a_share_of_right_rollouts_enter(q: float, expected: str) -> None:
    method = make(q=q)
    rewards = [0.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0] * 4
    groups = [make_group(r, name=n, shown=1.0) for r, n in zip(rewards, "abcd", strict=True)]
    method.rows(groups, (), 1)
    assert "".join(row.problem.id for _, row in method.buffer) == expected


def test_the_sft_gradient_is_that_of_the_written_loss(base: Path) -> None:
    """Half of each demonstration, over the count of all of it."""
    policy = load_double(base)
    method = make(rho=0.5, freeze_share=0.0)
    groups = [make_group([0.0, 0.0], name=name, shown=1.0) for name in "ab"]
    method.rows(groups, (), 1)
    method._importance = [torch.zeros_like(p) for p in policy.model.parameters()]
    shown = [row for _, row in method.buffer]
    found = direction(policy, method, (), step=2)
    loss = torch.zeros((), dtype=torch.float64)
    for row in shown:
        logprob, prompt = row_logprobs(policy, row), len(row.prompt_ids)
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        full = policy.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        entropy = -(full.exp() * full).sum(-1)[prompt - 1 : -1]
        loss = loss - logprob[entropy.topk((len(logprob) + 1) // 2).indices].sum()
    expected = flat_gradient(policy, loss / sum(len(row.response_ids) for row in shown))
    assert relative_distance(found, expected) < 1e-6


def test_importance_adds_up_and_fades() -> None:
    base = [torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.0]))]
    method = make(alpha=0.5, freeze_share=0.5)
    method._start = [torch.tensor([1.0, 0.0, 0.0, 0.5])]
    assert method._frozen(base)[0].tolist() == [False, True, True, False]
    assert method._importance[0].tolist() == [0.0, 2.0, 3.0, 0.5]
    assert method._frozen(base)[0].sum() == 2  # no RL step in between: nothing is added
    method._start = [torch.tensor([5.0, -2.0, 3.0, 0.0])]
    assert method._frozen(base)[0].tolist() == [True, False, True, False]
    assert method._importance[0].tolist() == [4.0, 1.0, 1.5, 0.25]
    dagger = make(alpha=0.0)
    dagger._importance, dagger._start = [torch.ones(4)], [torch.zeros(4)]
    dagger._frozen(base)
    assert dagger._importance[0].tolist() == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_sft_step_leaves_its_share_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    changed: list[tuple[str, float]] = []
    original = Run.step

    def spy(self: Run) -> dict[str, Any]:
        def flat() -> Tensor:
            return torch.cat([p.detach().flatten() for p in self.policy.parameters["base"]])

        before = flat().clone()
        line = original(self)
        changed.append((line["kind"], float((flat() != before).double().mean())))
        return line

    monkeypatch.setattr(Run, "step", spy)
    train(make_spec(base, "mifo", options=mifo(6, freeze_share=share, q=1.0), **RUN), tmp_path)
    sft = [moved for kind, moved in changed if kind == "sft"]
    assert sft and all(moved <= 1.0 - share + 1e-4 for moved in sft)
    assert share == 1.0 or all(moved > 0.5 * (1.0 - share) for moved in sft)


def test_without_its_three_changes_it_is_relift(base: Path, tmp_path: Path) -> None:
    plain = mifo(8, q=0.0, rho=1.0, freeze_share=0.0)
    ours = train(make_spec(base, "mifo", options=plain, **RUN), tmp_path)
    options = make_options("relift", 8, demonstrated_share=1.0)
    theirs = train(make_spec(base, "relift", options=options, **RUN), tmp_path)
    assert_same_run(ours, theirs, "kind", "rl_loss", "demonstration_loss", "grad_norm", "buffered")
    assert {kind for (kind,) in curve(ours, "kind")} == {"probe", "rl", "sft"}


def test_several_ranks_are_refused() -> None:
    sharded = make_training(sharding={"stage": "zero2", "ranks": 2})
    with pytest.raises(ConfigError, match=r"^here: mifo needs whole weights"):
        make_method("mifo", sharded).check("here")
