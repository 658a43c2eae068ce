"""Bugs on request: each gradient is the one its definition says, and nobody gets one unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from bridge.models.checkpoint import Policy
from bridge.plan.grid import load_plan
from bridge.step.batches import StepBatch
from bridge.step.rows import Row
from bridge.step.weights import BASE
from bridge.store.schema import ConfigError
from bridge.store.settings import AuditConfig, TrainingConfig
from tests.fixtures.slow_reference import flat_gradient, relative_error, row_logprobs
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_rows,
    make_trainer,
    make_training,
)

SIZE = 2
"""Rows of a micro-batch."""


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


def audited(**switches: Any) -> TrainingConfig:
    return make_training(micro_batch_rows=SIZE, audit=AuditConfig(**switches))


def demonstrations(policy: Policy) -> list[Row]:
    """Of different lengths, in an order that is not sorted by them."""
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"]
    return (rows * SIZE)[: 2 * SIZE + 1]


def token_losses(policy: Policy, rows: list[Row]) -> list[list[Tensor]]:
    """Minus the log-probs of each micro-batch's tokens."""
    cut = [rows[i : i + SIZE] for i in range(0, len(rows), SIZE)]
    return [
        [-x for row in micro for x in row_logprobs(policy.model, row, "demonstration", 1.0)]
        for micro in cut
    ]


def found(policy: Policy, rows: list[Row], **switches: Any) -> Tensor:
    trainer = make_trainer(policy, audited(**switches))
    return trainer.gradient("demonstration", StepBatch(tuple(rows))).gradient.flat[BASE]


def test_lost_micro_batches(policy: Policy) -> None:
    """Bug A: the first micro-batch alone, with the weight that it has in the whole."""
    rows = demonstrations(policy)
    micros = token_losses(policy, rows)
    assert len(micros) == 3
    total = sum(map(len, micros))
    expected = flat_gradient(torch.stack(micros[0]).sum() / total, policy.model)
    assert relative_error(found(policy, rows, accumulate="first_only"), expected) < 1e-12


def test_the_mean_of_means(policy: Policy) -> None:
    """Bug B: a token of a short micro-batch weighs more."""
    rows = demonstrations(policy)
    micros = token_losses(policy, rows)
    assert len({len(m) for m in micros}) > 1
    means = torch.stack([torch.stack(m).mean() for m in micros])
    expected = flat_gradient(means.mean(), policy.model)
    assert relative_error(found(policy, rows, reduction="micro_mean"), expected) < 1e-12


def test_without_a_bug_the_gradient_is_the_right_one(policy: Policy) -> None:
    rows = demonstrations(policy)
    right = make_trainer(policy, make_training(micro_batch_rows=SIZE))
    expected = right.gradient("demonstration", StepBatch(tuple(rows))).gradient.flat[BASE]
    assert relative_error(found(policy, rows), expected) < 1e-12
    assert relative_error(found(policy, rows, reduction="micro_mean"), expected) > 1e-3


def test_the_term_that_comes_first_is_lost(policy: Policy) -> None:
    """Bug A': of the two backward calls of a joint step the last one alone is left."""
    batch = StepBatch(tuple(make_rows(len(policy.tokenizer))))
    right = make_trainer(policy, make_training(micro_batch_rows=SIZE))
    expected = right.gradient("demonstration", batch).gradient.flat[BASE]
    trainer = make_trainer(policy, audited(accumulate="last_term"))
    for _ in range(2):  # each step anew
        trainer.begin_step()
        first = trainer.gradient("rl", batch).gradient.flat[BASE]
        assert first.abs().max() > 0
        last = trainer.gradient("demonstration", batch).gradient.flat[BASE]
        assert first.abs().max() == 0
        assert relative_error(last, expected) < 1e-12
        assert trainer.scalars["rl_grad_norm"] > 0, "what is logged is what was computed"


def test_a_whole_step_of_mixing_loses_its_rl_term(policy: Policy) -> None:
    rows = tuple(make_rows(len(policy.tokenizer)))
    moved = {}
    for accumulate in ("all", "last_term"):
        trainer = make_trainer(policy, audited(accumulate=accumulate))
        method = make_method("mixing", trainer.training, rl_weight=0.25)
        trainer.begin_step()
        with patch.object(trainer, "descend") as descend:
            method.update(trainer, StepBatch(rows), 1)
        moved[accumulate] = descend.call_args.args[1].flat[BASE]
    right = make_trainer(policy, make_training(micro_batch_rows=SIZE))
    alone = right.gradient("demonstration", StepBatch(rows)).gradient.flat[BASE]
    assert relative_error(moved["last_term"], 0.75 * alone) < 1e-12
    assert relative_error(moved["all"], 0.75 * alone) > 1e-3


def test_rl_keeps_its_gradient(policy: Policy) -> None:
    batch = StepBatch(tuple(make_rows(len(policy.tokenizer))))
    right = make_trainer(policy, make_training(micro_batch_rows=SIZE)).gradient("rl", batch)
    for switches in ({"accumulate": "first_only"}, {"reduction": "micro_mean"}):
        trainer = make_trainer(policy, audited(**switches))
        got = trainer.gradient("rl", batch).gradient.flat[BASE]
        assert relative_error(got, right.gradient.flat[BASE]) < 1e-12


def test_bugs_are_refused_outside_an_audit() -> None:
    root = Path(__file__).resolve().parents[2]
    bug = {"methods": {"sft": {"training": {"audit": {"accumulate": "first_only"}}}}}
    with pytest.raises(ConfigError, match=r"methods\.sft\.training\.audit: .* `audit: true`"):
        load_plan("matrix", root=root, overrides=bug)
    assert len(load_plan("audit", root=root).runs) == 80


def test_a_suite_without_bugs_keeps_its_hashes() -> None:
    assert "audit" not in make_training().hashed
    assert audited(accumulate="first_only").hashed["audit"]["accumulate"] == "first_only"
