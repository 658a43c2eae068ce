"""Columns: what they are, one pass for all of them, and only where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bridge.methods import columns
from bridge.methods.columns import columns_of, with_columns
from bridge.step import scoring
from bridge.step.batches import StepBatch
from bridge.step.trainer import Trainer
from tests.fixtures.method_runs import row_distributions
from tests.fixtures.tiny_run import load_double, make_rows, make_trainer, make_training

NAMES = ("logprob", "entropy", "topk_mass", "topk_entropy")


def slow_columns(log_p: Tensor, targets: Tensor, k: int) -> dict[str, Tensor]:
    top = log_p.sort(-1, descending=True).values[:, :k].exp()
    among = top / top.sum(-1, keepdim=True)
    return {
        "logprob": log_p[torch.arange(len(targets)), targets],
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "topk_mass": top.sum(-1),
        "topk_entropy": -(among * among.log()).sum(-1),
    }


@pytest.mark.parametrize("at_once", [2**26, 64])
@pytest.mark.parametrize("term", ["demonstration", "rl"])
def test_each_row_has_its_own_numbers(
    base: Path, monkeypatch: pytest.MonkeyPatch, term: str, at_once: int
) -> None:
    """Also where logits are made in chunks, for hybrid rows, and at another temperature."""
    for module in (columns, scoring):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
    policy = load_double(base)
    training = make_training(micro_batch_rows=4, temperature=0.7)
    batch = StepBatch(tuple(make_rows(30)))
    trainer = make_trainer(policy, training)
    found = with_columns(trainer, batch, NAMES, term=term, top_k=5)  # type: ignore[arg-type]
    assert [row.response_ids for row in found.rows] == [row.response_ids for row in batch.rows]
    for place, row in enumerate(found.rows):
        if place not in batch.places_of(term):  # type: ignore[arg-type]
            assert row.columns == {}
            continue
        begin, end = (0, len(row.response_ids))
        if row.kind == "hybrid":
            begin, end = (
                (0, row.prefix_tokens) if term == "demonstration" else (row.prefix_tokens, end)
            )
        log_p = row_distributions(policy, row)[begin:end].detach()
        log_p = (log_p / (0.7 if term == "rl" else 1.0)).log_softmax(-1)
        targets = torch.tensor(row.response_ids[begin:end])
        for name, expected in slow_columns(log_p, targets, 5).items():
            assert row.columns[name] == pytest.approx(expected.tolist(), abs=1e-9), name


def test_a_whole_vocabulary_has_mass_one_and_all_the_entropy() -> None:
    logits = torch.randn(7, 11, dtype=torch.float64)
    found = columns_of(logits, torch.zeros(7, dtype=torch.long), NAMES, top_k=11)
    assert found["topk_mass"].tolist() == pytest.approx([1.0] * 7)
    assert found["topk_entropy"].tolist() == pytest.approx(found["entropy"].tolist())


def test_a_token_that_is_certain_has_no_entropy() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    found = columns_of(logits, torch.tensor([0]), NAMES, top_k=2)
    assert {name: value.item() for name, value in found.items()} == {
        "logprob": 0.0,
        "entropy": 0.0,
        "topk_mass": 1.0,
        "topk_entropy": 0.0,
    }


def test_the_reference_column_is_that_of_the_update_to_the_last_bit(base: Path) -> None:
    training = make_training(micro_batch_rows=4)
    trainer = make_trainer(load_double(base), training, reference=load_double(base))
    batch = StepBatch(tuple(make_rows(30)))
    found = with_columns(trainer, batch, ("reference",))
    logprobs = trainer.gradient("demonstration", batch).logprobs
    for place, logprob in logprobs.items():
        assert found.rows[place].columns["reference"] == tuple(logprob.tolist())


def test_nothing_is_computed_that_nobody_asked_for(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(load_double(base), make_training())
    batch = StepBatch(tuple(make_rows(30)))
    passes: list[int] = []
    forward = trainer.policy.sampler.model.forward

    def counted(*arguments: object, **named: object) -> object:
        passes.append(1)
        return forward(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.policy.sampler.model, "forward", counted)
    assert with_columns(trainer, batch, ()) is batch
    assert passes == [] and trainer.tokens_scored == 0
    with_columns(trainer, batch, ("entropy",))
    one, scored = len(passes), trainer.tokens_scored
    with_columns(trainer, batch, NAMES, top_k=3)
    assert len(passes) == 2 * one and trainer.tokens_scored == 2 * scored > 0
    assert isinstance(trainer, Trainer)
