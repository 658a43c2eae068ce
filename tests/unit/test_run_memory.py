"""Settings that save memory: what they must not change, and that they save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bridge.engines import choosing
from bridge.models.checkpoint import load_policy
from bridge.run.loop import train_run
from bridge.step.batches import StepBatch, micro_batches
from bridge.step.gradients import Gradient, combined
from bridge.step.rows import Phase, Term
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from bridge.store.records import read_json
from tests.fixtures.slow_reference import disturbed, relative_error
from tests.fixtures.tiny_run import (
    MethodTrainer,
    load_double,
    make_base,
    make_method,
    make_rows,
    make_spec,
    make_trainer,
    make_training,
)

TERMS: tuple[Term, ...] = ("rl", "demonstration")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("memory") / "base", layers=2)


def batch_of(trainer: MethodTrainer) -> StepBatch:
    return StepBatch(tuple(make_rows(len(trainer.policy.sampler.tokenizer))))


def trainer_in(base: Path, compute: torch.dtype | None, **settings: Any) -> MethodTrainer:
    config = make_training(**settings)
    trainable = WholeWeights(load_policy(base), compute=compute)
    return MethodTrainer(trainable, make_method("mixing", config), config)


def bytes_written(base: Path, folder: Path, method: str, **settings: Any) -> tuple[bytes, bytes]:
    """The log and the weights of a short run."""
    run = make_spec(base, method, kl_coef=0.1, **settings).folder(folder)
    train_run(make_spec(base, method, kl_coef=0.1, **settings), results=folder, threads=1)
    return run.dynamics.read_bytes(), (run.policy / "model.safetensors").read_bytes()


# -- micro-batches by tokens --------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 11, 40, 100_000])
@pytest.mark.parametrize("rows", [2, 1000])
def test_a_token_budget_changes_no_gradient(base: Path, tokens: int, rows: int) -> None:
    policy = load_double(base)
    found = []
    for split in (
        {"micro_batch_rows": 3},
        {"micro_batch_rows": rows, "micro_batch_tokens": tokens},
    ):
        trainer = make_trainer(policy, make_training(**split))
        found.append([trainer.gradient(term, batch_of(trainer)) for term in TERMS])
    for expected, got in zip(*found, strict=True):
        assert got.loss == pytest.approx(expected.loss, rel=1e-12)
        assert relative_error(got.gradient.flat[BASE], expected.gradient.flat[BASE]) < 1e-12


def test_the_trainer_keeps_to_the_budget(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_double(base)
    trainer = make_trainer(policy, make_training(micro_batch_tokens=40))
    seen: list[int] = []
    score = trainer._logprob
    monkeypatch.setattr(
        trainer, "_logprob", lambda m, b, t: (seen.append(b.input_ids.numel()), score(m, b, t))[1]
    )
    batch = batch_of(trainer)
    for term in TERMS:
        trainer.gradient(term, batch)
    trainer.demonstration_loss([r for r in batch.rows if r.kind == "demonstration"])
    assert max(seen) <= 40 and len(seen) > 6


def test_sorted_rows_waste_little_on_padding(base: Path) -> None:
    policy = load_double(base)
    rows = sorted(
        make_rows(len(policy.tokenizer), n=40),
        key=lambda r: len(r.prompt_ids) + len(r.response_ids),
    )
    made = micro_batches(rows, "rl", size=64, tokens=60, pad_token_id=0, device=torch.device("cpu"))
    held = sum(micro.input_ids.numel() for micro in made)
    assert held < 1.15 * sum(len(r.prompt_ids) + len(r.response_ids) for r in rows)


# -- bfloat16 compute ---------------------------------------------------------------------------


def test_weights_gradients_and_optimiser_stay_in_float32(base: Path) -> None:
    trainer = trainer_in(base, torch.bfloat16)
    assert {p.dtype for p in trainer.policy.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in trainer.policy.model.buffers()} == {torch.float32}
    trainer.method.update(trainer, batch_of(trainer), 1)
    assert {p.dtype for p in trainer.policy.parameters[BASE]} == {torch.float32}
    (optimizer,) = trainer.optimizers.values()
    assert {s["exp_avg"].dtype for s in optimizer.state.values()} == {torch.float32}
    # A step below the spacing of bfloat16 is in the held weights and not lost.
    held = dict(zip(trainer.policy.names[BASE], trainer.policy.parameters[BASE], strict=True))
    for name, weight in trainer.policy.model.named_parameters():
        assert torch.equal(weight, held[name].to(torch.bfloat16))
    assert any(not torch.equal(p, p.to(torch.bfloat16).float()) for p in held.values())


def test_bfloat16_changes_loss_and_gradient_by_rounding_only(base: Path) -> None:
    exact, rounded = (trainer_in(base, dtype) for dtype in (None, torch.bfloat16))
    for term in TERMS:
        expected, found = (t.gradient(term, batch_of(t)) for t in (exact, rounded))
        assert found.gradient.flat[BASE].dtype == torch.float32
        assert found.loss == pytest.approx(expected.loss, rel=0.03, abs=0.02)
        # 8 bits of mantissa: 0.4 % per operation, a few operations deep.
        assert relative_error(found.gradient.flat[BASE], expected.gradient.flat[BASE]) < 0.08


def test_micro_batches_are_added_up_in_float32(base: Path) -> None:
    """The same row 300 times, one per micro-batch: in bfloat16 the sum would stall at 256."""
    trainer = trainer_in(base, torch.bfloat16, micro_batch_rows=1)
    row = next(r for r in batch_of(trainer).rows if r.kind == "demonstration")
    one = trainer.gradient("demonstration", StepBatch((row,))).gradient.flat[BASE]
    many = trainer.gradient("demonstration", StepBatch((row,) * 300)).gradient.flat[BASE]
    assert relative_error(many, one) < 0.01  # a mean over 300 equal rows; 256 of them miss 15 %


def test_the_merged_weight_is_rounded_once(base: Path) -> None:
    policy = WholeWeights(load_policy(base), adapter=(2, 4, "all-linear"), compute=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.parameters[ADAPTER]:
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    policy.changed()
    merged = dict(policy.model.named_parameters())
    name, delta = next(policy._deltas())
    held = dict(zip(policy.names[BASE], policy.parameters[BASE], strict=True))
    (weight,) = (
        p for n, p in held.items() if name.removesuffix(".weight") in n and "bias" not in n
    )
    assert torch.equal(merged[name], (weight + delta).to(torch.bfloat16))


@pytest.mark.parametrize("instructions", [True, False])
def test_a_bfloat16_run_computes_in_what_the_processor_has(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    instructions: bool,
) -> None:
    monkeypatch.setattr(choosing, "has_bfloat16", lambda: instructions)
    monkeypatch.setattr(choosing, "training_device", lambda: torch.device("cpu"))
    spec = make_spec(base, "bridge", precision="bfloat16", kl_coef=0.1, cpu_offload=True)
    assert train_run(spec, results=tmp_path, threads=1) == "done"
    saved = load_policy(spec.folder(tmp_path).policy, dtype="auto")  # type: ignore[arg-type]
    assert saved.model.dtype == (torch.bfloat16 if instructions else torch.float32)
    recorded = read_json(spec.folder(tmp_path).done)["precision"]
    assert recorded == ("bfloat16" if instructions else "float32")
    assert capfd.readouterr().err.count("this run computes in float32") == (not instructions)


# -- activation checkpointing, offload ----------------------------------------------------------


def kept_bytes(trainer: MethodTrainer) -> int:
    """Bytes that one micro-batch's forward pass keeps for its backward pass."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in trainer.policy.model.parameters()}
    micro = trainer._micro_batches(
        [r for r in batch_of(trainer).rows if r.kind == "rollout"], "rl"
    )[0]
    with trainer.collecting(), saved_tensors_hooks(note, lambda tensor: tensor):
        kept = trainer._logprob(trainer.policy.score, micro, "rl")
    assert kept.requires_grad
    return sum(size for pointer, size in held.items() if pointer not in weights)


def test_checkpointing_keeps_less_and_only_while_a_gradient_is_taken(base: Path) -> None:
    plain, recomputed = (
        trainer_in(base, None, activation_checkpointing=on, micro_batch_rows=64)
        for on in (False, True)
    )
    assert kept_bytes(recomputed) < 0.5 * kept_bytes(plain)
    assert not any(m.training for m in recomputed.policy.model.modules())


@pytest.mark.parametrize("setting", ["activation_checkpointing", "cpu_offload"])
@pytest.mark.parametrize("method", ["bridge", "rl_zero"])
def test_settings_outside_the_hash_change_no_byte(
    base: Path, tmp_path: Path, method: str, setting: str
) -> None:
    plain = bytes_written(base, tmp_path / "plain", method)
    assert bytes_written(base, tmp_path / "saving", method, **{setting: True}) == plain


def test_a_forked_shadow_on_the_host_changes_no_byte(base: Path, tmp_path: Path) -> None:
    options = {"shadow": "lookahead", "upper": "base"}
    found = []
    for offload in (False, True):
        folder = tmp_path / str(offload)
        spec = make_spec(base, "bridge", options=options, cpu_offload=offload)
        train_run(spec, results=folder, threads=1)
        found.append(spec.folder(folder).dynamics.read_bytes())
    assert found[0] == found[1]


def test_a_shadow_on_the_host_is_no_part_of_the_model_that_runs(base: Path) -> None:
    policy = WholeWeights(load_policy(base), shadow=True, shadow_on_host=True)
    trainer = MethodTrainer(policy, make_method("mixing", make_training()), make_training())
    running = {p.data_ptr() for p in policy.model.parameters()}
    assert running.isdisjoint(p.data_ptr() for p in policy.parameters[SHADOW])
    direction = Gradient(trainer.gradient("rl", batch_of(trainer)).gradient.flat)
    trainer.descend(SHADOW, direction, Phase("joint"))
    before = [p.clone() for p in policy.parameters[BASE]]
    with policy.shadow_active():
        shadow = {n: p.clone() for n, p in policy.model.named_parameters()}
        assert {p.data_ptr() for p in policy.model.parameters()} == running
    assert any(not torch.equal(shadow[n], p) for n, p in policy.model.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters[BASE], strict=True))


def test_the_reference_is_on_the_device_only_while_it_is_asked(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = disturbed(load_double(base), 0.02)
    trainer = make_trainer(load_double(base), make_training(kl_coef=0.3), reference=reference)
    events: list[str] = []
    to, logprob = reference.model.to, trainer._logprob
    monkeypatch.setattr(reference.model, "to", lambda d: (events.append("move"), to(d))[1])
    monkeypatch.setattr(
        trainer,
        "_logprob",
        lambda score, *rest: (
            events.append("policy" if score == trainer.policy.score else "reference"),
            logprob(score, *rest),
        )[1],
    )
    trainer.gradient("rl", batch_of(trainer))
    first, last = events.index("move"), len(events) - 1 - events[::-1].index("move")
    assert set(events[first + 1 : last]) == {"reference"}
    assert set(events[last + 1 :]) == {"policy"}


# -- gradients in place -------------------------------------------------------------------------


def test_a_weighted_sum_of_gradients_needs_no_further_memory() -> None:
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])]
    terms = [(w, Gradient({BASE: p}, spare=True)) for w, p in zip((0.5, 0.1), parts, strict=True)]
    total = combined(*terms)
    assert total.flat[BASE].tolist() == [1.5, 3.0] and total.spare
    assert total.flat[BASE].data_ptr() == parts[0].data_ptr()
    with pytest.raises(AssertionError, match="belongs to somebody else"):
        combined((1.0, Gradient({BASE: parts[0]})))
