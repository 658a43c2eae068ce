"""Options of the RL term and of the updates, each against a slow reference or a closed form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from bridge.models.checkpoint import Policy
from bridge.run.state import SYNC_GAP_LIMIT, Run
from bridge.step import scoring
from bridge.step.batches import StepBatch
from bridge.step.objectives.head_logprobs import head_scores
from bridge.step.objectives.policy_gradient import clipped_policy_loss
from bridge.step.rl_loss import sampler_gap
from bridge.step.rows import Phase, Row
from bridge.step.schedules import lr_factor
from bridge.step.weights import BASE
from tests.fixtures.method_runs import kill_before_last_step, make_group, same_weights, train
from tests.fixtures.slow_reference import (
    disturbed,
    flat_gradient,
    relative_error,
    row_logprobs,
    slow_loss,
    span,
)
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_rows,
    make_spec,
    make_trainer,
    make_training,
)


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


# -- the RL term --------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "dual clip": {"clip_ratio_c": 1.05, "clip_ratio_high": 0.3},
    "entropy bonus": {"entropy_coeff": 0.1, "temperature": 0.7},
    "importance": {"tis_imp_ratio_cap": 1.02},
    "all": {
        "clip_ratio_c": 1.1,
        "entropy_coeff": 0.05,
        "tis_imp_ratio_cap": 1.01,
        "loss_agg_mode": "seq-mean-token-mean",
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradient_equal_the_definition(base: Path, policy: Policy, name: str) -> None:
    config = make_training(clip_ratio_low=0.1, **OPTIONS[name])
    rows = make_rows(len(policy.tokenizer))
    temperature = config.temperature
    behaviour = disturbed(load_double(base), 0.04).model
    with torch.no_grad():
        old = {
            i: torch.stack(row_logprobs(behaviour, row, "rl", temperature))
            for i, row in enumerate(rows)
            if len(span(row, "rl"))
        }
    engine = disturbed(load_double(base), 0.02, seed=9).model
    rows = [
        replace(
            row,
            sampled_logprobs=tuple(x.item() for x in row_logprobs(engine, row, "rl", temperature)),
        )
        if row.kind == "rollout"
        else row
        for row in rows
    ]
    expected = slow_loss(policy.model, rows, "rl", config, old=old)
    gradient = flat_gradient(expected, policy.model)
    found = make_trainer(policy, config).gradient("rl", StepBatch(tuple(rows)), old_logprobs=old)
    # Sampled log-probs are kept in float32.
    assert found.loss == pytest.approx(expected.item(), rel=1e-6)
    assert relative_error(found.gradient.flat[BASE], gradient) < 1e-6
    plain = make_training(clip_ratio_low=0.1, temperature=temperature)
    without = slow_loss(policy.model, rows, "rl", plain, old=old)
    assert abs(without.item() - expected.item()) > 1e-6, "the option changes nothing here"


def test_the_dual_clip_by_hand() -> None:
    ratio = torch.tensor([[0.5, 1.0, 2.0, 5.0]])
    for advantage, expected in (
        (-1.0, [0.8, 1.0, 2.0, 3.0]),
        (1.0, [-0.5, -1.0, -1.2, -1.2]),
    ):
        loss, _ = clipped_policy_loss(
            ratio.log(),
            torch.zeros(1, 4),
            torch.full((1, 1), advantage),
            clip_low=0.2,
            clip_high=0.2,
            dual_clip=3.0,
        )
        torch.testing.assert_close(loss, torch.tensor([expected]))
    with pytest.raises(ValueError, match="above 1"):
        clipped_policy_loss(
            ratio.log(),
            torch.zeros(1, 4),
            torch.ones(1, 1),
            clip_low=0.2,
            clip_high=0.2,
            dual_clip=1.0,
        )


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_entropy_from_the_output_layer_in_chunks(chunk_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 6, generator=generator).double().requires_grad_(True)
    weight = torch.randn(11, 6, generator=generator).double().requires_grad_(True)
    targets = torch.randint(11, (2, 4), generator=generator)
    up = torch.randn(2, 2, 4, generator=generator).double()
    log_p = (hidden @ weight.T / 0.7).log_softmax(-1)
    slow = (log_p.gather(-1, targets[..., None])[..., 0], -(log_p.exp() * log_p).sum(-1))
    fast = head_scores(hidden, weight, targets, 0.7, chunk_tokens=chunk_tokens, with_entropy=True)
    grads = []
    for logprob, entropy in (slow, cast(tuple[Tensor, Tensor], fast)):
        loss = (up[0] * logprob + up[1] * entropy).sum()
        grads.append((logprob, entropy, *torch.autograd.grad(loss, (hidden, weight))))
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_the_bonus_is_the_same_through_chunks(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_training(entropy_coeff=0.2)
    batch = StepBatch(tuple(make_rows(len(policy.tokenizer))))
    whole = make_trainer(policy, config).gradient("rl", batch).gradient.flat[BASE].clone()
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 64)
    cut = make_trainer(policy, config).gradient("rl", batch).gradient.flat[BASE]
    assert relative_error(cut, whole) < 1e-10


def test_rows_without_advantage_get_the_bonus(policy: Policy) -> None:
    rows = [
        replace(r, advantage=0.0) for r in make_rows(len(policy.tokenizer)) if r.kind == "rollout"
    ]
    found = make_trainer(policy, make_training(entropy_coeff=0.1)).gradient(
        "rl", StepBatch(tuple(rows))
    )
    assert found.gradient.norm(BASE) > 0


# -- the course of the rate ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("constant", {}, [1, 1, 1, 1]),
        ("constant", {"warmup_ratio": 0.5}, [0.5, 1, 1, 1]),
        ("linear", {}, [1, 0.75, 0.5, 0.25]),
        ("linear", {"min_lr_ratio": 0.2}, [1, 0.8, 0.6, 0.4]),
        ("linear", {"warmup_ratio": 0.5}, [0.5, 1, 1, 0.5]),
        ("cosine", {}, [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
        (
            "cosine",
            {"min_lr_ratio": 0.1},
            [0.1 + 0.45 * (1 + math.cos(math.pi * k / 4)) for k in range(4)],
        ),
        ("linear", {"warmup_ratio": 1.0}, [0.25, 0.5, 0.75, 1]),
    ],
)
def test_rates_by_hand(kind: Any, settings: dict[str, float], expected: list[float]) -> None:
    chosen = {"warmup_ratio": 0.0, "min_lr_ratio": 0.0, **settings}
    found = [lr_factor(kind, step, 4, **chosen) for step in range(1, 5)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "maker"), [("linear", "linear"), ("cosine", "cosine")])
def test_the_falling_part_is_that_of_transformers(kind: Any, maker: str) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(maker, optimizer, num_warmup_steps=3, num_training_steps=20)
    factors = []
    for _ in range(20):
        factors.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    ours = [lr_factor(kind, k, 20, warmup_ratio=0.15, min_lr_ratio=0.0) for k in range(1, 21)]
    assert ours[3:] == pytest.approx(factors[3:])
    assert ours[:3] == pytest.approx(factors[1:4])  # ours has no step at rate 0


@pytest.mark.usefixtures("no_workers")
def test_each_stage_has_its_course(base: Path, tmp_path: Path) -> None:
    spec = make_spec(
        base,
        "cold_start",
        options={"sft_steps": 4, "rl_steps": 2},
        lr_sft=4e-4,
        lr_rl=1e-3,
        sft_lr_scheduler_type="linear",
        lr_warmup_ratio=0.5,
    )
    folder = train(spec, tmp_path)
    rates = [json.loads(line).get("lr") for line in folder.dynamics.read_text().splitlines()][1:]
    assert rates == pytest.approx([4e-4, 3e-4, 2e-4, 1e-4, 1e-3, 1e-3])


# -- several updates per batch of rollouts ------------------------------------------------------


def make_run(trainer: Any, method: Any, config: Any) -> Run:
    """The parts of a run that its updates need."""
    none: Any = None
    spec: Any = SimpleNamespace(training=config)
    return Run(spec, none, method, none, trainer.policy, trainer, none, none, none)


@pytest.mark.parametrize("epochs", [1, 2])
def test_mini_batches_and_epochs_equal_a_loop(base: Path, policy: Policy, epochs: int) -> None:
    config = make_training(
        ppo_mini_batch_size=2,
        ppo_epochs=epochs,
        lr_rl=1e-2,
        clip_ratio_low=0.01,
        clip_ratio_high=0.01,
    )
    method = make_method("rl_zero", config)
    groups = [make_group([1.0, 0.0, 0.0, 1.0], name=name) for name in "abcde"]
    trainer = make_trainer(policy, config, method=method)
    _, logged = make_run(trainer, method, config)._update(groups, (), None, 1)

    other = load_double(base)
    parts = [method.rows(groups[i : i + 2], (), 1) for i in (0, 2, 4)]
    with torch.no_grad():
        olds = [
            {i: torch.stack(row_logprobs(other.model, r, "rl", 1.0)) for i, r in enumerate(rows)}
            for rows in parts
        ]
    optimizer = torch.optim.AdamW(other.model.parameters(), lr=config.lr_rl, weight_decay=0.0)
    for _ in range(epochs):
        for rows, old in zip(parts, olds, strict=True):
            optimizer.zero_grad()
            slow_loss(other.model, rows, "rl", config, old=old).backward()
            torch.nn.utils.clip_grad_norm_(other.model.parameters(), config.max_grad_norm)
            optimizer.step()
    for ours, theirs in zip(policy.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # torch divides by norm + 1e-6
    assert logged["rl_clip_share"] is not None and logged["rl_clip_share"] > 0


def test_each_demonstration_is_used_once_per_epoch(policy: Policy) -> None:
    config = make_training(ppo_mini_batch_size=1)
    method = make_method("mixing", config)
    trainer = make_trainer(policy, config, method=method)
    groups = [make_group([1.0, 0.0], name=name) for name in "ab"]
    taught = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"][:3]
    batch, _ = make_run(trainer, method, config)._update(groups, taught, None, 1)
    assert sorted(r.response_ids for r in batch.rows if r.kind == "demonstration") == sorted(
        r.response_ids for r in taught
    )


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("name", ["rl_zero", "bridge", "luffy"])
def test_one_mini_batch_and_one_epoch_is_the_default(base: Path, tmp_path: Path, name: str) -> None:
    plain = train(make_spec(base, name, label="plain"), tmp_path)
    whole = train(make_spec(base, name, label="whole", ppo_mini_batch_size=6), tmp_path)
    assert plain.dynamics.read_bytes() == whole.dynamics.read_bytes()
    assert same_weights(plain, whole)


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("name", ["rl_zero", "bridge", "hpt", "cold_start"])
def test_a_killed_run_with_several_updates_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"ppo_mini_batch_size": 4, "ppo_epochs": 2, "checkpoint_every": 1}
    spec = make_spec(base, name, **settings)
    undisturbed = train(spec, tmp_path / "undisturbed")
    kill_before_last_step(spec, tmp_path / "killed")
    resumed = train(spec, tmp_path / "killed")
    assert resumed.dynamics.read_bytes() == undisturbed.dynamics.read_bytes()
    assert same_weights(resumed, undisturbed)


# -- the sampler's check ------------------------------------------------------------------------


def test_a_sampler_that_goes_wrong_late_is_seen() -> None:
    """Wrong from position 60 on, in answers of 80 and more only: a twentieth of all tokens."""
    lengths = [4] * 20 + [10] * 20 + [80] * 4
    own = [torch.zeros(n) for n in lengths]
    sampled = [[0.0 if t < 60 else -1.0 for t in range(n)] for n in lengths]
    assert (sampler_gap(sampled, own) or 0.0) > 5 * SYNC_GAP_LIMIT
    assert sampler_gap([[0.0] * n for n in lengths], own) == 0.0
    assert sampler_gap([], []) is None


def test_the_phase_names_the_rate(policy: Policy) -> None:
    config = make_training(lr_sft=1.0, lr_rl=2.0, lr_scheduler_type="linear")
    trainer = make_trainer(policy, config)
    trainer.begin_step(2, 4)
    assert trainer.learning_rate(Phase("rl")) == pytest.approx(1.5)
    assert trainer.learning_rate(Phase("sft")) == 1.0


def test_a_row_without_sampled_logprobs_has_importance_one(policy: Policy) -> None:
    rows = [replace(r, sampled_logprobs=()) for r in make_rows(len(policy.tokenizer))]
    batch = StepBatch(tuple(rows))
    weighted = make_trainer(policy, make_training(tis_imp_ratio_cap=1.5)).gradient("rl", batch)
    plain = make_trainer(policy, make_training()).gradient("rl", batch)
    assert torch.equal(weighted.gradient.flat[BASE], plain.gradient.flat[BASE])
    assert isinstance(rows[0], Row)
