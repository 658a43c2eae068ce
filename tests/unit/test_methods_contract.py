"""What holds for every registered method, and which methods reduce to which."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from bridge.engines import choosing
from bridge.methods.base import Method, StepStats
from bridge.methods.registry import load_method, method_names
from bridge.plan import questions
from bridge.run import loop
from bridge.run import state as session_module
from bridge.run.probes import Probes
from bridge.run.state import Run
from bridge.step import trainer as trainer_module
from bridge.step.batches import MicroBatch, StepBatch, micro_batches
from bridge.step.rows import Group, Phase, Row
from bridge.store.schema import Closed, ConfigError
from bridge.store.settings import Budget
from tests.fixtures.method_runs import (
    SHARED,
    assert_same_run,
    curve,
    kill_before_last_step,
    make_group,
    same_weights,
    train,
    weights,
)
from tests.fixtures.tiny_run import (
    METHOD_OPTIONS,
    PROBLEM,
    load_double,
    make_method,
    make_options,
    make_spec,
    make_training,
    read_lines,
)
from tests.fixtures.toy import ToyFamily

pytestmark = pytest.mark.usefixtures("no_workers")

METHODS = method_names()
TRAINED = tuple(name for name in METHODS if name != "untrained")


# -- every method -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_it_trains(base: Path, tmp_path: Path, name: str) -> None:
    spec = make_spec(base, name)
    folder = train(spec, tmp_path)
    lines = read_lines(folder.dynamics)
    n_steps = make_method(name).n_steps
    assert [line["step"] for line in lines] == list(range(n_steps + 1))
    assert json.loads(folder.done.read_text())["n_steps"] == n_steps
    for line in lines[1:]:
        assert line["kind"] in ("sft", "rl", "joint")
        assert line["grad_norm"] > 0


def shuffled(rows: tuple[Row, ...], *rest: Any) -> StepBatch:
    """A step's batch with its rows in another order."""
    return StepBatch(tuple(random.Random(0).sample(rows, len(rows))), *rest)


def padded(*arguments: Any, **named: Any) -> Iterator[MicroBatch]:
    """Micro-batches that are three columns wider than they have to be."""
    for micro in micro_batches(*arguments, **named):
        ids, targets, mask = (
            functional.pad(t, (0, 3), value=fill)
            for t, fill in ((micro.input_ids, 4), (micro.targets, 4), (micro.mask, False))
        )
        yield replace(micro, input_ids=ids, targets=targets, mask=mask)


@pytest.mark.parametrize("name", TRAINED)
def test_split_order_and_padding_do_not_change_a_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In float64 four whole runs end with the same weights, up to rounding."""
    monkeypatch.setattr(choosing, "load_policy", lambda path, **_: load_double(path))
    options = make_options(name, 2)

    def end(label: str, rows: int = 1000) -> tuple[dict[str, Tensor], list[Any]]:
        spec = make_spec(base, name, options=options, micro_batch_rows=rows, probe_every=100)
        folder = train(spec, tmp_path / label)
        return weights(folder), [norm for (norm,) in curve(folder, "grad_norm")[1:]]

    expected, norms = end("plain")
    assert all(value.dtype == torch.float64 for value in expected.values())
    found = {"split": end("split", rows=2)}
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "StepBatch", shuffled)
        found["order"] = end("order")
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "micro_batches", padded)
        found["padding"] = end("padding")
    for what, (ours, our_norms) in found.items():
        assert our_norms == pytest.approx(norms, rel=1e-9), what
        for key, value in ours.items():
            assert torch.allclose(value, expected[key], rtol=0, atol=1e-9), (what, key)


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, name: str
) -> None:
    """Byte for byte: the state of the method comes back with everything else."""
    spec = make_spec(base, name, checkpoint_every=1, probe_every=100)
    undisturbed = train(spec, tmp_path / "undisturbed")
    kill_before_last_step(spec, tmp_path / "killed")
    resumed = train(spec, tmp_path / "killed")
    assert resumed.dynamics.read_bytes() == undisturbed.dynamics.read_bytes()
    assert same_weights(resumed, undisturbed)


@pytest.mark.parametrize("name", TRAINED)
def test_it_learns(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Clearly above the base model within a second or so, whatever the processor rounds.

    Over four seeds and three instruction sets every method gained between 0.17 and 0.5; the mean of
    160 answers has a standard error of 0.04.
    """
    monkeypatch.setattr(questions, "load_family", lambda family: ToyFamily())
    spec = make_spec(
        base,
        name,
        options=make_options(name, 16),
        dataset={"train_size": 60, "validation_size": 40, "demonstrations": 30},
        n=8,
        sft_batch_size=8,
        micro_batch_rows=64,
        lr_sft=2e-3,
        lr_rl=2e-3,
        probe_every=100,
        probe_size=20,
        probe_samples=8,
    )
    reward = [r for (r,) in curve(train(spec, tmp_path), "heldout_reward") if r is not None]
    assert 0.3 <= reward[0] <= 0.7, "the base model no longer guesses; see tests/fixtures/toy.py"
    assert reward[-1] >= reward[0] + 0.1


@pytest.mark.parametrize("name", METHODS)
def test_its_options_are_closed(name: str) -> None:
    options = load_method(name).Options
    assert issubclass(options, Closed)
    with pytest.raises(ValidationError, match="Extra inputs"):
        options(**make_options(name), no_such_option=1)


@pytest.mark.parametrize("name", METHODS)
def test_only_budgets_have_no_default(name: str) -> None:
    required = {k for k, f in load_method(name).Options.model_fields.items() if f.is_required()}
    assert required <= {
        "steps",
        "sft_steps",
        "rl_steps",
        "warmup_steps",
        *METHOD_OPTIONS.get(name, ()),
    }


def test_method_files_import_without_torch(root: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from bridge.methods.registry import load_method, method_names\n"
        "print(*(load_method(name).__name__ for name in method_names()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_each_step_is_of_a_known_kind_and_takes_the_terms_of_its_kind(name: str) -> None:
    method = make_method(name)
    counts = {"rl": 3, "demonstration": 2}
    groups = (make_group([0.0] * 6, name="failed", shown=1.0), make_group([1.0, 0.0] * 3))
    for step in range(1, method.n_steps + 1):
        kind = method.phase(step).kind
        if kind != "joint":  # a joint step may take demonstrations from the stream or the groups
            assert (method.demonstrations_wanted(step) > 0) == (kind == "sft")
        a, b, kappa = (*method.mix(step, StepStats(step, groups, counts, counts)), 0.0)[:3]
        assert (a != 0 or kappa != 0) == (kind != "sft") and (b != 0) == (kind != "rl")


@pytest.mark.parametrize("name", METHODS)
def test_its_state_is_json(name: str) -> None:
    state = make_method(name).state_dict()
    assert json.loads(json.dumps(state)) == state


# -- the defaults of the base class -------------------------------------------------------------


def test_rows_carry_the_groups_advantages() -> None:
    method = make_method("mixing", make_training(norm_adv_by_std_in_grpo=False))
    rewards = (1.0, 0.0, 0.0, 1.0)
    group = Group(PROBLEM, tuple(Row("rollout", PROBLEM, (1,), (2,), reward=r) for r in rewards))
    taught = Row("demonstration", PROBLEM, (1,), (3,))
    rows = method.rows([group], [taught], 1)
    assert [row.advantage for row in rows] == [0.5, -0.5, -0.5, 0.5, 0.0]
    assert rows[-1] is taught


@pytest.mark.parametrize(
    ("kind", "expected"), [("rl", (1.0, 0.0)), ("sft", (0.0, 1.0)), ("joint", (1.0, 1.0))]
)
def test_by_default_a_step_takes_the_terms_of_its_kind(
    kind: Any, expected: tuple[float, float]
) -> None:
    class Other(Method):
        def phase(self, step: int) -> Phase:
            return Phase(kind)

    assert Other(Other.Options(), make_training()).mix(1, StepStats(1)) == expected


# -- reductions ---------------------------------------------------------------------------------


def test_mixing_with_rl_alone_is_rl_zero(base: Path, tmp_path: Path) -> None:
    mixing = train(make_spec(base, "mixing", options={"rl_weight": 1.0}), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(mixing, rl_zero)


def test_mixing_with_demonstrations_alone_is_sft_at_the_rl_rate(base: Path, tmp_path: Path) -> None:
    mixing = train(make_spec(base, "mixing", options={"rl_weight": 0.0}), tmp_path)
    sft = train(make_spec(base, "sft", lr_sft=make_training().lr_rl), tmp_path)
    assert_same_run(mixing, sft, "demonstration_loss", "grad_norm", "demo_loss_heldout")


@pytest.mark.parametrize("reference", ["base", "sft"])
def test_cold_start_without_sft_is_rl_zero(base: Path, tmp_path: Path, reference: str) -> None:
    options = {"sft_steps": 0, "rl_steps": 3, "reference": reference}
    cold = train(make_spec(base, "cold_start", options=options, kl_coef=0.1), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero", kl_coef=0.1), tmp_path)
    assert_same_run(cold, rl_zero, *SHARED, "kl")


def test_cold_start_without_rl_is_sft(base: Path, tmp_path: Path) -> None:
    options = {"sft_steps": 3, "rl_steps": 0}
    cold = train(make_spec(base, "cold_start", options=options), tmp_path)
    assert same_weights(cold, train(make_spec(base, "sft"), tmp_path))


def test_the_rl_stage_of_cold_start_has_an_optimiser_of_its_own(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RL after SFT equals RL from the checkpoint that SFT alone leaves."""
    options = {"sft_steps": 2, "rl_steps": 2}
    both = train(make_spec(base, "cold_start", options=options), tmp_path)
    first = train(make_spec(base, "sft", options={"steps": 2}), tmp_path)
    second = train(
        make_spec(first.policy, "rl_zero", options={"steps": 2}, label="second"), tmp_path
    )
    assert same_weights(both, second)


def test_sft_before_mixing_with_rl_alone_is_cold_start(base: Path, tmp_path: Path) -> None:
    options = {"sft_steps": 2, "steps": 2, "rl_weight": 1.0}
    mixing = train(make_spec(base, "mixing", options=options), tmp_path)
    stages = {"sft_steps": 2, "rl_steps": 2}
    assert same_weights(mixing, train(make_spec(base, "cold_start", options=stages), tmp_path))


def test_sft_before_bridge_without_a_teacher_is_sft_before_mixing(
    base: Path, tmp_path: Path
) -> None:
    options = {"sft_steps": 2, "steps": 2}
    fixed = make_spec(base, "bridge_no_gain", options=options | {"reading": "fixed"})
    mixing = make_spec(base, "mixing", options=options)
    assert same_weights(train(fixed, tmp_path), train(mixing, tmp_path))


def test_the_shadow_of_bridge_goes_along_with_its_sft_steps(base: Path, tmp_path: Path) -> None:
    """Nothing moves in the joint step, so any distance would be left of the SFT steps."""
    options = {"sft_steps": 2, "steps": 1}
    run = train(make_spec(base, "bridge", options=options, lr_rl=0.0), tmp_path)
    assert curve(run, "shadow_distance")[-1] == (0.0,)
    sft = train(make_spec(base, "sft", options={"steps": 2}), tmp_path)
    assert same_weights(run, sft)


@pytest.mark.parametrize("method", ["mixing", "bridge"])
def test_a_run_ends_with_the_step_that_spends_its_budget(
    base: Path, tmp_path: Path, method: str
) -> None:
    whole = train(make_spec(base, method, options={"steps": 4}, label="whole"), tmp_path)
    spent = json.loads(whole.done.read_text())["flops"]["total"]
    budget = Budget(currency="flops", amount=0.6 * spent)
    cut = train(
        make_spec(base, method, options={"steps": 400}, label="cut", budget=budget), tmp_path
    )
    done = json.loads(cut.done.read_text())
    assert 2 <= done["n_steps"] < 4
    assert budget.amount <= done["flops"]["total"] < spent
    lines = [json.loads(line) for line in cut.dynamics.read_text().splitlines()]
    assert lines[-1]["step"] == done["n_steps"] and "heldout_accuracy" in lines[-1]
    assert curve(cut, "rl_loss") == curve(whole, "rl_loss")[: done["n_steps"] + 1]


def test_the_best_policy_on_validation_problems_is_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that stopped there has the same weights; killed after the best, it still has them."""
    reached = {0: 0.9, 1: 0.2, 2: 0.5, 3: 0.5, 4: 0.3}
    original = Probes.measure

    def measure(self: Probes, step: int) -> dict[str, Any]:
        return original(self, step) | {"heldout_accuracy": reached[step]}

    monkeypatch.setattr(Probes, "measure", measure)
    common = {"keep": "best", "probe_every": 1, "checkpoint_every": 1}
    best = train(make_spec(base, "mixing", options={"steps": 4}, **common), tmp_path)
    assert json.loads(best.done.read_text())["kept_step"] == 2
    last = train(make_spec(base, "mixing", options={"steps": 2}, label="last"), tmp_path)
    assert same_weights(best, last)
    cut = make_spec(base, "mixing", options={"steps": 4}, label="cut", **common)
    with pytest.raises(RuntimeError, match="killed"), monkeypatch.context() as once:
        once.setattr(loop, "_keep_best", _killing_at(3, loop._keep_best))
        train(cut, tmp_path)
    assert same_weights(train(cut, tmp_path), last)


def _killing_at(step: int, keep: Any) -> Any:
    def kill(run: Run, line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise RuntimeError("killed")
        keep(run, line)

    return kill


@pytest.mark.parametrize("reference", ["base", "sft"])
def test_the_kl_reference_of_cold_start(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    seen: list[bool] = []
    original = Run.step
    start = load_file(base / "model.safetensors")["model.embed_tokens.weight"]

    def spy(self: Run) -> dict[str, Any]:
        line = original(self)
        assert self.trainer.reference is not None
        held = dict(self.trainer.reference.state())["model.embed_tokens.weight"]
        seen.append(torch.equal(held, start))
        return line

    monkeypatch.setattr(Run, "step", spy)
    options = {"sft_steps": 2, "rl_steps": 2, "reference": reference}
    folder = train(make_spec(base, "cold_start", options=options, kl_coef=0.1), tmp_path)
    assert seen == ([True] * 4 if reference == "base" else [True, True, False, False])
    kl = [line.get("kl") for line in read_lines(folder.dynamics)]
    assert kl[1] is kl[2] is None
    # At the first RL step the policy still is the SFT model.
    assert (kl[3] == 0.0) == (reference == "sft") and kl[4] != 0.0


def test_equal_time_takes_the_sft_stage_off_the_rl_stage() -> None:
    options = {"sft_steps": 8, "rl_steps": 10, "sft_step_cost": 0.25}
    assert make_method("cold_start", **options).n_steps == 18
    method = make_method("cold_start", budget="equal_time", **options)
    assert method.n_steps == 16
    assert [method.phase(s).kind for s in (8, 9, 16)] == ["sft", "rl", "rl"]


def test_no_time_left_for_rl_is_refused() -> None:
    method = make_method(
        "cold_start", sft_steps=100, rl_steps=10, budget="equal_time", sft_step_cost=0.25
    )
    with pytest.raises(ConfigError, match=r"^here: no time is left .* lower options\.sft_steps\.$"):
        method.check("here")


def test_alternating_begins_with_rl_and_keeps_two_states(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, Tensor]] = []
    original = Run.step

    def spy(self: Run) -> dict[str, Any]:
        line = original(self)
        state: dict[str, Tensor] = {}
        for name, optimizer in self.trainer.optimizers.items():
            for entry in optimizer.state_dict()["state"].values():
                state[name] = entry["exp_avg"].clone()
                break
        states.append(state)
        return line

    monkeypatch.setattr(Run, "step", spy)
    folder = train(make_spec(base, "alternating", options={"steps": 2}), tmp_path)
    assert [kind for (kind,) in curve(folder, "kind")] == ["probe", "rl", "sft", "rl", "sft"]
    assert set(states[0]) == {"base/main/rl"}
    sft = [s["base/main/sft"] for s in states[1:]]
    rl = [s["base/main/rl"] for s in states]
    assert torch.equal(sft[0], sft[1]) and not torch.equal(sft[1], sft[2])
    assert torch.equal(rl[0], rl[1]) and not torch.equal(rl[1], rl[2])
    rates = [lr for (lr,) in curve(folder, "lr")[1:]]
    assert rates == [1e-3, 2e-4, 1e-3, 2e-4]


def test_alternatings_first_step_is_that_of_rl_zero(base: Path, tmp_path: Path) -> None:
    alternating = train(make_spec(base, "alternating"), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert curve(alternating, *SHARED)[1] == curve(rl_zero, *SHARED)[1]


def test_bridge_without_a_teacher_rate_is_mixing_over_a_whole_run(
    base: Path, tmp_path: Path
) -> None:
    folders = [
        train(make_spec(base, name, options=options), tmp_path)
        for name, options in (
            ("bridge", {"beta_ratio": 0.0}),
            ("bridge_no_gain", {"beta_ratio": 0.0}),
            ("mixing", {}),
        )
    ]
    assert same_weights(folders[0], folders[2]) and same_weights(folders[1], folders[2])


def test_bridge_and_its_ablation_differ(base: Path, tmp_path: Path) -> None:
    options = {"beta_ratio": 50.0}
    folders = [
        train(make_spec(base, name, options=options), tmp_path)
        for name in ("bridge", "bridge_no_gain")
    ]
    assert not same_weights(*folders)
    # The gain is zero at the first step, so the ablation's RL term is the first difference.
    assert curve(folders[0], *SHARED)[1] == curve(folders[1], *SHARED)[1]


def test_bridge_logs_the_quantities_of_its_figures(base: Path, tmp_path: Path) -> None:
    lines = read_lines(train(make_spec(base, "bridge"), tmp_path).dynamics)
    assert lines[0]["cooperative_gain"] == 0.0  # the same weights and the same random numbers
    assert lines[0]["shadow_distance"] == 0.0 and lines[0]["adapter_norm"] == 0.0
    assert lines[-1]["shadow_distance"] > 0.0 and lines[-1]["adapter_norm"] > 0.0
    assert lines[1]["gain_gradient_norm"] == 0.0 and lines[2]["gain_gradient_norm"] > 0.0
