"""Scoring in pieces: a chunked output layer and batches cut by tokens change nothing but memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from bridge.models.checkpoint import CheckpointError, Policy
from bridge.step import scoring
from bridge.step.scoring import next_token_logprobs, row_slices, sequence_logprobs
from tests.fixtures.slow_reference import relative_error
from tests.fixtures.tiny_run import load_double, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("scoring") / "base", steps=10)


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


def test_chunks_give_the_same_values_and_gradients(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tied embedding: its gradient comes from both ends of the model."""
    model = policy.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.randint(
        5, len(policy.tokenizer), (3, 9), generator=torch.Generator().manual_seed(0)
    )
    found = []
    for at_once in (scoring.LOGITS_AT_ONCE, 4 * model.config.vocab_size):
        monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", at_once)
        logprob = next_token_logprobs(model, ids, ids[:, 1:], 0.8)
        gradient = torch.autograd.grad(logprob.square().sum(), list(model.parameters()))
        found.append((logprob.detach(), torch.cat([g.reshape(-1) for g in gradient])))
    (whole, whole_gradient), (cut, cut_gradient) = found
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    assert relative_error(cut_gradient, whole_gradient) < 1e-12


def test_a_model_that_changes_its_logits_is_not_cut_in_silence(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.full((2, 6), 5)
    policy.model.config.final_logit_softcapping = 30.0
    next_token_logprobs(policy.model, ids, ids[:, 1:])  # in one piece it computes its own logits
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 1)
    with pytest.raises(CheckpointError, match=r"final_logit_softcapping.*lower micro_batch_rows"):
        next_token_logprobs(policy.model, ids, ids[:, 1:])


@pytest.mark.parametrize("tokens", [None, 1, 7, 20, 64, 10_000])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_slices_cover_all_rows_in_order_within_both_limits(rows: int, tokens: int | None) -> None:
    lengths = sorted(random.Random(0).randint(1, 12) for _ in range(40))
    slices = list(row_slices(lengths, rows=rows, tokens=tokens))
    assert [i for part in slices for i in range(40)[part]] == list(range(40))
    for part, after in zip(slices, [*slices[1:], None], strict=True):
        held = lengths[part]
        assert len(held) <= rows
        assert tokens is None or len(held) == 1 or len(held) * max(held) <= tokens
        if after is not None:  # one row more would have been too much
            more = [*held, lengths[after][0]]
            assert len(more) > rows or (tokens is not None and len(more) * max(more) > tokens)
    assert list(row_slices([], rows=rows, tokens=tokens)) == []


def test_sequence_logprobs_do_not_depend_on_the_split(policy: Policy) -> None:
    rng = random.Random(1)
    sequences = [
        (
            tuple(rng.choices(range(5, 20), k=rng.randint(1, 6))),
            tuple(rng.choices(range(5, 20), k=3)),
        )
        for _ in range(9)
    ]
    expected = sequence_logprobs(policy, sequences)
    for tokens in (1, 12, 30):
        found = sequence_logprobs(policy, sequences, batch_tokens=tokens)
        assert found == pytest.approx(expected, rel=1e-12)
