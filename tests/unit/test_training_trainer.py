"""The trainer against a slow reference: per-sample Python loops in float64, from model logits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from bridge.config import TrainingConfig
from bridge.methods.base import Phase, Row
from bridge.objectives.aggregation import LossAggMode
from bridge.policies.checkpoint import Policy
from bridge.policies.trainable import ADAPTER, BASE, SHADOW
from bridge.training.batches import MicroBatch, StepBatch, Term
from bridge.training.gradients import Gradient
from bridge.training.trainer import DivergedError, Trainer
from tests.fixtures.tiny_run import (
    PROBLEM,
    load_double,
    make_base,
    make_method,
    make_rows,
    make_trainer,
    make_training,
)

MODES: tuple[LossAggMode, ...] = get_args(LossAggMode)
TERMS: tuple[Term, ...] = get_args(Term)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("trainer") / "base")


@pytest.fixture
def policy(base: Path) -> Policy:
    return load_double(base)


def span(row: Row, term: Term) -> range:
    """Response positions of a row that belong to a term."""
    n = len(row.response_ids)
    if row.kind == "hybrid":
        return range(row.prefix_tokens) if term == "demonstration" else range(row.prefix_tokens, n)
    own = "rl" if row.kind == "rollout" else "demonstration"
    return range(n) if own == term else range(0)


def row_logprobs(model: nn.Module, row: Row, term: Term, temperature: float) -> list[Tensor]:
    """Log-probs of the term's tokens, one row at a time, without padding."""
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    first = len(row.prompt_ids)
    scale = temperature if term == "rl" else 1.0
    return [
        torch.log_softmax(logits[first + t - 1] / scale, -1)[row.response_ids[t]]
        for t in span(row, term)
    ]


def slow_loss(
    model: nn.Module,
    rows: Sequence[Row],
    term: Term,
    config: TrainingConfig,
    *,
    reference: nn.Module | None = None,
    old: dict[int, Tensor] | None = None,
    token_weight: Callable[[Row], float] = lambda row: 1.0,
) -> Tensor:
    """The loss of a term as its definition reads, with a Python loop over rows and tokens."""
    chosen = [row for row in rows if len(span(row, term))]
    n_tokens = sum(len(span(row, term)) for row in chosen)
    mode = config.loss_agg_mode if term == "rl" else config.sft_loss_agg_mode
    total = torch.zeros((), dtype=torch.float64)
    for row in chosen:
        logprobs = row_logprobs(model, row, term, config.temperature)
        if reference is not None and term == "rl":
            with torch.no_grad():
                ref = row_logprobs(reference, row, term, config.temperature)
        for t, logprob in enumerate(logprobs):
            if term == "rl":
                before = logprob.detach() if old is None else old[id(row)][t]
                ratio = torch.exp(logprob - before)
                low, high = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
                clipped = torch.clamp(ratio, low, high)
                loss = -torch.minimum(ratio * row.advantage, clipped * row.advantage)
                if reference is not None:
                    u = logprob - ref[t]
                    loss = loss + config.kl_coef * (torch.exp(-u) - 1 + u)
            else:
                loss = -token_weight(row) * logprob
            weight = {
                "token-mean": 1 / n_tokens,
                "seq-mean-token-sum": 1 / len(chosen),
                "seq-mean-token-mean": 1 / (len(chosen) * len(logprobs)),
                "seq-mean-token-sum-norm": 1 / (len(chosen) * config.max_response_tokens),
            }[mode]
            total = total + weight * loss
    return total


def flat_gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Gradient of a loss with respect to all weights, by autograd."""
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([p.reshape(-1) for p in parts])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def disturbed(policy: Policy, scale: float, seed: int = 3) -> Policy:
    """Move all weights a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.model.parameters():
            p += scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    return policy


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
            id(row): torch.stack(row_logprobs(behaviour, row, "rl", 1.0))
            for row in rows
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
    taught = trainer.gradient("demonstration", batch).logprobs[id(row)]
    reinforced = trainer.gradient("rl", batch).logprobs[id(row)]
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
    assert trainer.scalars["kl_sum"] == pytest.approx(expected, rel=1e-5)


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


# -- the published bugs -------------------------------------------------------------------------


class Coordinates(nn.Module):
    """A model whose parameter k is touched by row k only: the gradient names the rows it saw.

    Tokens come in pairs (2k, 2k + 1). A token of pair k is followed by one of the same pair, by the
    even one with logit ``weight[k]`` against 0; so at zero each token 2k that is taught has the
    gradient -1/2 at coordinate k.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        self.device = torch.device("cpu")

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        n = len(self.weight)
        pair = input_ids // 2
        own = torch.nn.functional.one_hot(pair, n)  # [rows, tokens, n]
        even = torch.where(own == 1, self.weight, -1e9)
        odd = torch.where(own == 1, 0.0, -1e9).double()
        return SimpleNamespace(logits=torch.stack([even, odd], -1).flatten(-2))


class CoordinatePolicy:
    """The parts of a trainable policy that the trainer uses."""

    def __init__(self, n: int) -> None:
        self.model = Coordinates(n)
        self.sampler = SimpleNamespace(pad_token_id=0, model=self.model)
        self.parameters = {BASE: [self.model.weight]}

    def take_gradient(self) -> dict[str, Tensor]:
        gradient = self.model.weight.grad
        self.model.weight.grad = None
        assert gradient is not None
        return {group: gradient.clone() for group in (BASE, ADAPTER)}

    def changed(self) -> None: ...


def coordinate_rows(n: int) -> list[Row]:
    """Row k touches coordinate k: the first half rollouts, the second half demonstrations."""
    half = n // 2
    rows = [
        Row("rollout", PROBLEM, (2 * k,), (2 * k,), advantage=1.0, sampled_logprobs=(0.0,))
        for k in range(half)
    ]
    return rows + [Row("demonstration", PROBLEM, (2 * k,), (2 * k,)) for k in range(half, n)]


@pytest.mark.parametrize("method", ["mixing", "bridge_no_gain"])
def test_no_micro_batch_and_no_backward_pass_is_lost(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bugs A and A' of the audit: only the first micro-batch, or only the last backward, counts."""
    n = 12
    policy: Any = CoordinatePolicy(n)
    config = make_training(micro_batch_rows=1, max_grad_norm=1e9)
    trainer = Trainer(policy, make_method(method, config), config)
    directions: dict[str, Gradient] = {}
    monkeypatch.setattr(
        trainer, "descend", lambda group, d, phase, **_: directions.update({group: d})
    )
    trainer.begin_step()
    trainer.method.update(trainer, StepBatch(tuple(coordinate_rows(n))), 1)
    # Each row: weight 1/2 (mixing) x 1/6 (token mean) x -(1 - 1/2).
    assert torch.allclose(directions[BASE].flat[BASE], torch.full((n,), -0.5 / 12).double())


def test_a_token_weighs_the_same_in_every_micro_batch() -> None:
    """Bug B of the audit: a mean of micro-batch means gives short answers more weight."""
    policy: Any = CoordinatePolicy(3)
    lengths = (1, 7, 3)
    rows = [Row("demonstration", PROBLEM, (2 * k,), (2 * k,) * n) for k, n in enumerate(lengths)]
    config = make_training(micro_batch_rows=1)
    trainer = Trainer(policy, make_method("sft", config), config)
    found = trainer.gradient("demonstration", StepBatch(tuple(rows))).gradient.flat[BASE]
    assert torch.allclose(found, -0.5 * torch.tensor(lengths).double() / sum(lengths))


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


# -- updates ------------------------------------------------------------------------------------


def sizes(trainer: Trainer) -> dict[str, int]:
    return {g: sum(p.numel() for p in ps) for g, ps in trainer.policy.parameters.items()}


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in parameters])


def test_each_group_is_clipped_by_its_own_norm(policy: Policy) -> None:
    config = make_training(max_grad_norm=0.5)
    trainer = make_trainer(policy, config, adapter=(2, 4, "all-linear"), shadow=True)
    n = sizes(trainer)
    generator = torch.Generator().manual_seed(0)
    big = {g: torch.randn(n[g], generator=generator).double() for g in (BASE, ADAPTER)}
    big[ADAPTER] *= 1e-3 / big[ADAPTER].norm()  # below the threshold: kept as it is
    used: dict[str, Tensor] = {}

    def spy(group: str) -> Any:
        optimizer = trainer.optimizer(group, Phase("joint"))
        step = optimizer.step

        def recorded() -> Any:
            used[group] = torch.cat(
                [p.grad.reshape(-1) for p in trainer.policy.parameters[group] if p.grad is not None]
            )
            return step()

        optimizer.step = recorded  # type: ignore[method-assign]

    for group in (BASE, ADAPTER, SHADOW):
        spy(group)
        trainer.descend(group, Gradient(big), Phase("joint"))
    assert float(used[BASE].norm()) == pytest.approx(0.5)
    assert relative_error(used[BASE] / used[BASE].norm(), big[BASE] / big[BASE].norm()) < 1e-12
    assert torch.equal(used[ADAPTER], big[ADAPTER])
    assert torch.equal(used[SHADOW], used[BASE])
    assert trainer.scalars["grad_norm"] == pytest.approx(float(big[BASE].norm()))
    assert trainer.scalars["adapter_grad_norm"] == pytest.approx(1e-3)


def test_a_step_is_adamw_with_the_rate_of_its_kind(policy: Policy) -> None:
    config = make_training(lr_sft=0.01, lr_rl=0.002, adam_beta1=0.8, adam_beta2=0.95)
    trainer = make_trainer(policy, config)
    before = flat(trainer.policy.parameters[BASE])
    m = v = torch.zeros_like(before)
    expected = before
    for t, factor in enumerate((1.0, -0.5, 2.0), 1):
        g = factor * 1e-4 * torch.arange(len(before)).double() / len(before)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        expected = expected - 0.002 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        trainer.descend(BASE, Gradient({BASE: g}), Phase("rl"))
    assert relative_error(flat(trainer.policy.parameters[BASE]) - before, expected - before) < 1e-9
    assert trainer.learning_rate(Phase("sft")) == 0.01
    assert trainer.learning_rate(Phase("joint")) == 0.002


def test_kinds_and_stages_keep_their_own_optimiser_states(policy: Policy) -> None:
    trainer = make_trainer(policy, make_training())
    phases = (Phase("rl"), Phase("sft"), Phase("sft", stage="first"))
    optimizers = [trainer.optimizer(BASE, phase) for phase in phases]
    assert len({id(o) for o in optimizers}) == 3
    assert trainer.optimizer(BASE, Phase("rl")) is optimizers[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_a_divergence(policy: Policy, bad: float) -> None:
    trainer = make_trainer(policy, make_training())
    before = flat(trainer.policy.parameters[BASE])
    gradient = torch.zeros_like(before)
    gradient[7] = bad
    with pytest.raises(DivergedError, match="gradient norm of the base weights"):
        trainer.descend(BASE, Gradient({BASE: gradient}), Phase("rl"))
    assert torch.equal(flat(trainer.policy.parameters[BASE]), before)


def test_a_loss_that_is_not_finite_is_a_divergence(policy: Policy) -> None:
    with torch.no_grad():
        next(policy.model.parameters())[:] = math.nan
    trainer = make_trainer(policy, make_training())
    with pytest.raises(DivergedError, match="the demonstration loss is nan"):
        trainer.gradient("demonstration", StepBatch(tuple(make_rows(len(policy.tokenizer)))))
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"]
    with pytest.raises(DivergedError, match="probe"):
        trainer.demonstration_loss(rows)


def test_a_loss_beyond_the_limit_is_a_divergence(policy: Policy) -> None:
    trainer = make_trainer(policy, make_training(diverged_above_loss=0.01))
    with pytest.raises(DivergedError, match="demonstration loss"):
        trainer.gradient("demonstration", StepBatch(tuple(make_rows(len(policy.tokenizer)))))


# -- what is logged -----------------------------------------------------------------------------


def test_the_cosine_is_that_of_the_two_terms(policy: Policy) -> None:
    rows = make_rows(len(policy.tokenizer))
    trainer = make_trainer(policy, make_training())
    batch = StepBatch(tuple(rows))
    pair = [trainer.gradient(term, batch).gradient.flat[BASE] for term in TERMS]
    expected = float(torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=0))
    assert trainer.scalars["grad_cosine"] == pytest.approx(expected, rel=1e-9)


def test_the_sync_gap_compares_sampler_and_trainer(policy: Policy) -> None:
    row = Row("rollout", PROBLEM, (5, 6), (7, 8), advantage=1.0)
    logprobs = [x.item() for x in row_logprobs(policy.model, row, "rl", 1.0)]
    for shift in (0.0, 0.25):
        drawn = replace(row, sampled_logprobs=tuple(x + shift for x in logprobs))
        trainer = make_trainer(policy, make_training())
        trainer.gradient("rl", StepBatch((drawn,)))
        assert trainer.scalars["sync_logprob_gap"] == pytest.approx(shift, abs=1e-6)


def test_demonstration_loss_is_the_mean_over_tokens(policy: Policy) -> None:
    rows = [r for r in make_rows(len(policy.tokenizer)) if r.kind == "demonstration"]
    with torch.no_grad():
        each = [row_logprobs(policy.model, row, "demonstration", 1.0) for row in rows]
    tokens = [float(x) for logprobs in each for x in logprobs]
    found = make_trainer(policy, make_training()).demonstration_loss(rows)
    assert found == pytest.approx(-sum(tokens) / len(tokens), rel=1e-6)
