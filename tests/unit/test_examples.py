"""``examples/first_step.py`` runs, and its step is the one of ``bridge/methods/bridge.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from bridge.methods.bridge import Bridge
from bridge.step.trainer import Trainer
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from examples import first_step

ALLOWED = {"bridge.engines", "bridge.models", "bridge.step", "bridge.store", "bridge.tasks"}


def two_steps(update_by_method: bool) -> WholeWeights:
    weights = first_step.make_weights()
    trainer = Trainer(weights, first_step.TRAINING)
    options = Bridge.Options(
        steps=2, rl_weight=first_step.LAMBDA, rank=4, alpha=4, targets="all-linear"
    )
    method = Bridge(options, first_step.TRAINING)
    for step in (1, 2):
        trainer.begin_step(step, 2)
        batch = first_step.draw_batch(weights, step)
        if update_by_method:
            method.update(trainer, batch, step)
        else:
            first_step.bridge_step(trainer, batch)
    return weights


def test_the_step_is_that_of_the_method() -> None:
    mine, reference = two_steps(False), two_steps(True)
    for group in (BASE, ADAPTER, SHADOW):
        for a, b in zip(mine.parameters[group], reference.parameters[group], strict=True):
            assert torch.equal(a, b), group


def test_the_gain_is_zero_until_the_shadow_has_moved() -> None:
    weights = first_step.make_weights()
    trainer = Trainer(weights, first_step.TRAINING)
    norms = []
    for step in (1, 2):
        trainer.begin_step(step, 2)
        batch = first_step.draw_batch(weights, step)
        assert len({row.reward for row in batch.rows[:-1]}) == 2, "the rollouts teach nothing"
        norms.append(first_step.bridge_step(trainer, batch)["gain"].norm(ADAPTER))
    assert norms[0] == 0.0
    assert norms[1] > 0.0


def test_equations_are_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    first_step.main()
    lines = capsys.readouterr().out.splitlines()
    equations = [int(line.split()[1]) for line in lines if line.startswith("  eq.")]
    assert equations == 2 * [1, 3, 5, 7, 8, 9]


def test_it_imports_one_step_only() -> None:
    tree = ast.parse(Path(first_step.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    rooms = {".".join(module.split(".")[:2]) for module in modules if module.startswith("bridge")}
    assert rooms <= ALLOWED
