"""AdamW with moments of 8 bits, and moments that leave the device between the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge.models import optimizers
from bridge.models.checkpoint import CheckpointError
from bridge.models.optimizers import Kind, check_installed, make_adamw, make_step, send_to_host
from bridge.models.resuming import optimizer_tensors, restore_optimizer
from bridge.run.loop import train_run
from bridge.run.state import Run
from tests.fixtures.method_runs import same_weights, train
from tests.fixtures.tiny_run import make_base, make_spec

KINDS: tuple[Kind, ...] = ("adamw", "adamw_8bit")


def weights() -> list[nn.Parameter]:
    """One above the size from which moments have 8 bits, one below, one without a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((80, 70), (9, 5), (3,))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def made(kind: Kind, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    return make_adamw(kind, parameters, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)


def steps(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    *,
    waiting: bool = False,
    seed: int = 1,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        for parameter in parameters[:2]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        make_step(optimizer, waiting=waiting)


def kept(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return dict(optimizer_tensors("o", optimizer, lambda _, value: value))


# -- moments on the host ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weight_by_weight_a_step_is_the_same(kind: Kind) -> None:
    ends = []
    for waiting in (False, True):
        parameters = weights()
        optimizer = made(kind, parameters)
        steps(optimizer, parameters, waiting=waiting)
        ends.append((parameters, kept(optimizer)))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1].keys() == ends[1][1].keys()
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


def test_moments_of_one_weight_at_a_time_are_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the weights were on another device than the host."""
    parameters = weights()
    optimizer = made("adamw", parameters)
    steps(optimizer, parameters)
    here, seen = set[int](), list[int]()
    ids = {id(p): i for i, p in enumerate(parameters)}
    monkeypatch.setattr(optimizers, "_HOST", torch.device("meta"))
    step = optimizer.step

    def move(_: Any, parameter: Tensor, device: torch.device) -> None:
        (here.discard if device.type == "meta" else here.add)(ids[id(parameter)])

    def note() -> None:
        seen.extend(here)
        assert len(here) == 1
        step()

    monkeypatch.setattr(optimizers, "_move", move)
    monkeypatch.setattr(optimizer, "step", note)
    parameters[2].grad = torch.zeros(3)
    make_step(optimizer, waiting=True)
    assert seen == [0, 1, 2] and not here
    assert all(p.grad is None for p in parameters)


def test_moments_leave_and_the_number_of_the_step_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = weights()
    optimizer = made("adamw", parameters)
    steps(optimizer, parameters)
    monkeypatch.setattr(optimizers, "_HOST", torch.device("meta"))
    send_to_host(optimizer)
    for held in optimizer.state.values():
        assert {name: value.device.type for name, value in held.items()} == {
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
            "step": "cpu",
        }


# -- 8 bits -------------------------------------------------------------------------------------


def test_eight_bits_are_near_float32_and_a_quarter_of_its_memory() -> None:
    ends, sizes = [], []
    for kind in KINDS:
        parameters = weights()
        optimizer = made(kind, parameters)
        steps(optimizer, parameters)
        ends.append([p.detach() for p in parameters])
        sizes.append(
            sum(v.nbytes for n, v in kept(optimizer).items() if n.startswith("optimizer|o|0"))
        )
    start = [p.detach() for p in weights()]
    for before, exact, rounded in zip(start, *ends, strict=True):
        assert torch.allclose(
            rounded, exact, rtol=0, atol=0.1 * float((exact - before).abs().max())
        )
    assert torch.allclose(ends[1][1], ends[0][1], rtol=1e-6, atol=1e-7), "small ones keep float32"
    tables = 2 * 256 * 4  # of the values that 8 bits stand for
    assert sizes[1] - tables < 0.26 * sizes[0]


def test_after_a_restart_moments_of_8_bits_wait_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package would bring all of them to the device in the first step."""
    parameters = weights()
    optimizer = made("adamw_8bit", parameters)
    brought: list[Any] = []
    monkeypatch.setattr(type(optimizer), "to_gpu", brought.append)
    steps(optimizer, parameters, waiting=True)
    assert not brought


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_checkpoint_keeps_goes_on_as_if_nothing_had_been(kind: Kind) -> None:
    parameters = weights()
    optimizer = made(kind, parameters)
    steps(optimizer, parameters)
    held = {name: value.clone() for name, value in kept(optimizer).items()}
    again = [nn.Parameter(p.detach().clone()) for p in parameters]
    other = made(kind, again)
    restore_optimizer("o", other, held, lambda _, value: value)
    steps(optimizer, parameters, seed=2)
    steps(other, again, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    check_installed("adamw")
    with pytest.raises(CheckpointError, match=r"needs bitsandbytes, .* pip install .*\[memory\]"):
        check_installed("adamw_8bit")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with matrices above the size from which moments have 8 bits."""
    return make_base(tmp_path_factory.mktemp("wide") / "base", hidden=64, steps=60)


@pytest.mark.usefixtures("no_workers")
def test_a_run_with_8_bits_that_was_killed_ends_like_one_that_was_not(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With moments on the host too: that changes no byte."""
    pytest.importorskip("bitsandbytes")
    settings: dict[str, Any] = {"optimizer": "adamw_8bit", "checkpoint_every": 1}
    spec = make_spec(wide, "bridge", **settings)
    undisturbed = train(spec, tmp_path / "undisturbed")
    plain = train(make_spec(wide, "bridge"), tmp_path / "plain")
    assert not same_weights(plain, undisturbed), "the setting does something"
    step = Run.step

    def killed(self: Run) -> dict[str, Any]:
        if self.counters.step == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", killed)
        train_run(spec, results=tmp_path / "killed", threads=1)
    offloaded = make_spec(wide, "bridge", cpu_offload=True, **settings)
    resumed = train(offloaded, tmp_path / "killed")
    assert resumed.dynamics.read_bytes() == undisturbed.dynamics.read_bytes()
    assert same_weights(resumed, undisturbed)
