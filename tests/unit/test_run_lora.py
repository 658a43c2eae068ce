"""``trainable: lora``: factors beside frozen weights, for every method.

BRIDGE's whole steps on factors are compared with its equations in ``test_methods_bridge_step.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bridge.engines.factors import LoraWeights
from bridge.methods.registry import method_names
from bridge.models.checkpoint import load_policy
from bridge.step.batches import StepBatch
from bridge.step.rows import Term
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from bridge.store.records import read_json
from bridge.store.schema import ConfigError
from tests.fixtures.bridge_steps import batch_of, build, disturb, flat, relative_error, run
from tests.fixtures.method_runs import kill_before_last_step, same_weights, train, weights
from tests.fixtures.tiny_run import (
    MethodTrainer,
    load_double,
    make_method,
    make_rows,
    make_spec,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")

LORA: dict[str, Any] = {"trainable": "lora", "lora_rank": 4, "lora_alpha": 8}
TRAINED = tuple(name for name in method_names() if name not in ("mifo", "untrained"))
TERMS: tuple[Term, ...] = ("rl", "demonstration")


def lora_trainer(base: Path, dtype: torch.dtype = torch.float64, **settings: Any) -> MethodTrainer:
    config = make_training(**{**LORA, **settings})
    assert config.factors is not None
    policy = LoraWeights(load_policy(base, dtype=dtype), config.factors)
    return MethodTrainer(policy, make_method("mixing", config), config)


def lora_batch(trainer: MethodTrainer) -> StepBatch:
    return StepBatch(tuple(make_rows(len(trainer.policy.sampler.tokenizer))))


def merged(trainer: MethodTrainer) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in trainer.policy.model.named_parameters()}


# -- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
def test_the_chain_rule_leads_from_the_full_gradient_to_the_factors(base: Path, term: Term) -> None:
    """Over several micro-batches; the full gradient is that of the trainer without factors."""
    trainer = lora_trainer(base, micro_batch_rows=3)
    disturb(trainer, [BASE])
    found = trainer.gradient(term, lora_batch(trainer)).gradient.flat
    assert set(found) == {BASE}
    whole = MethodTrainer(
        WholeWeights(load_double(base)), trainer.method, make_training(micro_batch_rows=3)
    )
    for name, parameter in whole.policy.model.named_parameters():
        parameter.data.copy_(merged(trainer)[name])
    full = whole.gradient(term, lora_batch(whole)).gradient.flat[BASE]
    held = whole.policy.parameters[BASE]
    parts = full.split([p.numel() for p in held])
    dense = {n: g.view_as(p) for n, p, g in zip(whole.policy.names[BASE], held, parts, strict=True)}
    expected = []
    factors = trainer.policy.parameters[BASE]
    names = trainer.policy.names[BASE][::2]
    for name, down, up in zip(names, factors[::2], factors[1::2], strict=True):
        gradient = 2.0 * dense[name.replace(".lora_A", ".weight")]
        expected += [(up.T @ gradient).reshape(-1), (gradient @ down.T).reshape(-1)]
    assert relative_error(found[BASE], torch.cat(expected)) < 1e-12


def test_only_layers_with_factors_get_a_gradient_and_it_does_not_stay(base: Path) -> None:
    trainer = lora_trainer(base)
    model = trainer.policy.sampler.model
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"model.layers.0.{part}_proj.weight"
        for part in (
            *("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"),
            *("mlp.gate", "mlp.up", "mlp.down"),
        )
    }
    trainer.gradient("rl", lora_batch(trainer))
    assert all(p.grad is None for p in model.parameters())
    sizes = trainer.policy.sizes
    assert sizes["frozen"] == sum(p.numel() for p in model.parameters()) > 2 * sizes[BASE]


def test_with_whole_ranks_and_a_at_identity_a_step_is_that_of_full_training(base: Path) -> None:
    """W0 + B A with A = 1: B's gradient is that of W, and A's is zero while B is."""
    lora = lora_trainer(base, lora_rank=64, lora_alpha=64, max_grad_norm=1e9)
    with torch.no_grad():
        for down in lora.policy.parameters[BASE][::2]:
            down.copy_(torch.eye(64, down.shape[1]))
    config = make_training(max_grad_norm=1e9)
    whole = MethodTrainer(WholeWeights(load_double(base)), make_method("mixing", config), config)
    for trainer in (lora, whole):
        trainer.method.update(trainer, lora_batch(trainer), 1)
    ours, theirs, before = merged(lora), merged(whole), merged(lora_trainer(base))
    for name in ours:
        frozen = not name.endswith("_proj.weight")
        expected = before[name] if frozen else theirs[name]
        assert torch.allclose(ours[name], expected, rtol=0, atol=1e-12), name
        assert frozen or not torch.equal(ours[name], before[name]), name


def test_frozen_weights_are_in_the_dtype_of_the_model_and_factors_in_float32(base: Path) -> None:
    exact, rounded = (lora_trainer(base, dtype) for dtype in (torch.float32, torch.bfloat16))
    policy = rounded.policy
    assert isinstance(policy, LoraWeights)
    assert {w.dtype for w in policy._frozen.values()} == {torch.bfloat16}
    assert {b.dtype for b in policy.model.buffers()} == {torch.float32}
    assert {p.dtype for p in policy.parameters[BASE]} == {torch.float32}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ours, theirs in zip(
            exact.policy.parameters[BASE], policy.parameters[BASE], strict=True
        ):
            ours.copy_(0.1 * torch.randn(ours.shape, generator=generator))
            theirs.copy_(ours)
    for trainer in (exact, rounded):
        trainer.policy.changed()
    name, down, up = policy.names[BASE][0], *policy.parameters[BASE][:2]
    weight = name.replace(".lora_A", ".weight")
    total = torch.addmm(policy._frozen[weight].float(), up, down, alpha=2.0)
    assert torch.equal(merged(rounded)[weight], total.to(torch.bfloat16)), "rounded once"
    for term in TERMS:
        expected, found = (
            t.gradient(term, lora_batch(t)).gradient.flat[BASE] for t in (exact, rounded)
        )
        assert found.dtype == torch.float32
        assert relative_error(found, expected) < 0.1


# -- reductions of BRIDGE -----------------------------------------------------------------------


def test_bridge_without_a_teacher_rate_is_mixing(base: Path, tmp_path: Path) -> None:
    options = {"rl_weight": 0.5, "beta_ratio": 0.0}
    bridge = train(make_spec(base, "bridge", options=options, **LORA), tmp_path)
    mixing = train(make_spec(base, "mixing", options={"rl_weight": 0.5}, **LORA), tmp_path)
    assert same_weights(bridge, mixing)


def test_with_lambda_one_shadow_and_student_stay_equal_and_the_teacher_still(base: Path) -> None:
    policy = load_double(base)
    trainer = build(policy, training=make_training(**LORA), rl_weight=1.0, beta_ratio=30.0)
    teacher, student = flat(trainer, ADAPTER), flat(trainer, BASE)
    run(trainer, [batch_of(policy, seed) for seed in range(3)])
    assert torch.equal(flat(trainer, BASE), flat(trainer, SHADOW))
    assert torch.equal(flat(trainer, ADAPTER), teacher)
    assert not torch.equal(flat(trainer, BASE), student)
    assert trainer.policy.shadow_distance() == 0.0


def test_theta_and_w_begin_with_other_factors(base: Path) -> None:
    trainer = build(load_double(base), training=make_training(**LORA), rank=4)
    ours, theirs = (trainer.policy.parameters[group][0] for group in (BASE, ADAPTER))
    assert ours.shape == theirs.shape and not torch.allclose(ours, theirs)


def test_distances_are_of_what_is_added_to_the_weights(base: Path) -> None:
    """Factors that are turned together add the same."""
    trainer = build(load_double(base), training=make_training(**LORA))
    disturb(trainer, [BASE, SHADOW, ADAPTER])
    policy = trainer.policy
    with torch.no_grad():
        for group in (SHADOW, ADAPTER):
            for index, factor in enumerate(policy.parameters[group]):
                source = policy.parameters[BASE if group == SHADOW else ADAPTER][index]
                factor.copy_(source * (2.0 if index % 2 else 0.5))
    assert policy.shadow_distance() < 1e-12 < policy.adapter_norm()
    with torch.no_grad():
        policy.parameters[SHADOW][1].mul_(0.0)
    down, up = policy.parameters[BASE][:2]
    expected = float((2.0 * up @ down).norm())
    assert policy.shadow_distance() == pytest.approx(expected, rel=1e-12)


# -- whole runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_factors_and_nothing_else(
    base: Path, tmp_path: Path, name: str
) -> None:
    folder = train(make_spec(base, name, **LORA), tmp_path)
    assert all(line["grad_norm"] > 0 for line in read_lines(folder.dynamics)[1:])
    before, after = load_file(base / "model.safetensors"), weights(folder)
    moved = {n for n, value in after.items() if not torch.equal(value, before[n])}
    assert moved == {n for n in before if n.endswith("_proj.weight")}
    done = read_json(folder.done)
    assert done["n_parameters"] == sum(value.numel() for value in before.values())
    assert done["flops"]["train"] >= 6 * done["n_parameters"] * done["tokens"]["trained"]


@pytest.mark.parametrize("name", ["sft", "cold_start", "phases", "sdft", "bridge"])
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, name: str
) -> None:
    spec = make_spec(base, name, checkpoint_every=1, probe_every=100, **LORA)
    undisturbed = train(spec, tmp_path / "undisturbed")
    kill_before_last_step(spec, tmp_path / "killed")
    (checkpoint, *_) = sorted(spec.folder(tmp_path / "killed").resume.glob("step*"))[::-1]
    held = load_file(checkpoint / "tensors.safetensors")
    assert not [n for n in held if n.startswith("base|") and ".lora_" not in n]
    resumed = train(spec, tmp_path / "killed")
    assert resumed.dynamics.read_bytes() == undisturbed.dynamics.read_bytes()
    assert same_weights(resumed, undisturbed)


@pytest.mark.parametrize("setting", ["cpu_offload", "activation_checkpointing"])
def test_settings_outside_the_hash_change_no_byte(base: Path, tmp_path: Path, setting: str) -> None:
    ends = []
    for on in (False, True):
        spec = make_spec(base, "bridge", kl_coef=0.1, **LORA, **{setting: on})
        ends.append(train(spec, tmp_path / str(on)))
    assert ends[0].dynamics.read_bytes() == ends[1].dynamics.read_bytes()
    assert same_weights(*ends)


# -- refusals -----------------------------------------------------------------------------------


def test_what_cannot_train_factors_is_refused_when_planned() -> None:
    training = make_training(**LORA)
    with pytest.raises(ConfigError, match=r"here: mifo freezes single weights.* trainable: full"):
        make_method("mifo", training).check("here")
    for name in ("bridge", "bridge_no_gain"):
        with pytest.raises(ConfigError, match=r"here: options: upper: full .* trainable: lora"):
            make_method(name, training, upper="full").check("here")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora_rank": 8}, "lora_rank and lora_alpha belong to trainable: lora"),
        ({"lora_alpha": 8}, "lora_rank and lora_alpha belong to trainable: lora"),
        ({**LORA, "sharding": {"stage": "zero3"}}, "trainable: lora works in one process"),
        (
            {"optimizer": "adamw_8bit", "sharding": {"stage": "zero2"}},
            "optimizer: adamw_8bit works in one process",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_training(**settings)


def test_unused_they_are_in_no_hash() -> None:
    plain = make_training().hashed
    assert not {"trainable", "lora_rank", "lora_alpha", "optimizer"} & set(plain)
    hashes = [plain, make_training(trainable="lora").hashed]
    hashes += [make_training(trainable="lora", lora_rank=4).hashed, make_training(**LORA).hashed]
    hashes += [make_training(optimizer="adamw_8bit").hashed]
    assert all(a != b for i, a in enumerate(hashes) for b in hashes[:i])
