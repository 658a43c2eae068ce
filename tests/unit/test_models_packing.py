"""Rows packed with each prompt once: the same scores and gradients, with less to compute."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.models.checkpoint import Policy
from bridge.models.packing import Packed, Pair, pack
from bridge.step.batches import StepBatch
from bridge.step.rows import Row
from bridge.step.scoring import next_token_scores
from bridge.step.weights import BASE
from tests.fixtures.slow_reference import flat_gradient, relative_error, slow_loss
from tests.fixtures.tiny_run import PROBLEM, load_double, make_base, make_trainer, make_training
from tests.unit.test_models_decoding import MODELS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("packing") / "base", steps=10)


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


def make_pairs(sizes: list[int], *, prompt: int, answer: int) -> list[Pair]:
    """Answers of several lengths to prompts of several lengths, rows of a prompt not together."""
    rng = random.Random(0)

    def text(longest: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(5, 20), k=rng.randint(longest // 2, longest)))

    pairs = [(p, text(answer)) for n in sizes for p in [text(prompt)] for _ in range(n)]
    rng.shuffle(pairs)
    return pairs


def padded(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [rows, tokens + 1] and which tokens are scored: those of the answers."""
    length = max(len(p) + len(a) for p, a in pairs)
    ids = torch.zeros((len(pairs), length), dtype=torch.long)
    scored = torch.zeros((len(pairs), length), dtype=torch.bool)
    for i, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        scored[i, len(prompt) : end] = True
    return ids, scored[:, 1:]


def both(model: Any, pairs: list[Pair]) -> tuple[Packed, list[torch.Tensor], list[torch.Tensor]]:
    ids, scored = padded(pairs)
    packed = pack(pairs, scored, model)
    found = []
    for how in (packed, None):
        results = next_token_scores(model, ids, ids[:, 1:], 0.7, with_entropy=True, packed=how)
        found.append([value.masked_fill(~scored, 0.0) for value in results if value is not None])
    return packed, *found


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2", "qwen2_moe", "qwen3", "llama"])
def test_scores_are_those_of_single_rows(name: str) -> None:
    packed, ours, theirs = both(MODELS[name](), make_pairs([4, 1, 3], prompt=20, answer=6))
    assert packed.attention is not None
    for our, their in zip(ours, theirs, strict=True):
        # The library's norms compute in float32.
        assert torch.allclose(our, their, rtol=1e-5, atol=1e-5)
        assert float(our.abs().max()) > 0.1


def test_in_float64_scores_and_gradients_are_exact(policy: Policy) -> None:
    weights = list(policy.model.parameters())
    gradients = []
    packed, *found = both(policy.model, make_pairs([4, 1, 3], prompt=20, answer=6))
    assert packed.attention is not None
    for logprobs, entropies in found:
        loss = (logprobs.square() + entropies).sum()
        gradients.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights)]))
    for our, their in zip(*found, strict=True):
        assert torch.allclose(our, their, rtol=1e-12, atol=1e-12)
    assert relative_error(*gradients) < 1e-12


def test_each_prompt_is_computed_once_and_answers_alone_are_scored(policy: Policy) -> None:
    pairs = make_pairs([8, 8, 8], prompt=40, answer=6)
    ids, scored = padded(pairs)
    packed = pack(pairs, scored, policy.model)
    held = sum(map(len, {p for p, _ in pairs})) + sum(len(a) for _, a in pairs)
    assert held <= packed.input_ids.numel() < 1.5 * held < 0.5 * ids.numel()
    assert len(packed.places) == sum(len(a) for _, a in pairs)


@pytest.mark.parametrize("prompt", [4, 40])
def test_long_answers_stay_rows_of_their_own(policy: Policy, prompt: int) -> None:
    """They would look over each other's tokens for more than their prompts are worth."""
    pairs = make_pairs([2, 2], prompt=prompt, answer=2000)
    packed = pack(pairs, padded(pairs)[1], policy.model)
    assert packed.attention is None and len(packed.input_ids) == 4


def test_more_trees_than_one_where_a_whole_group_is_too_long(policy: Policy) -> None:
    pairs = make_pairs([16], prompt=60, answer=24)
    packed = pack(pairs, padded(pairs)[1], policy.model)
    sequences = len(packed.input_ids)
    assert packed.attention is not None and 1 < sequences < 16
    starts = (packed.positions == 0) & (packed.input_ids != 0)
    assert int(starts.sum()) == sequences


@pytest.mark.parametrize("entropy", [0.0, 0.02])
@pytest.mark.parametrize("rows_at_once", [3, 64])
def test_the_trainers_gradients_are_the_slow_references(
    policy: Policy, rows_at_once: int, entropy: float
) -> None:
    rng = random.Random(4)
    rows = []
    for i, (prompt, answer) in enumerate(make_pairs([5, 4, 1], prompt=12, answer=5)):
        kind: Any = ("rollout", "hybrid", "demonstration")[i % 3]
        given = 2 if kind == "hybrid" else 0
        advantage = 0.0 if kind == "demonstration" else rng.gauss(0, 1)
        drawn = (-1.0,) * (0 if kind == "demonstration" else len(answer) - given)
        row = Row(kind, PROBLEM, prompt, answer, given, advantage=advantage)
        rows.append(replace(row, sampled_logprobs=drawn))
    config = make_training(micro_batch_rows=rows_at_once, entropy_coeff=entropy)
    trainer = make_trainer(policy, config)
    for term in ("rl", "demonstration"):
        expected = slow_loss(policy.model, rows, term, config)
        found = trainer.gradient(term, StepBatch(tuple(rows)))
        assert found.loss == pytest.approx(expected.item(), rel=1e-12)
        gradient = flat_gradient(expected, policy.model)
        assert relative_error(found.gradient.flat[BASE], gradient) < 1e-12
