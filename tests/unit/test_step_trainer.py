"""Losses and gradients of the trainer against a slow reference, and what must not change them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from bridge.models.checkpoint import Policy
from bridge.step.batches import MicroBatch, StepBatch
from bridge.step.objectives.aggregation import LossAggMode
from bridge.step.rows import Row, Term
from bridge.step.weights import BASE
from tests.fixtures.slow_reference import (
    disturbed,
    flat_gradient,
    relative_error,
    row_logprobs,
    slow_loss,
    span,
)
from tests.fixtures.tiny_run import (
    PROBLEM,
    load_double,
    make_method,
    make_rows,
    make_trainer,
    make_training,
)

MODES: tuple[LossAggMode, ...] = get_args(LossAggMode)
TERMS: tuple[Term, ...] = ("rl", "demonstration")


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


# -- against the slow reference -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("term", TERMS)
def test_loss_and_gradient_equal_the_definition(
    policy: Policy, term: Term, mode: LossAggMode, temperature: float
) -> None:
    config = make_training(loss_agg_mode=mode, sft_loss_agg_mode=mode, temperature=temperature)
    rows = make_rows(len(policy.tokenizer))
    expected = slow_loss(policy.model, rows, term, config)
    gradient = flat_gradient(expected, policy.model)
    found = make_trainer(policy, config).gradient(term, StepBatch(tuple(rows)))
    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    assert relative_error(found.gradient.flat[BASE], gradient) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_the_kl_term_is_part_of_the_rl_loss(base: Path, policy: Policy, mode: LossAggMode) -> None:
    config = make_training(loss_agg_mode=mode, kl_coef=0.3, kl_estimator="k3")
    reference = disturbed(load_double(base), 0.02)
    rows = make_rows(len(policy.tokenizer))
    expected = slow_loss(policy.model, rows, "rl", config, reference=reference.model)
    gradient = flat_gradient(expected, policy.model)
    trainer = make_trainer(policy, config, reference=reference)
    found = trainer.gradient("rl", StepBatch(tuple(rows)))
    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    assert relative_error(found.gradient.flat[BASE], gradient) < 1e-12


def test_the_reference_gets_no_gradient(base: Path, policy: Policy) -> None:
    reference = load_double(base)
    trainer = make_trainer(policy, make_training(kl_coef=0.3), reference=reference)
    trainer.gradient("rl", StepBatch(tuple(make_rows(len(policy.tokenizer)))))
    assert all(p.grad is None for p in reference.model.parameters())


def test_old_logprobs_enter_through_the_clipped_ratio(base: Path, policy: Policy) -> None:
    config = make_training(clip_ratio_low=0.1, clip_ratio_high=0.15)
    rows = make_rows(len(policy.tokenizer))
    behaviour = disturbed(load_double(base), 0.02).model
    with torch.no_grad():
        old = {
            i: torch.stack(row_logprobs(behaviour, row, "rl", 1.0))
            for i, row in enumerate(rows)
            if len(span(row, "rl"))
        }
    expected = slow_loss(policy.model, rows, "rl", config, old=old)
    gradient = flat_gradient(expected, policy.model)
    found = make_trainer(policy, config).gradient("rl", StepBatch(tuple(rows)), old_logprobs=old)
    assert 0 < found.clip_share < 1
    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    assert relative_error(found.gradient.flat[BASE], gradient) < 1e-12


def test_a_hybrid_row_teaches_its_prefix_and_reinforces_the_rest(policy: Policy) -> None:
    row = Row("hybrid", PROBLEM, (5, 6, 7), (8, 9, 10, 11, 12), prefix_tokens=2, advantage=1.5)
    trainer = make_trainer(policy, make_training())
    batch = StepBatch((row,))
    taught = trainer.gradient("demonstration", batch).logprobs[0]
    reinforced = trainer.gradient("rl", batch).logprobs[0]
    whole = row_logprobs(policy.model, replace(row, kind="demonstration"), "demonstration", 1.0)
    assert torch.allclose(taught, torch.stack(whole[:2]), rtol=1e-12)
    assert torch.allclose(reinforced, torch.stack(whole[2:]), rtol=1e-12)


def test_the_logged_kl_is_the_mean_over_rl_tokens(base: Path, policy: Policy) -> None:
    config = make_training(kl_coef=1e-9)
    reference = disturbed(load_double(base), 0.05)
    rows = make_rows(len(policy.tokenizer))
    trainer = make_trainer(policy, config, reference=reference)
    trainer.gradient("rl", StepBatch(tuple(rows)))
    with torch.no_grad():
        expected = sum(
            float(p - q)
            for row in rows
            for p, q in zip(
                row_logprobs(policy.model, row, "rl", 1.0),
                row_logprobs(reference.model, row, "rl", 1.0),
                strict=True,
            )
        )
    n_tokens = sum(len(span(row, "rl")) for row in rows)
    assert trainer.scalars["kl"] == pytest.approx(expected / n_tokens, rel=1e-5)


# -- invariance ---------------------------------------------------------------------------------


def gradients(policy: Policy, rows: Sequence[Row], **settings: Any) -> list[tuple[Tensor, float]]:
    config = make_training(**settings)
    trainer = make_trainer(policy, config)
    batch = StepBatch(tuple(rows))
    results = [trainer.gradient(term, batch) for term in TERMS]
    return [(r.gradient.flat[BASE], r.loss) for r in results]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("micro_batch_rows", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["f64", "f32"]
)
def test_the_micro_batch_split_changes_nothing(
    policy: Policy, mode: LossAggMode, micro_batch_rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    policy.model.to(dtype)
    rows = make_rows(len(policy.tokenizer))
    settings = {"loss_agg_mode": mode, "sft_loss_agg_mode": mode, "temperature": 0.8}
    expected = gradients(policy, rows, micro_batch_rows=3, **settings)
    found = gradients(policy, rows, micro_batch_rows=micro_batch_rows, **settings)
    for (g, loss), (g0, loss0) in zip(found, expected, strict=True):
        assert relative_error(g, g0) < tolerance
        assert loss == pytest.approx(loss0, rel=10 * tolerance)


def test_row_order_changes_nothing(policy: Policy) -> None:
    rows = make_rows(len(policy.tokenizer))
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    for (g, _), (g0, _) in zip(gradients(policy, rows), gradients(policy, shuffled), strict=True):
        assert relative_error(g, g0) < 1e-12


def test_extra_padding_changes_nothing(policy: Policy) -> None:
    rows = make_rows(len(policy.tokenizer))
    trainer = make_trainer(policy, make_training(micro_batch_rows=1000))
    found = []
    # Without an advantage the long row is counted but not computed; with one too small to matter
    # it is computed, and widens the micro-batch.
    for advantage in (0.0, 1e-300):
        wide = Row("rollout", PROBLEM, tuple(range(5, 25)) * 2, (6,) * 30, advantage=advantage)
        wide = replace(wide, sampled_logprobs=(0.0,) * 30)
        found.append(trainer.gradient("rl", StepBatch((*rows, wide))).gradient.flat[BASE])
    assert relative_error(found[1], found[0]) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_skipping_rows_without_advantage_is_not_skipping_them(
    policy: Policy, mode: LossAggMode
) -> None:
    rows = make_rows(len(policy.tokenizer))
    assert any(row.advantage == 0.0 for row in rows if row.kind == "rollout")
    skipped = gradients(policy, rows, loss_agg_mode=mode)[TERMS.index("rl")][0]
    # Too small to matter, too large to be skipped.
    kept_rows = [replace(r, advantage=r.advantage or 1e-300) for r in rows]
    kept = gradients(policy, kept_rows, loss_agg_mode=mode)[TERMS.index("rl")][0]
    assert relative_error(skipped, kept) < 1e-12


def test_rows_without_advantage_are_not_computed(policy: Policy) -> None:
    rows = make_rows(len(policy.tokenizer), hybrids=False)
    trainer = make_trainer(policy, make_training())
    trainer.gradient("rl", StepBatch(tuple(rows)))
    lengths = [len(r.prompt_ids) + len(r.response_ids) for r in rows if r.advantage != 0.0]
    assert trainer.tokens_trained == sum(lengths)


def test_rows_without_advantage_keep_their_kl(base: Path, policy: Policy) -> None:
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "rollout"]
    rows = [replace(r, advantage=0.0) for r in rows]
    reference = disturbed(load_double(base), 0.05)
    trainer = make_trainer(policy, make_training(kl_coef=0.1), reference=reference)
    assert trainer.gradient("rl", StepBatch(tuple(rows))).gradient.norm(BASE) > 0


def test_a_batch_without_any_advantage_has_a_zero_gradient(policy: Policy) -> None:
    rows = [replace(r, advantage=0.0) for r in make_rows(len(policy.tokenizer))]
    found = make_trainer(policy, make_training()).gradient("rl", StepBatch(tuple(rows)))
    assert found.loss == 0.0 and found.gradient.norm(BASE) == 0.0


# -- token weights ------------------------------------------------------------------------------


def test_no_gradient_flows_through_the_token_weight(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(len(policy.tokenizer))
    config = make_training()
    method = make_method("mixing", config)
    trainer = make_trainer(policy, config, method=method)
    with torch.no_grad():
        constant = {
            id(row): torch.stack(row_logprobs(policy.model, row, "demonstration", 1.0)).exp()
            for row in rows
            if len(span(row, "demonstration"))
        }

    def fixed(batch: MicroBatch) -> Tensor:
        weight = torch.zeros(batch.mask.shape, dtype=torch.float64)
        for i, row in enumerate(batch.rows):
            weight[i, batch.mask[i]] = constant[id(row)]
        return weight

    def live(batch: MicroBatch) -> Tensor:
        assert batch.logprob is not None and not batch.logprob.requires_grad
        logits = policy.model(input_ids=batch.input_ids).logits[:, :-1]
        logprob = logits.log_softmax(-1).gather(-1, batch.targets[..., None]).squeeze(-1)
        assert logprob.requires_grad
        return logprob.exp()

    batch = StepBatch(tuple(rows))
    monkeypatch.setattr(method, "token_weight", fixed)
    expected = trainer.gradient("demonstration", batch).gradient.flat[BASE]
    monkeypatch.setattr(method, "token_weight", live)
    assert relative_error(
        trainer.gradient("demonstration", batch).gradient.flat[BASE], expected
    ) < (1e-12)


def test_the_token_weight_scales_each_tokens_loss(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(len(policy.tokenizer))
    config = make_training()
    method = make_method("mixing", config)
    trainer = make_trainer(policy, config, method=method)

    def by_length(batch: MicroBatch) -> Tensor:
        return torch.tensor([[float(len(r.prompt_ids))] for r in batch.rows], dtype=torch.float64)

    monkeypatch.setattr(method, "token_weight", by_length)
    expected = slow_loss(
        policy.model,
        rows,
        "demonstration",
        config,
        token_weight=lambda row: float(len(row.prompt_ids)),
    )
    gradient = flat_gradient(expected, policy.model)
    found = trainer.gradient("demonstration", StepBatch(tuple(rows)))
    assert relative_error(found.gradient.flat[BASE], gradient) < 1e-12
