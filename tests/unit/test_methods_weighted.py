"""SFT with weighted tokens: the weights, whole gradients against autograd, the reductions."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bridge.methods import divergences
from bridge.methods.sed_sft import threshold_of
from bridge.methods.weighted import WeightedSFT
from bridge.models.checkpoint import CheckpointError, Policy, load_policy, weights_hash
from bridge.plan.questions import checked_dataset
from bridge.step import scoring
from bridge.step.rows import Row, demonstration_row
from bridge.store.records import RecordError
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_distributions,
    same_weights,
    train,
)
from tests.fixtures.tiny_run import load_double, make_method, make_spec, make_training

pytestmark = pytest.mark.usefixtures("no_workers")

P = torch.tensor([0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99], dtype=torch.float64)


def make(name: str, **options: Any) -> Any:
    method = make_method(name, make_training(micro_batch_rows=3), **options)
    assert isinstance(method, WeightedSFT)
    return method


# -- the weight ---------------------------------------------------------------------------------

TABLE = {
    "dft": [0.010, 0.050, 0.100, 0.250, 0.500, 0.750, 0.900, 0.990],
    "idft, g = .1": [0.631, 0.741, 0.794, 0.871, 0.933, 0.972, 0.990, 0.999],
    "idft, g = 2": [0.000, 0.003, 0.010, 0.063, 0.250, 0.563, 0.810, 0.980],
    "sed_sft, m = 1": [1.010, 1.045, 1.080, 1.125, 1.000, 0.625, 0.280, 0.030],
    "psft, p_old = p": [1.0] * 8,
}
"""c_t at the probabilities P, as in docs/methods/README.md."""


def weight_at(row: str) -> Tensor:
    name, _, setting = row.partition(", ")
    entropy = {"g = .1": 9.0, "g = 2": -9.0}.get(setting, 0.0)  # far enough for the bound
    method = make(name)
    method.threshold = 0.9
    columns = {
        "entropy": torch.full_like(P, entropy),
        "topk_mass": torch.full_like(P, 0.5),
        "reference": P.log(),
    }
    return method.weight(P.log(), columns)


@pytest.mark.parametrize("row", TABLE)
def test_the_weight_at_eight_probabilities(row: str) -> None:
    assert weight_at(row).tolist() == pytest.approx(TABLE[row], abs=6e-4)


def test_dft_is_trsft_with_its_bound_at_one() -> None:
    """TRAPO's weight is min(1, p / alpha)."""
    assert torch.equal(make("dft").weight(P.log(), {}), (P.log().exp() / 1.0).clamp(max=1.0))


def test_psft_leaves_a_token_alone_that_has_grown_enough() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.27, 1.29, 3.0], dtype=torch.float64)
    old = torch.full_like(ratio, 0.2)
    c = make("psft").weight((ratio * old).log(), {"reference": old.log()})
    assert c.tolist() == pytest.approx([0.5, 1.0, 1.27, 0.0, 0.0])


@pytest.mark.parametrize(("entropy", "expected"), [(math.log(20), 1.0), (0.0, 0.0)])
def test_eaft_between_a_sure_and_an_open_token(entropy: float, expected: float) -> None:
    c = make("eaft", norm="ln_k").weight(P.log(), {"topk_entropy": torch.full_like(P, entropy)})
    assert c.tolist() == pytest.approx([expected] * 8)


def test_eaft_divides_by_three() -> None:
    entropy = torch.tensor([0.1, 0.3, 0.5, 1.0, 2.0], dtype=torch.float64)
    c = make("eaft").weight(entropy, {"topk_entropy": entropy})
    assert c.tolist() == pytest.approx([0.03, 0.10, 0.17, 0.33, 0.67], abs=5e-3)


def test_sed_sft_spares_tokens_only_where_the_distribution_is_open() -> None:
    method = make("sed_sft")
    method.threshold = 0.5
    mass = torch.tensor([0.4, 0.5, 0.6, 0.4, 0.5, 0.6, 0.4, 0.5])
    c = method.weight(P.log(), {"topk_mass": mass})
    assert ((c != 1.0) == (mass < 0.5)).logical_or(P == 0.5).all()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 1.0])
def test_the_threshold_leaves_a_share_of_the_calibration_tokens_above(ratio: float) -> None:
    masses = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    threshold = threshold_of(masses, ratio).item()
    assert sum(mass >= threshold for mass in masses) / 200 == pytest.approx(ratio)


def pear_weight(d: list[float], **options: Any) -> list[float]:
    logprob = torch.tensor(d, dtype=torch.float64)
    found: list[float] = make("pear", **options).weight(
        logprob, {"teacher": torch.zeros_like(logprob)}
    )
    return torch.as_tensor(found).tolist()


def test_pear_weighs_a_token_with_what_comes_after_it() -> None:
    d = [0.1, 0.2, -0.05, 0.3, 0.0]
    g = 0.9
    expected = [g ** (4 - t) * math.exp(sum(d[t + 1 :])) for t in range(5)]
    assert pear_weight(d, gamma=g) == pytest.approx(expected)
    assert expected[-1] == 1.0
    assert pear_weight(d, gamma=g, form="block", block_size=1) == pytest.approx(expected)
    blocks = [g**2 * math.exp(0.25)] * 2 + [g * math.exp(0.0)] * 2 + [1.0]
    assert pear_weight(d, gamma=g, form="block", block_size=2) == pytest.approx(blocks)
    assert pear_weight(d, form="sequence") == pytest.approx([math.exp(0.55)] * 5)


def test_pear_clips_each_ratio_and_the_whole() -> None:
    assert pear_weight([5.0, 5.0, -5.0], gamma=1.0) == pytest.approx(
        [math.exp(0.3 - 0.08), math.exp(-0.08), 1.0]
    )
    falling = pear_weight([-1.0] * 200, gamma=1.0)
    assert min(falling) == pytest.approx(math.exp(-10)) and falling[-1] == 1.0
    assert max(pear_weight([1.0] * 30, gamma=1.0)) == pytest.approx(math.exp(5))


# -- the whole gradient -------------------------------------------------------------------------


def demonstrations() -> list[Row]:
    groups = [make_group([], name=f"d{i}", shown=1.0, seed=i) for i in range(5)]
    return [group.demonstration for group in groups if group.demonstration is not None]


def moved(base: Path) -> Policy:
    """The base model after a step in a random direction."""
    policy = load_double(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def entropy_of(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def top(log_p: Tensor, k: int) -> Tensor:
    return log_p.sort(-1, descending=True).values[:, :k]


WRITTEN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    # of log p_t, all log-probs at t, and the other policy's log p_t
    "dft": lambda own, every, other: own.exp(),
    "idft": lambda own, every, other: (
        own.exp() ** ((-(own + entropy_of(every))).exp().clamp(0.1, 2.0))
    ),
    "psft": lambda own, every, other: torch.where(
        (own - other).exp() <= 1.28, (own - other).exp(), 0.0
    ),
    "eaft": lambda own, every, other: entropy_of(top(every, 20).log_softmax(-1)) / 3.0,
    "sed_sft": lambda own, every, other: (
        1 - 2 * (top(every, 10).exp().sum(-1) < 0.9) * own.exp() * (own.exp() - 0.5)
    ),
    "pear": lambda own, every, other: torch.stack(
        [
            0.999 ** (len(own) - 1 - t) * (own - other).clamp(-0.08, 0.3)[t + 1 :].sum().exp()
            for t in range(len(own))
        ]
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_gradient_is_that_of_the_written_loss(base: Path, name: str) -> None:
    policy, other = load_double(base), moved(base)
    rows = demonstrations()
    others = [
        row_distributions(other, row).gather(1, torch.tensor(row.response_ids)[:, None])[:, 0]
        for row in rows
    ]
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for row, theirs in zip(rows, others, strict=True):
        every = row_distributions(policy, row)
        own = every.gather(1, torch.tensor(row.response_ids)[:, None])[:, 0]
        total = total - (WRITTEN[name](own, every, theirs).detach() * own).sum()
        n_tokens += len(own)
    expected = flat_gradient(policy, total / n_tokens)
    method = make(name)
    method.threshold = 0.9
    method.teacher = {r.problem.id: o.detach() for r, o in zip(rows, others, strict=True)}
    found = direction(policy, method, (), rows, reference=other)
    assert relative_distance(found, expected) < 1e-9


@pytest.mark.parametrize("at_once", [2**26, 64])
@pytest.mark.parametrize("likelihood", ["p", "1"])
def test_the_gradient_of_asft_is_that_of_the_written_loss(
    base: Path, monkeypatch: pytest.MonkeyPatch, likelihood: str, at_once: int
) -> None:
    """Also where logits are made in chunks."""
    for module in (divergences, scoring):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
    policy, reference, rows = load_double(base), moved(base), demonstrations()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        log_p, log_q = row_distributions(policy, row), row_distributions(reference, row).detach()
        own = log_p.gather(1, torch.tensor(row.response_ids)[:, None])[:, 0]
        c = own.detach().exp() if likelihood == "p" else torch.ones_like(own)
        total = total - (c * own).sum() + 0.3 * (log_q.exp() * (log_q - log_p)).sum()
    expected = flat_gradient(policy, total / sum(len(row.response_ids) for row in rows))
    method = make("asft", anchor=0.3, likelihood=likelihood)
    found = direction(policy, method, (), rows, reference=reference)
    assert relative_distance(found, expected) < 1e-9


def test_at_the_reference_asft_has_the_gradient_of_dft(base: Path) -> None:
    rows = demonstrations()
    asft, dft = (
        direction(load_double(base), make(name, **options), (), rows, reference=load_double(base))
        for name, options in (("asft", {"anchor": 1.0}), ("dft", {}))
    )
    assert relative_distance(asft, dft) < 1e-12


# -- reductions ---------------------------------------------------------------------------------

CLIPPED: dict[str, Any] = {"d_low": 0.0, "d_high": 0.0, "gamma": 1.0}
TO_SFT: list[tuple[str, dict[str, Any]]] = [
    ("idft", {"g_min": 0.0, "g_max": 0.0}),
    ("psft", {"refresh_every": 1}),
    ("eaft", {"alpha": 0.0}),
    ("sed_sft", {"penalty": 0.0}),
    ("pear", CLIPPED),
    ("asft", {"anchor": 0.0, "likelihood": "1"}),
]


@pytest.mark.parametrize(("name", "options"), TO_SFT)
def test_it_is_sft(base: Path, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Bit for bit."""
    weighted = train(make_spec(base, name, options=options), tmp_path)
    sft = train(make_spec(base, "sft"), tmp_path)
    assert_same_run(weighted, sft, "demonstration_loss", "grad_norm", "demo_loss_heldout")
    assert curve(weighted, "token_weight_mean", "token_weight_p10")[1:] == [(1.0, 1.0)] * 3


@pytest.mark.parametrize(
    ("name", "options"), [("idft", {"g_min": 1.0, "g_max": 1.0}), ("asft", {"anchor": 0.0})]
)
def test_it_is_dft(base: Path, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Bit for bit, and DFT is not SFT."""
    dft = train(make_spec(base, "dft"), tmp_path)
    assert same_weights(train(make_spec(base, name, options=options), tmp_path), dft)
    assert not same_weights(dft, train(make_spec(base, "sft"), tmp_path))


def test_the_anchor_is_zero_at_first(base: Path, tmp_path: Path) -> None:
    (first,), *others = curve(train(make_spec(base, "asft"), tmp_path), "ref_kl_loss")[1:]
    assert first == pytest.approx(0.0, abs=1e-7) and all(kl > 0 for (kl,) in others)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_with_an_rl_stage_it_is_cold_start(base: Path, tmp_path: Path, kl_coef: float) -> None:
    options = {"steps": 2, "rl_steps": 2, "refresh_every": 1}
    psft = train(make_spec(base, "psft", options=options, kl_coef=kl_coef), tmp_path)
    options = {"sft_steps": 2, "rl_steps": 2}
    cold = train(make_spec(base, "cold_start", options=options, kl_coef=kl_coef), tmp_path)
    assert_same_run(psft, cold, "stage", "kind", "rl_loss", "kl", "heldout_accuracy")


def test_psft_moves_its_old_policy_every_so_many_steps() -> None:
    method = make("psft", steps=7, rl_steps=3, refresh_every=3)
    assert [s for s in range(1, 11) if method.reanchor_reference(s)] == [1, 4, 7, 8]


def test_pear_at_its_teacher_weighs_by_distance_alone() -> None:
    logprob = torch.randn(4, dtype=torch.float64)
    found = make("pear", gamma=0.5).weight(logprob, {"teacher": logprob})
    assert found.tolist() == pytest.approx([0.125, 0.25, 0.5, 1.0])


# -- what is logged -----------------------------------------------------------------------------


def test_idft_logs_phi_of_demonstrations_and_of_own_samples(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "idft", probe_size=8, dataset={"validation_size": 48})
    folder = train(spec, tmp_path)
    phi = curve(folder, "phi_demonstrations", "phi_own_samples")
    assert phi[0][0] is None and all(shown is not None for shown, _ in phi[1:])
    own = [sampled for _, sampled in phi if sampled is not None]
    assert len(own) == 2  # at the probes: before the first step and after the last
    assert max(map(abs, own)) < 0.4  # mean 0; the demonstrations are off-policy
    assert phi[1][0] < -0.5


# -- refusals -----------------------------------------------------------------------------------


def test_top_k_above_the_vocabulary_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^options\.top_k is 5000, but .* has \d+ tokens; lower"):
        train(make_spec(base, "eaft", options={"top_k": 5000}), tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("idft", {"g_min": 3.0}, "options.g_min is 3.0, above options.g_max 2.0; lower it."),
        ("pear", {"d_low": 0.4}, "options.d_low is above options.d_high; lower it."),
        ("pear", {"teacher": "x"}, "go together; give both or neither."),
        ("pear", {"block_size": 8}, "belongs to form: block; leave it out."),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(name, **options).check("here")


def test_asft_is_for_one_process() -> None:
    training = make_training(sharding={"stage": "zero2"})
    with pytest.raises(ConfigError, match=r"needs one process; set training\.sharding\.stage"):
        make_method("asft", training).check("here")


def test_columns_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    """Each has a file of its own; whoever exchanges them is told."""
    folder = train(make_spec(base, "sed_sft"), tmp_path)
    (own,) = folder.columns().glob("*.safetensors")
    train(make_spec(base, "sed_sft", seed=1), tmp_path)
    assert list(folder.columns().glob("*.safetensors")) == [own]
    other = train(make_spec(base, "sft"), tmp_path).policy
    train(make_spec(other, "sed_sft"), tmp_path)
    (second,) = set(folder.columns().glob("*.safetensors")) - {own}
    shutil.copy(own, second)
    with pytest.raises(RecordError, match=r"was computed from another model .* delete it"):
        train(make_spec(other, "sed_sft", seed=1), tmp_path)
    own.write_bytes(b"\0" * 16)
    with pytest.raises(RecordError, match=r"is damaged .* delete it"):
        train(make_spec(base, "sed_sft", seed=2), tmp_path)


def of_teacher(folder: Path, **options: Any) -> dict[str, Any]:
    return {"teacher": str(folder), "teacher_hash": weights_hash(folder), **options}


def test_pear_reads_its_teacher_once(base: Path, tmp_path: Path) -> None:
    teacher = train(make_spec(base, "sft", lr_sft=1e-2), tmp_path).policy
    spec = make_spec(base, "pear", options=of_teacher(teacher))
    folder = train(spec, tmp_path)
    (column,) = map(load_file, folder.columns().glob("*.safetensors"))
    assert not same_weights(folder, train(make_spec(base, "pear", label="self"), tmp_path))
    policy = load_policy(teacher)
    problem = checked_dataset(spec).demonstrations[0]
    row = demonstration_row(policy, problem)
    expected = row_distributions(policy, row).gather(1, torch.tensor(row.response_ids)[:, None])
    assert column[problem.id].tolist() == pytest.approx(expected[:, 0].tolist(), abs=1e-5)


def test_a_teacher_with_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(base, tmp_path / "teacher")
    path = teacher / "tokenizer.json"
    text = path.read_text()
    assert text.count('"find": ') == 1 and text.count('"mod": ') == 1
    swapped = text.replace('"find": ', '"x": ').replace('"mod": ', '"find": ')
    path.write_text(swapped.replace('"x": ', '"mod": '))
    with pytest.raises(CheckpointError, match=r"other tokens of problem .* same tokenizer"):
        train(make_spec(base, "pear", options=of_teacher(teacher)), tmp_path)


def test_another_teacher_than_the_one_named_is_refused(base: Path, tmp_path: Path) -> None:
    options = of_teacher(base, teacher_hash="0" * 16)
    with pytest.raises(CheckpointError, match=r"teacher_hash is 0{16}, but .* has [0-9a-f]{16}"):
        train(make_spec(base, "pear", options=options), tmp_path)
